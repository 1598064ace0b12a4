# cython: binding=False
"""Passes: parts of a graph that are run in one pass over memory."""

cimport numpy as cnp
from cpython.object cimport PyObject
from cpython.sequence cimport PySequence_Fast_ITEMS
from cpython.tuple cimport PyTuple_New
from libc.string cimport memset

from ..program.operations cimport assemble, find_dtypes_of
from ..program.program cimport (
    FLOAT32, FLOAT64, MAX_RESULTS, MAX_SHARES, MAX_SUBTREES, MAX_TOTALS, UNSERVED, DType, Share,
)
from .dtypes cimport Operand, array_dtype, describe_shape, has_axes
from .execute cimport Given, begin, execute
from .fp cimport UNSTOPPABLE, exceptions_to_stop_before
from .ndarray cimport Array, PyTuple_GET_ITEM, set_item
from .results cimport sum_of_units

cnp.import_array()

import numpy as np

from ..program import operations

cdef extern from "clock.h" nogil:
    double clock_seconds()

cdef extern from "shared.h" nogil:
    double load_double(double *variable)
    void store_double(double *variable, double value)
    void store_pointer(void **variable, void *value)

# Who compiles loops for passes, if anybody does: called with a pass and the letter of a dtype.
# Whether before the first call, or once a pass has taken as many seconds a step as compiling takes.
cdef object compiler = None
cdef bint at_once = False
cdef double seconds_a_step = 0


def set_compiler(function, bint immediately=False):
    """Have loops compiled, or not if that is None; return who did so before, and when."""
    global compiler, at_once
    before = compiler, at_once
    compiler = function
    at_once = immediately
    return before


def set_compile_seconds(double seconds):
    """Note how long it takes to compile a step."""
    store_double(&seconds_a_step, seconds)


SCALARS = {FLOAT32: np.float32, FLOAT64: np.float64}

# What a pass returns if NumPy must warn, for which the nodes are run one by one: the pass itself
# would do the same again, where it returns None with other outputs.
WARNS = object()


cdef class CompiledProgram:
    """The program of a pass, with loops that were compiled while the program runs."""


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
    singles : frozenset of str, optional
        The inputs that have one element.

    Attributes
    ----------
    numbers : callable or None
        If the pass is a whole plan: computes, from the operands, the numbers that stand behind the
        constants, a tuple; None where it cannot.
    """

    def __init__(
        self, tuple inputs, tuple results, list steps, sources, sum_to, tuple constants,
        dict layouts=None, bint ordered=False, frozenset singles=frozenset(),
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
        self.inputs = inputs
        self.names = names
        self.steps = steps
        self.layouts = layouts
        self.singles = singles
        self.compiled = []
        self.offered = 0
        self.spent = 0
        self.timed = compiler is not None and len(steps) > 1
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

    def take_compiled(self, str letter, list steps):
        """From now on, run these steps instead, for a dtype: they give the same bits."""
        cdef CompiledProgram made = CompiledProgram()
        cdef tuple numbers = tuple([
            self.program.constant[slot] for slot in range(self.program.constants)])
        cdef int dtype = operations.FLOATS[letter]
        assemble(&made.program, self.inputs, self.names, steps, self.layouts, numbers)
        made.program.foreign = self.program.foreign
        made.program.owner = self.program.owner
        made.program.shaped = self.program.shaped
        made.program.ordered = self.program.ordered
        made.steps = steps
        self.compiled.append(made)
        store_pointer(<void **> &self.program.compiled[dtype], &made.program)

    cdef int note_call(self, DType dtype, double start) except -1:
        """Note how long a call took, and have the steps compiled if that is worth it by now."""
        if dtype not in (FLOAT32, FLOAT64) or self.offered >> dtype & 1 or compiler is None:
            return 0
        if not self.timed:  # which ended with another dtype
            self.timed = True
            return 0
        self.spent += clock_seconds() - start
        if self.spent > self.program.step_count * load_double(&seconds_a_step):
            self.offer(dtype)
        return 0

    cdef int offer(self, DType dtype) except -1:
        if compiler is not None and not self.offered >> dtype & 1:
            self.offered |= <unsigned int> 1 << dtype
            self.timed = False
            self.spent = 0
            compiler(self, "f" if dtype == FLOAT32 else "d")
        return 0

    cdef DType dtype_of(self, PyObject **values) noexcept:
        """That of the first array among the inputs."""
        cdef int slot
        for slot in range(self.program.inputs):
            if has_axes(values[self.sources[slot]]):
                return array_dtype(<Array *> values[self.sources[slot]])
        return UNSERVED

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
        cdef double start = 0
        cdef DType dtype
        cdef int slot
        if at_once and self.program.step_count > 1:
            dtype = self.dtype_of(values)
            if dtype == FLOAT32 or dtype == FLOAT64:
                self.offer(dtype)
        if self.timed:
            start = clock_seconds()
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
        if not self.offered >> given.dtype & 1 and self.program.step_count > 1:
            self.note_call(given.dtype, start)
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
