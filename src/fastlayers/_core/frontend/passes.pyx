"""Passes: parts of a graph that are run in one pass over memory."""

cimport numpy as cnp
from cpython.object cimport PyObject, PyTypeObject
from libc.string cimport memset

from ..program.operations cimport assemble, find_dtypes_of
from ..program.program cimport MAX_INPUTS, MAX_RESULTS, MAX_SHARES, UNSERVED, Program, Share
from .dtypes cimport array_dtype, is_number
from .execute cimport Given, execute
from .ndarray cimport (
    Array, PyArray_CheckExact, PyArray_DESCR, PyArray_DIMS, PyArray_NDIM, set_item,
)
from .schedule cimport UNSTOPPABLE, exceptions_to_stop_before

cdef extern from "Python.h":
    object PyType_GenericAlloc(PyTypeObject *, Py_ssize_t)

from ... import reference

cnp.import_array()

# The kinds of operands, two bits each in the key of a plan.
cdef enum:
    NUMBER = 0
    WHOLE = 1       # an array of the shape that all broadcast to
    SMALL = 2       # an array of another shape
    ONE = 3         # the number 1, of the gradients of outputs

cdef enum:
    MOST_OPERANDS = 31
    UNPLANNED = -1


cdef Py_ssize_t key_of(PyObject *const *operands, int count, int douts) noexcept:
    """The kinds of operands, of which the last ones are outputs' gradients; or UNPLANNED.

    There may be numbers alone. Arrays are of one dtype, and of two shapes at most, of which one
    broadcasts to the other.
    """
    cdef Array *array
    cdef Array *largest = NULL
    cdef Array *small = NULL
    cdef Py_ssize_t key = 0
    cdef Py_ssize_t kind
    cdef int slot
    for slot in range(count):
        if PyArray_CheckExact(operands[slot]):
            array = <Array *> operands[slot]
            if largest == NULL or not (
                PyArray_NDIM(array) <= PyArray_NDIM(largest) and fits_in(array, largest)
            ):
                largest = array
    if largest != NULL and (PyArray_NDIM(largest) == 0 or array_dtype(largest) == UNSERVED):
        return UNPLANNED
    for slot in range(count):
        if not PyArray_CheckExact(operands[slot]):
            if not is_number(operands[slot]):
                return UNPLANNED
            kind = ONE if slot >= count - douts and is_one(operands[slot]) else NUMBER
        else:
            array = <Array *> operands[slot]
            if PyArray_DESCR(array) != PyArray_DESCR(largest):
                return UNPLANNED
            kind = WHOLE
            if array != largest and not has_shape_of(array, largest):
                if PyArray_NDIM(array) == 0 or not fits_in(array, largest):
                    return UNPLANNED
                if small != NULL and not has_shape_of(array, small):
                    return UNPLANNED
                small = array
                kind = SMALL
        key |= kind << 2 * slot
    return key


cdef inline bint is_one(PyObject *number) noexcept:
    # Not 1.0, which makes floats of integers.
    return number == <PyObject *> one


cdef object one = 1


cdef bint has_shape_of(Array *array, Array *other) noexcept:
    cdef int axis
    if PyArray_NDIM(array) != PyArray_NDIM(other):
        return False
    for axis in range(PyArray_NDIM(array)):
        if PyArray_DIMS(array)[axis] != PyArray_DIMS(other)[axis]:
            return False
    return True


cdef bint fits_in(Array *array, Array *other) noexcept:
    """Whether an array broadcasts to the shape of another."""
    cdef int axis
    cdef int lead = PyArray_NDIM(other) - PyArray_NDIM(array)
    if lead < 0:
        return False
    for axis in range(PyArray_NDIM(array)):
        if PyArray_DIMS(array)[axis] not in (1, PyArray_DIMS(other)[lead + axis]):
            return False
    return True


cdef enum:
    MOST_VALUES = 64
    MOST_PLANS = 64             # of one entry


cdef class Pass:
    """Steps that are run tile by tile, with all between them in the caches.

    Parameters
    ----------
    inputs, results : tuple of hashable
        Names of the values that the steps read and compute.
    steps : list of tuple
        An operation's number, then the names of what it reads and what it writes.
    sources : sequence of int
        Where each input is found among the values that `run` is given.
    sum_to : sequence of int
        For each result where the operand is found to whose shape it is summed, -1 if to none.
    constants : tuple of numbers
        What stands behind the operands among the values.
    """

    cdef Program program
    cdef int sources[MAX_INPUTS]
    cdef int sum_to[MAX_RESULTS]
    cdef bint summing
    cdef tuple constants
    cdef int constant_count

    def __init__(self, tuple inputs, tuple results, list steps, sources, sum_to, tuple constants):
        cdef int slot
        if len(constants) + MOST_OPERANDS > MOST_VALUES:
            raise ValueError("too many constants for one pass")
        self.constants = constants
        self.constant_count = <int> len(constants)
        assemble(&self.program, inputs, results, steps)
        find_dtypes_of(&self.program)
        self.program.shaped = True
        self.summing = False
        for slot in range(self.program.inputs):
            self.sources[slot] = sources[slot]
        for slot in range(self.program.results):
            self.sum_to[slot] = sum_to[slot]
            self.summing |= sum_to[slot] >= 0

    def run(self, tuple values, outs, list rest):
        """Return the results, a tuple; None where the pass is not served, or NumPy must warn.

        Parameters
        ----------
        values : tuple
            The operands, and whatever else the pass reads.
        outs : sequence of (ndarray or None), or None
            Where the results go. They may lie where operands do.
        rest : list
            Gets a pair ``(start, stop)`` for each part of the results, in the order of memory, that
            was not written because NumPy must warn of it. The operands are still whole there.
        """
        cdef Given given
        cdef int slot
        for slot in range(self.program.inputs):
            given.operands[slot] = <PyObject *> values[self.sources[slot]]
        for slot in range(self.program.results):
            given.sum_to[slot] = NULL
            if self.sum_to[slot] >= 0:
                given.sum_to[slot] = <PyObject *> values[self.sum_to[slot]]
        return self.run_on(&given, outs, rest)

    cdef object run_on_array(self, PyObject **values, outs, list rest):
        """`run` of what Entry has at hand."""
        cdef Given given
        cdef int slot
        for slot in range(self.program.inputs):
            given.operands[slot] = values[self.sources[slot]]
        for slot in range(self.program.results):
            given.sum_to[slot] = values[self.sum_to[slot]] if self.sum_to[slot] >= 0 else NULL
        return self.run_on(&given, outs, rest)

    cdef object run_on(self, Given *given, outs, list rest):
        cdef Share shares[MAX_SHARES]
        cdef bint warned = False
        cdef int slot
        for slot in range(self.program.results):
            given.outs[slot] = NULL
        given.has_outs = outs is not None
        given.shares = NULL
        if given.has_outs:
            given.heeded = exceptions_to_stop_before()
            if len(outs) != self.program.results or given.heeded == UNSTOPPABLE:
                return None
            for slot in range(self.program.results):
                if outs[slot] is not None:
                    if self.sum_to[slot] >= 0:
                        return None
                    given.outs[slot] = <PyObject *> outs[slot]
            memset(shares, 0, sizeof(shares))
            given.shares = shares
        given.summing = self.summing
        given.copied = 0
        results = execute(&self.program, given, &warned)
        if results is None:
            return None
        if warned:
            if given.has_outs:
                for slot in range(MAX_SHARES):
                    if shares[slot].reached < shares[slot].stop:
                        rest.append((shares[slot].reached, shares[slot].stop))
            if not rest:
                return None
        return results if self.program.results > 1 else (results,)


cdef inline object run_plan(
    plan, PyObject **values, tuple operands, tuple douts, tuple outs, list rest
):
    if type(plan) is Pass:
        return (<Pass> plan).run_on_array(values, outs, rest)
    return plan(operands + douts, outs, rest)


cdef class Entry:
    """What a graph is called by: finds the plan for the operands at hand, and runs it.

    Parameters
    ----------
    plan : callable
        Given the kinds of the operands and the outputs' gradients, returns a plan, or None where
        there is no pass that serves them.
    inputs, outputs : int
        How many there are.
    single : bool
        Whether the value is no tuple.
    values : bool
        Whether the value is asked for.
    gradients : type or None
        Of the named tuple of the gradients, if they are asked for.
    finish : callable
        Given the operands, the outputs' gradients, the results and the rest that `Pass.run` has
        left, computes that rest.
    """

    cdef object plan
    cdef object finish
    cdef dict plans
    cdef int inputs
    cdef int outputs
    cdef bint single
    cdef bint values
    cdef object gradients

    def __init__(
        self, plan, int inputs, int outputs, bint single, bint values, gradients, finish
    ):
        self.plan = plan
        self.finish = finish
        self.plans = {}
        self.inputs = inputs
        self.outputs = outputs
        self.single = single
        self.values = values
        self.gradients = gradients

    def __call__(self, tuple operands, dout=None, outs=None):
        """Return the value, the gradients or both; None where nodes are to be run one by one.

        ``outs`` has an array or None for each result: for the values, then for the gradients.
        """
        cdef PyObject *given[MOST_VALUES]
        cdef int count = self.inputs
        cdef int slot
        cdef Py_ssize_t key
        cdef Pass fused
        if len(operands) != count or count + self.outputs > MOST_OPERANDS:
            return None
        for slot in range(count):
            given[slot] = <PyObject *> operands[slot]
        if self.gradients is not None:
            if self.outputs > 1 and not is_number(<PyObject *> dout):
                return None
            for slot in range(count, count + self.outputs):
                given[slot] = <PyObject *> dout
            count += self.outputs
        key = key_of(given, count, count - self.inputs)
        if key == UNPLANNED:
            return None
        plan = self.plans.get(key, self)
        if plan is self:
            plan = self.plan([key >> 2 * slot & 3 for slot in range(count)])
            if len(self.plans) >= MOST_PLANS:
                self.plans.clear()
            self.plans[key] = plan
        if plan is None:
            return None
        if type(plan) is Pass:
            fused = <Pass> plan
            for slot in range(fused.constant_count):
                given[count + slot] = <PyObject *> (<tuple> fused.constants)[slot]
        if outs is not None:
            results = self.run_into(plan, given, operands, (dout,) * (count - self.inputs), outs)
        elif type(plan) is Pass:
            results = fused.run_on_array(given, None, None)
        else:
            results = plan(operands + (dout,) * (count - self.inputs), None, None)
        if results is None:
            return None
        if self.gradients is None:
            return self.value_of(results)
        if not self.values:
            return self.named(results, 0)
        return self.value_of(results), self.named(results, self.outputs)

    cdef object run_into(self, plan, PyObject **given, tuple operands, tuple douts, tuple outs):
        """The results in the outputs: written there by the pass or, where it cannot, copied."""
        cdef list rest = []
        results = run_plan(plan, given, operands, douts, outs, rest)
        if rest:
            self.finish(operands, douts, results, rest)
        if results is None:
            results = run_plan(plan, given, operands, douts, None, None)
            if results is not None:
                try:
                    results = reference.store(results, outs)
                except Exception:  # as it will, where the nodes are run one by one
                    return None
        return results

    cdef object value_of(self, tuple results):
        return results[0] if self.single else results[:self.outputs]

    cdef object named(self, tuple results, int first):
        """The gradients among the results as a named tuple, made as tuples are made."""
        cdef int count = <int> len(results) - first
        cdef int slot
        named = PyType_GenericAlloc(<PyTypeObject *> self.gradients, count)
        for slot in range(count):
            set_item(named, slot, results[first + slot])
        return named
