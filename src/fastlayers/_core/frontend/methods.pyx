# cython: binding=False
"""What graphs are called by: the plan for the operands at hand, found and run.

The methods are builtins (binding=False above), for the same reason as in dispatch.pyx.
"""

cimport cython
cimport numpy as cnp
from cpython.object cimport PyObject, PyTypeObject
from cpython.sequence cimport PySequence_Fast_ITEMS
from cpython.tuple cimport PyTuple_New
from libc.string cimport memcmp, memcpy

from .builtins cimport PyCFunction, PyMethodDef, documentation
from .dtypes cimport is_array, is_number
from .kinds cimport (
    EXPRESSION, LAYOUT, MOST_OPERANDS, OUTCOMES, SERVED, WARNING, Kinds, described, find_kinds,
    key_of, size_of,
)
from .ndarray cimport PyArray_CheckExact, set_item
from .passes cimport Pass

cdef extern from "Python.h":
    int PY_VERSION_HEX
    object PyType_GenericAlloc(PyTypeObject *, Py_ssize_t)
    object PyDescr_NewMethod(PyTypeObject *, PyMethodDef *)
    object PyObject_Vectorcall(object, PyObject *const *, size_t, PyObject *)
    int METH_FASTCALL
    int METH_KEYWORDS

cdef extern from "shared.h" nogil:
    Py_ssize_t load_size(Py_ssize_t *variable)
    void add_size(Py_ssize_t *variable, Py_ssize_t value)

ctypedef void (*AnyFunction)()  # as which a function may be cast to another type, without a warning

import numpy as np

from ... import reference
from ...base import Placeholder
from . import passes

cnp.import_array()

cdef object WARNS = passes.WARNS

cdef enum:
    MOST_CONSTANTS = 64
    MOST_VALUES_ = MOST_OPERANDS + MOST_CONSTANTS
    MOST_PLANS = 64             # of one entry

MOST_VALUES = <int> MOST_VALUES_

cdef Py_ssize_t outcomes[OUTCOMES]  # read and written through shared.h

REASONS = ("operand", "dtype", "shape", "expression", "layout", "warning")


def count_outcomes():
    """Return how many calls were served, and by reason how many were not."""
    cdef int reason
    counts = [load_size(&outcomes[reason]) for reason in range(OUTCOMES)]
    return counts[SERVED], dict(zip(REASONS, counts[1:]))


def count_outcome(reason, Py_ssize_t count=1):
    """Count a call that was not served, for one of `REASONS`; or take that back."""
    add_size(&outcomes[REASONS.index(reason) + 1], count)


cdef inline int outcome_of(object results) noexcept:
    return LAYOUT if results is None else WARNING if results is WARNS else SERVED


cdef inline object counted(int outcome, object results):
    """The results of a call, which is counted."""
    add_size(&outcomes[outcome], 1)
    return results


cdef tuple without_maps(tuple values):
    """The same with memory maps as plain arrays on their memory."""
    cdef int slot
    cdef int count = <int> len(values)
    for slot in range(count):
        if is_map(values[slot]):
            break
    else:
        return values
    plain = PyTuple_New(count)
    for slot in range(count):
        one = values[slot]
        set_item(plain, slot, one.view(np.ndarray) if is_map(one) else one)
    return plain


cdef inline bint is_map(object value) noexcept:
    return is_array(<PyObject *> value) and not PyArray_CheckExact(<PyObject *> value)


cdef tuple with_outs(tuple results, tuple outs):
    """Outputs as they were given, which may be memory maps; the other results."""
    cdef int slot
    cdef int count = <int> len(outs)
    every = PyTuple_New(count)
    for slot in range(count):
        set_item(every, slot, results[slot] if outs[slot] is None else outs[slot])
    return every


cdef bint may_be_written(plan, PyObject *const *given, int count, tuple outs):
    """Whether the pass of a plan may write its results into outputs.

    They must not meet an operand that it does not read: that is read before the pass or after it,
    by steps of small arrays, by an output that is an operand, or by NumPy if it has to warn. What
    the pass reads it looks after itself.
    """
    cdef int slot
    fused = plan if type(plan) is Pass else plan.only
    if fused is None:
        return False
    for slot in range(count):
        if not PyArray_CheckExact(given[slot]) or (<Pass> fused).reads(slot):
            continue
        for out in outs:
            if PyArray_CheckExact(<PyObject *> out) and np.may_share_memory(
                <object> given[slot], out
            ):
                return False
    return True


cdef inline object run_plan(plan, PyObject **given, tuple values, tuple outs, list rest):
    cdef Pass fused
    if type(plan) is Pass:
        fused = <Pass> plan
        return fused.as_tuple(fused.run_on(given, outs, rest))
    return plan(values, outs, rest)


cdef inline tuple tuple_of(PyObject *const *values, Py_ssize_t count):
    cdef int slot
    every = PyTuple_New(count)
    for slot in range(count):
        set_item(every, slot, <object> values[slot])
    return every


cdef class Entry:
    """What a graph is called by: finds the plan for the operands at hand, and runs it.

    Parameters
    ----------
    plan : callable
        Given the kinds of the operands and the outputs' gradients, and the number of axes if arrays
        have several shapes, returns a plan; None where no pass serves them.
    inputs, douts, values : int
        How many operands and outputs' gradients there are, and results before the ``gradients``.
    single : bool
        Whether the value is no tuple, nor what is given for its gradient.
    gradients : type or None
        Of the named tuple of the gradients, if they are to be in one.
    returns_operands : bool
        Whether a value or a gradient may be a copy of an operand, which is then a memory map, too.
    finish : callable
        Given the operands, the outputs' gradients, the results and the rest that `Pass.run` has
        left, computes that rest.
    """

    cdef object plan
    cdef object finish
    cdef dict plans         # by keys of kinds
    cdef object first_plan  # set once, under the lock of this object, as the next two
    cdef Kinds first        # what it is for
    cdef Py_ssize_t first_size
    cdef int inputs
    cdef int douts
    cdef int values
    cdef bint single
    cdef bint bare          # whether the value alone is asked for
    cdef object gradients
    cdef bint returns_operands

    def __init__(
        self, plan, int inputs, int douts, int values, bint single, gradients,
        bint returns_operands, finish,
    ):
        self.plan = plan
        self.finish = finish
        self.plans = {}
        self.first_plan = None
        self.first_size = 0
        self.inputs = inputs
        self.douts = douts
        self.values = values
        self.single = single
        self.bare = single and gradients is None
        self.gradients = gradients
        self.returns_operands = returns_operands

    def run(self, tuple operands, dout=None, outs=None):
        """Return the value, the gradients or both; None or `WARNS` where nodes are to be run.

        ``outs`` has an array or None for each result: for the values, then for the gradients.
        """
        return self.run_on(PySequence_Fast_ITEMS(operands), len(operands), dout, outs)

    cdef object run_on(
        self, PyObject *const *operands, Py_ssize_t operand_count, dout, tuple outs
    ):
        """`run` of operands that need not be a tuple."""
        cdef PyObject *given[MOST_VALUES_]
        cdef Kinds kinds
        cdef int count = self.inputs
        cdef int slot, reason
        cdef Pass fused
        if operand_count != count or count + self.douts > MOST_OPERANDS:
            return None
        for slot in range(count):
            given[slot] = operands[slot]
        if self.douts:
            if not self.single and type(dout) is tuple:
                if len(dout) != self.douts:
                    return None
                for slot in range(self.douts):
                    given[count + slot] = <PyObject *> (<tuple> dout)[slot]
            elif self.single or is_number(<PyObject *> dout):
                for slot in range(self.douts):
                    given[count + slot] = <PyObject *> dout
            else:
                return None
            count += self.douts
        reason = find_kinds(given, count, count - self.inputs, &kinds)
        if reason != SERVED:
            return self.run_on_maps(tuple_of(given, count), outs, reason)
        plan = self.plan_for(&kinds, count)
        if plan is None:
            return counted(EXPRESSION, None)
        if type(plan) is Pass:
            fused = <Pass> plan
            for slot in range(fused.constant_count):
                given[count + slot] = <PyObject *> (<tuple> fused.constants)[slot]
            if fused.numbers is not None:
                numbers = fused.numbers(tuple_of(given, count))
                if numbers is None:
                    return counted(EXPRESSION, None)
                for slot in range(<int> len(numbers)):
                    given[count + fused.constant_count + slot] = (
                        <PyObject *> (<tuple> numbers)[slot])
            if self.bare and outs is None:
                results = fused.run_on(given, None, None)
                return counted(outcome_of(results), results)
        if outs is not None:
            # What is left of work in place is found by its place in memory, so by that of all.
            results = self.run_into(plan, given, count, outs, [] if kinds.shapes <= 1 else None)
        elif type(plan) is Pass:
            results = fused.as_tuple(fused.run_on(given, None, None))
        else:
            results = plan(tuple_of(given, count))
        counted(outcome_of(results), results)
        if results is None or results is WARNS:
            return results
        if self.gradients is None:
            return self.value_of(results)
        if not self.values:
            return self.named(results, 0)
        return self.value_of(results), self.named(results, self.values)

    cdef inline object plan_for(self, const Kinds *kinds, int count):
        """The plan for operands of these kinds, made if there is none; None if there can be none.

        Most graphs are called with operands of the same kinds: the first ones are at hand.
        """
        cdef Py_ssize_t size = size_of(count)
        cdef bint found
        with cython.critical_section(self):
            found = size == self.first_size and memcmp(&self.first, kinds, size) == 0
        return self.first_plan if found else self.find_plan(kinds, count)

    cdef object find_plan(self, const Kinds *kinds, int count):
        key = key_of(kinds, count)
        plan = self.plans.get(key, self)
        if plan is self:
            plan = self.plan(described(kinds, count), <int> kinds.axes)
            if len(self.plans) >= MOST_PLANS:
                self.plans.clear()
            self.plans[key] = plan
        with cython.critical_section(self):
            if self.first_size == 0 and plan is not None:
                self.first_plan = plan
                self.first_size = size_of(count)
                memcpy(&self.first, kinds, self.first_size)
        return plan

    cdef object run_on_maps(self, tuple given, tuple outs, int reason):
        """The same with memory maps, of operands and of outputs' gradients, as plain arrays."""
        plain = without_maps(given)
        if self.returns_operands or plain is given:
            if any([isinstance(one, Placeholder) for one in given]):
                return None  # a graph within one that is recorded
            return counted(reason, None)
        dout = plain[self.inputs:]
        if self.single and self.douts:
            dout = dout[0]
        return self.run_on(PySequence_Fast_ITEMS(plain), self.inputs, dout, outs)

    cdef object run_into(self, plan, PyObject **given, int count, tuple outs, list rest):
        """The results in the outputs: written there by the pass or, where it may not, copied."""
        values = tuple_of(given, count)
        plain = without_maps(outs)
        if may_be_written(plan, given, count, plain):
            results = run_plan(plan, given, values, plain, rest)
            if rest:
                self.finish(values[:self.inputs], values[self.inputs:], results, rest)
            if results is WARNS:
                return WARNS
            if results is not None:
                return with_outs(results, outs)
        results = run_plan(plan, given, values, None, None)
        if results is None or results is WARNS:
            return results
        try:
            return reference.store(results, outs)
        except Exception:  # it is raised again where the nodes are run one by one
            return None

    cdef object value_of(self, tuple results):
        return results[0] if self.single else results[:self.values]

    cdef object named(self, tuple results, int first):
        """The gradients among the results as a named tuple.

        It is made as tuples are made; the shop on numbers takes 1.1 times as long if a tuple is
        copied instead (Xeon of the Sapphire Rapids family). From 3.14 on a tuple keeps its hash,
        too, so there the tuple's own function makes it.
        """
        cdef int count = <int> len(results) - first
        cdef int slot
        if PY_VERSION_HEX >= 0x030E0000:
            arguments = (results[first:],)
            return (<PyTypeObject *> tuple).tp_new(self.gradients, <PyObject *> arguments, NULL)
        named = PyType_GenericAlloc(<PyTypeObject *> self.gradients, count)
        for slot in range(count):
            set_item(named, slot, results[first + slot])
        return named


# ---- the methods of graphs ----
#
# Each tries a pass, and leaves what no pass serves to those methods in Python that run the nodes
# one by one; to the method of the same name all that is given by name but a `dout`, or the `out` of
# a value. They are called as functions of C are: calling one of Python's that takes any operands
# makes a tuple and a dictionary, which takes more time than a pass over a few elements. The entries
# are attributes of graphs, see graph/graph.py.

# As in graph/graph.py.
cdef enum:
    VALUE
    GRADIENTS
    BOTH

cdef enum:
    CALL
    FORWARD
    BACKWARD
    VALUE_AND_GRAD
    METHODS

cdef PyMethodDef methods[METHODS]
cdef list in_python         # the methods in Python, in this order
cdef list documented        # their docstrings, to which `methods` point


def quicken(type graph not None):
    """Let the methods of the class of graphs try passes before they run in Python."""
    global in_python, documented
    functions, documents = [], []
    methods[CALL].ml_name = "__call__"
    methods[CALL].ml_meth = <PyCFunction> <AnyFunction> &call
    methods[FORWARD].ml_name = "forward"
    methods[FORWARD].ml_meth = <PyCFunction> <AnyFunction> &forward
    methods[BACKWARD].ml_name = "backward"
    methods[BACKWARD].ml_meth = <PyCFunction> <AnyFunction> &backward
    methods[VALUE_AND_GRAD].ml_name = "value_and_grad"
    methods[VALUE_AND_GRAD].ml_meth = <PyCFunction> <AnyFunction> &value_and_grad
    cdef int method
    for method in range(METHODS):
        name = methods[method].ml_name.decode()
        function = vars(graph)[name]
        document = documentation(function)
        functions.append(function)
        documents.append(document)
        methods[method].ml_doc = document
        methods[method].ml_flags = METH_FASTCALL | METH_KEYWORDS
        setattr(graph, name, PyDescr_NewMethod(<PyTypeObject *> graph, &methods[method]))
    in_python, documented = functions, documents


cdef object call(object graph, PyObject *const *given, Py_ssize_t count, PyObject *names):
    if not has_out_alone(names):
        return call_python(CALL, graph, given, count, names)
    out = None if names == NULL else <object> given[count]
    value = passed((<tuple?> graph._entries)[VALUE], given, count, None, out)
    if value is None or value is WARNS:
        return graph._call_nodes(tuple_of(given, count), out, value is WARNS)
    return value


cdef object forward(object graph, PyObject *const *given, Py_ssize_t count, PyObject *names):
    if not has_out_alone(names):
        return call_python(FORWARD, graph, given, count, names)
    out = None if names == NULL else <object> given[count]
    value = passed((<tuple?> graph._entries)[VALUE], given, count, None, out)
    operands = tuple_of(given, count)
    if value is None or value is WARNS:
        return graph._forward_nodes(operands, out, value is WARNS)
    graph._kept = operands
    return value


cdef inline bint has_out_alone(PyObject *names) noexcept:
    """Whether nothing but `out` is given by name."""
    return names == NULL or (len(<tuple> names) == 1 and (<tuple> names)[0] == "out")


cdef object backward(object graph, PyObject *const *given, Py_ssize_t count, PyObject *names):
    if names == NULL and count == 1:
        kept = graph._kept
        if kept is not None:
            operands = <tuple?> kept
            entry = (<tuple?> graph._entries)[GRADIENTS]
            gradients = passed(
                entry, PySequence_Fast_ITEMS(operands), len(operands), <object> given[0], None)
            if gradients is None or gradients is WARNS:
                return graph._backward_nodes(
                    operands, <object> given[0], None, gradients is WARNS)
            return gradients
    return call_python(BACKWARD, graph, given, count, names)


cdef object value_and_grad(object graph, PyObject *const *given, Py_ssize_t count, PyObject *names):
    dout = 1
    if names != NULL:
        if len(<tuple> names) != 1 or (<tuple> names)[0] != "dout":
            return call_python(VALUE_AND_GRAD, graph, given, count, names)
        dout = <object> given[count]
    both = passed((<tuple?> graph._entries)[BOTH], given, count, dout, None)
    if both is None or both is WARNS:
        return graph._value_and_grad_nodes(
            tuple_of(given, count), dout, None, None, both is WARNS)
    return both


cdef inline object passed(entry, PyObject *const *given, Py_ssize_t count, dout, out):
    """What an entry returns, see `Entry.run`; None if there is none."""
    cdef Entry present
    if type(entry) is not Entry:
        return None
    present = <Entry> entry
    if out is None or isinstance(out, tuple):
        return present.run_on(given, count, dout, None if out is None else tuple(out))
    return present.run_on(given, count, dout, (out,)) if present.single else None


cdef object call_python(
    int method, object graph, PyObject *const *given, Py_ssize_t count, PyObject *names
):
    cdef Py_ssize_t every = count + (len(<tuple> names) if names != NULL else 0)
    cdef int slot
    arguments = PyTuple_New(1 + every)
    set_item(arguments, 0, graph)
    for slot in range(every):
        set_item(arguments, 1 + slot, <object> given[slot])
    return PyObject_Vectorcall(
        in_python[method], PySequence_Fast_ITEMS(arguments), 1 + count, names)
