# cython: binding=False
"""Passes: parts of a graph that are run in one pass over memory."""

cimport numpy as cnp
from cpython.object cimport PyObject
from cpython.sequence cimport PySequence_Fast_ITEMS
from cpython.tuple cimport PyTuple_New
from libc.string cimport memset

from ..program.operations cimport assemble, find_dtypes_of
from ..program.program cimport (
    FLOAT32, FLOAT64, MAX_RESULTS, MAX_SHARES, MAX_SUBTREES, MAX_TOTALS, Share,
)
from .dtypes cimport Operand, describe_shape
from .execute cimport Given, begin, execute
from .fp cimport UNSTOPPABLE, exceptions_to_stop_before
from .ndarray cimport PyTuple_GET_ITEM, set_item
from .results cimport sum_of_units

cnp.import_array()

import numpy as np

SCALARS = {FLOAT32: np.float32, FLOAT64: np.float64}

# What a pass returns if NumPy must warn, for which the nodes are run one by one: the pass itself
# would do the same again, where it returns None with other outputs.
WARNS = object()


cdef class Pass:
    """Steps that are run tile by tile, with all between them in the caches.

    Parameters
    ----------
    inputs, results : tuple of hashable
        Names of the values that the steps read and compute. A result may also be 1 or -1: the sum
        of as many of these as there are elements. Or None: what the next step adds up that sums all
        elements.
    steps : list of tuple
        An operation's number, then the names of what it reads and what it writes.
    sources : sequence of int
        Where each input is found among the values that `run` is given.
    sum_to : sequence of int
        For each result where the operand is found to whose shape it is summed, -1 if to none.
    constants : tuple of numbers
        What stands behind the operands among the values.
    layouts : dict, optional
        Of a pass over whole rows: how the values lie, see `assemble`.
    ordered : bool, optional
        Whether to serve arrays in C order alone.

    Attributes
    ----------
    numbers : callable or None
        If the pass is a whole plan: computes, from the operands, the numbers that stand behind the
        constants, a tuple; None where it cannot.
    """

    def __init__(
        self, tuple inputs, tuple results, list steps, sources, sum_to, tuple constants,
        dict layouts=None, bint ordered=False,
    ):
        cdef int slot
        self.numbers = None
        self.constants = constants
        self.constant_count = <int> len(constants)
        cdef int computed = 0
        names = tuple([name for name in results if isinstance(name, str)])
        if not (names or None in results) or len(results) > MAX_RESULTS:
            raise ValueError("no results, or too many for one pass")
        assemble(&self.program, inputs, names, steps, layouts)
        self.steps = steps
        find_dtypes_of(&self.program)
        self.program.shaped = True
        self.program.ordered = ordered
        self.summing = False
        for slot in range(self.program.inputs):
            self.sources[slot] = sources[slot]
        self.result_count = <int> len(results)
        self.counting = self.result_count > self.program.results
        for slot in range(self.result_count):
            self.unit[slot] = results[slot] if isinstance(results[slot], int) else 0
            self.is_total[slot] = results[slot] is None
            if self.is_total[slot]:
                continue
            if self.unit[slot]:
                self.count_to[slot] = sum_to[slot]
            else:
                self.sum_to[computed] = sum_to[slot]
                self.summing |= sum_to[slot] >= 0
                computed += 1

    def refuse_integers(self):
        """Serve floats alone: of integers something that the pass does not compute is a float."""
        self.program.dtypes &= <unsigned int> 1 << FLOAT32 | <unsigned int> 1 << FLOAT64

    def run(self, list values, outs=None, list rest=None):
        """Return the results, a tuple; None where the pass is not served, `WARNS` where NumPy must.

        Parameters
        ----------
        values : list
            The operands, and whatever else the pass reads.
        outs : sequence of (ndarray or None), or None
            Where the results go.
        rest : list or None
            If a list, results may lie where operands do. It gets a pair ``(start, stop)`` for each
            part of the results, in the order of memory, that was not written because NumPy must
            warn of it. The operands are still whole there.
        """
        return self.as_tuple(self.run_on(PySequence_Fast_ITEMS(values), outs, rest))

    cdef object run_on(self, PyObject **values, outs, list rest):
        """`run` of what Entry has at hand; a single result without its tuple."""
        cdef Given given
        cdef Share shares[MAX_SHARES]
        cdef double totals[MAX_TOTALS][MAX_SUBTREES]
        cdef bint warned = False
        cdef int slot
        begin(&given)
        given.summing = self.summing
        given.totals = totals
        for slot in range(self.program.inputs):
            given.operands[slot] = values[self.sources[slot]]
        for slot in range(self.program.results):
            given.sum_to[slot] = values[self.sum_to[slot]] if self.sum_to[slot] >= 0 else NULL
            given.outs[slot] = NULL
        if outs is not None:
            if self.program.totals:
                return None
            given.has_outs = True
            given.heeded = exceptions_to_stop_before()
            if given.heeded == UNSTOPPABLE or not self.take_outs(outs, &given):
                return None
            if rest is not None:
                memset(shares, 0, sizeof(shares))
                given.shares = shares
        results = execute(&self.program, &given, &warned)
        if results is None:
            return None
        if warned:
            if given.shares != NULL:
                for slot in range(MAX_SHARES):
                    if shares[slot].reached < shares[slot].stop:
                        rest.append((shares[slot].reached, shares[slot].stop))
            if not rest:
                return WARNS
        return self.with_counts(results, &given, values) if self.counting else results

    cdef bint take_outs(self, outs, Given *given):
        """Note where results go; False if they cannot be computed there."""
        cdef int slot
        cdef int computed = 0
        if len(outs) != self.result_count:
            return False
        for slot in range(self.result_count):
            if self.unit[slot]:
                if outs[slot] is not None:
                    return False
                continue
            if outs[slot] is not None:
                if self.sum_to[computed] >= 0:
                    return False
                given.outs[computed] = <PyObject *> outs[slot]
            computed += 1
        return True

    cdef tuple with_counts(self, results, const Given *given, PyObject **values):
        """The results of the program, and those that take no step."""
        cdef Operand operand
        cdef PyObject *like
        cdef int slot
        cdef int computed = 0
        cdef int total = 0
        every = PyTuple_New(self.result_count)
        for slot in range(self.result_count):
            if self.is_total[slot]:
                one = SCALARS[<int> given.dtype](given.totals[total][0])
                total += 1
            elif self.unit[slot]:
                like = values[self.count_to[slot]]
                describe_shape(like, &operand)
                one = sum_of_units(
                    given.dtype, self.unit[slot], given.elements, like, &operand)
            else:
                one = results
                if self.program.results != 1:
                    one = <object> PyTuple_GET_ITEM(results, computed)
                computed += 1
            set_item(every, slot, one)
        return every

    cdef object as_tuple(self, results):
        if results is None or results is WARNS or self.result_count > 1 or self.counting:
            return results
        return (results,)

    cdef bint reads(self, int slot) noexcept:
        """Whether the value at a slot is an input of the pass."""
        cdef int i
        for i in range(self.program.inputs):
            if self.sources[i] == slot:
                return True
        return False
