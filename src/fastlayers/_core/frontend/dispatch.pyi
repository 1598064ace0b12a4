from collections.abc import Callable, Mapping
from typing import Any

from ...reference import add as add
from ...reference import add_backward as add_backward
from ...reference import multiply as multiply
from ...reference import multiply_backward as multiply_backward
from ...reference import multiply_to_operand as multiply_to_operand
from ...reference import negative as negative
from ...reference import negative_backward as negative_backward
from ...reference import subtract as subtract
from ...reference import subtract_backward as subtract_backward
from ...reference import sum_to_operand as sum_to_operand

by_numpy: Mapping[str, Callable[..., Any]]
functions: Mapping[str, Callable[..., Any]]
