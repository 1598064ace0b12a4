"""The layers that users import: the plain ones, computing with `fastlayers.functions`."""

from . import functions, reference
from .elementwise import computing


@computing(functions.multiply, functions.multiply_backward)
class MulLayer(reference.MulLayer):
    __doc__ = reference.MulLayer.__doc__


@computing(functions.add, functions.add_backward)
class AddLayer(reference.AddLayer):
    __doc__ = reference.AddLayer.__doc__
