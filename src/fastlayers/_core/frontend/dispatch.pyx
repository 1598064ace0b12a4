# cython: binding=False
"""The functions of the package: which calls the engine serves, and what happens to the others.

A call is served if its operands are plain arrays (and numbers) of one dtype that NumPy would not
convert. Then the results are allocated here, and a job is filled in and run. Every other call, and
every call that raises a floating-point exception that the user does not ignore, goes to the plain
expression in fastlayers.reference, which also words all errors.
"""

cimport numpy as cnp
from cpython.number cimport (
    PyNumber_Add, PyNumber_Multiply, PyNumber_Negative, PyNumber_Subtract,
)
from cpython.object cimport PyObject
from cpython.tuple cimport PyTuple_New

from ..memory cimport is_recycling
from ..program.operations cimport backward, forward, identity
from ..program.program cimport (
    ADD, MULTIPLY, NEGATIVE, SUBTRACT, Operation, Program,
)
from .dtypes cimport converted, is_array, is_number
from .builtins cimport PyMethodDef, documentation
from .execute cimport Given, begin, execute
from .ndarray cimport Array, PyArray_CheckExact, have_one_shape, set_item
from .schedule cimport recycled_bytes

from numbers import Number

import numpy as np

from ... import reference
from .. import memory

cnp.import_array()


cdef object execute_converted(const Program *program, Given *given, bint *warned):
    """`execute` with operands converted to a form that is served, if there is one."""
    cdef Given other = given[0]
    cdef int slot
    previous = let_recycle(may_be_large(
        <object> given.operands[0], <object> given.operands[program.inputs - 1]))
    try:
        operands = converted(given.operands, program.inputs, &other.copied)
    finally:
        restore(previous)
    if operands is None or overwrites(program, given):
        return None
    for slot in range(program.inputs):
        other.operands[slot] = <PyObject *> (<tuple> operands)[slot]
    results = execute(program, &other, warned)
    if results is None or given.summing:
        return results
    if program.results == 1:
        return as_mapped(results, 0, program, given)
    others = PyTuple_New(program.results)
    for slot in range(program.results):
        set_item(others, slot, as_mapped((<tuple> results)[slot], slot, program, given))
    return others


cdef bint overwrites(const Program *program, const Given *given):
    """Whether outputs overlap operands, which NumPy needs unchanged if it has to warn."""
    cdef int slot, result
    for result in range(program.results):
        if given.outs[result] == NULL or not PyArray_CheckExact(given.outs[result]):
            continue
        for slot in range(program.inputs):
            if is_array(given.operands[slot]) and np.may_share_memory(
                <object> given.outs[result], <object> given.operands[slot]
            ):
                return True
    return False


cdef object as_mapped(object result, int number, const Program *program, const Given *given):
    """A result as NumPy gives it: a view if all arrays it was computed from are memory maps."""
    cdef int slot
    if given.outs[number] != NULL:
        return result
    for slot in range(program.inputs):
        if program.read_by[number] >> slot & 1 and PyArray_CheckExact(given.operands[slot]):
            return result
    return result.view()


cdef inline object attempt(const Program *program, Given *given, bint *warned):
    """`execute`; if the operands are not served as they are, with converted ones."""
    result = execute(program, given, warned)
    return execute_converted(program, given, warned) if result is None else result


# NumPy evaluates what the kernels do not serve. Its large results are recycled, too.

ctypedef object (*Expression)(object, object)

# By operation.
cdef tuple names = ("multiply", "add", "subtract", "negative")
cdef Expression expressions[4]
expressions[MULTIPLY] = PyNumber_Multiply
expressions[ADD] = PyNumber_Add
expressions[SUBTRACT] = PyNumber_Subtract
expressions[NEGATIVE] = negated


cdef object negated(object x, object _):
    return PyNumber_Negative(x)


cdef inline object evaluate(Expression expression, object x, object y):
    """A plain expression of two operands."""
    previous = let_recycle(may_be_large(x, y))
    try:
        return expression(x, y)
    finally:
        restore(previous)


cdef object evaluate_backward(
    Operation operation, object dout, object x, object y, object out, object sum_to_shape
):
    """The gradients of an operation, by `reference`."""
    previous = let_recycle(may_be_large(dout, x) or may_be_large(dout, y))
    try:
        return getattr(reference, names[operation] + "_backward")(dout, x, y, out, sum_to_shape)
    finally:
        restore(previous)


cdef inline object let_recycle(bint large):
    """Put the recycler in force for NumPy's large results; return the previous handler, or None."""
    return memory.set_handler(memory.recycling_handler()) if large and is_recycling() else None


cdef inline int restore(object handler) except -1:
    if handler is not None:
        memory.set_handler(handler)
    return 0


cdef bint may_be_large(object x, object y) noexcept:
    """Whether the result of two operands may be large enough to be recycled."""
    cdef Py_ssize_t x_size = count_elements(x)
    cdef Py_ssize_t y_size = count_elements(y)
    cdef Py_ssize_t size = max(x_size, y_size)
    if x_size > 1 and y_size > 1 and not cnp.PyArray_SAMESHAPE(<cnp.ndarray> x, <cnp.ndarray> y):
        # Broadcast together, they may give an element for each pair of theirs.
        size = min(x_size, 1 << 30) * min(y_size, 1 << 30)
    return size >= recycled_bytes() // max(bytes_of_element(x), bytes_of_element(y))


cdef inline Py_ssize_t count_elements(object value) noexcept:
    return cnp.PyArray_SIZE(<cnp.ndarray> value) if cnp.PyArray_Check(value) else 1


cdef inline Py_ssize_t bytes_of_element(object value) noexcept:
    if not cnp.PyArray_Check(value):
        return 1
    return max(1, cnp.PyArray_ITEMSIZE(<cnp.ndarray> value))


# ---- the functions ----
#
# PyNumber_Multiply, not ``*``: Cython's shortcuts for that lose the sign of a zero.

cdef inline object compute(Operation operation, object x, object y, object out):
    """An operation on two operands; on the first of them if it takes one."""
    cdef Given given
    cdef bint warned = False
    if out is None and are_numbers(x, y):
        return expressions[operation](x, y)
    begin(&given)
    given.operands[0] = <PyObject *> x
    given.operands[1] = <PyObject *> y
    given.outs[0] = given_out(out)
    given.has_outs = out is not None
    result = attempt(&forward[operation], &given, &warned)
    if result is not None and not warned:
        return result
    if out is None:
        return evaluate(expressions[operation], x, y)
    operands = (x, y)[:forward[operation].inputs]
    return getattr(reference, names[operation])(*operands, out=out)


cdef inline object differentiate(
    Operation operation, object dout, object x, object y, object out, object sum_to_shape
):
    """The gradients of an operation on two operands."""
    cdef Given given
    cdef bint warned = False
    if sum_to_shape and not (has_same_shape(dout, x) and has_same_shape(dout, y)):
        return sum_gradients(operation, dout, x, y, out)
    begin(&given)
    given.operands[0] = <PyObject *> dout
    given.operands[1] = <PyObject *> x
    given.operands[2] = <PyObject *> y
    given.outs[0] = given.outs[1] = NULL
    given.has_outs = out is not None
    if out is not None:
        if type(out) is not tuple or len(out) != 2:
            return evaluate_backward(operation, dout, x, y, out, sum_to_shape)
        given.outs[0] = given_out((<tuple> out)[0])
        given.outs[1] = given_out((<tuple> out)[1])
    result = attempt(&backward[operation], &given, &warned)
    if result is not None and not warned:
        return result
    if operation == MULTIPLY and out is None and not sum_to_shape:
        if warned:
            return evaluate(PyNumber_Multiply, dout, y), evaluate(PyNumber_Multiply, dout, x)
        return multiply(dout, y), multiply(dout, x)  # one of the two may be served
    return evaluate_backward(operation, dout, x, y, out, sum_to_shape)


cdef inline PyObject *given_out(object out) noexcept:
    return NULL if out is None else <PyObject *> out


cdef inline bint are_numbers(object x, object y) noexcept:
    return is_number(<PyObject *> x) and is_number(<PyObject *> y)


cdef inline bint has_same_shape(object array, object operand) noexcept:
    return (
        PyArray_CheckExact(<PyObject *> array) and PyArray_CheckExact(<PyObject *> operand)
        and have_one_shape(<Array *> array, <Array *> operand))


def multiply(x, y, out=None):
    return compute(MULTIPLY, x, y, out)


def add(x, y, out=None):
    return compute(ADD, x, y, out)


def subtract(x, y, out=None):
    return compute(SUBTRACT, x, y, out)


def negative(x, out=None):
    return compute(NEGATIVE, x, x, out)


def multiply_backward(dout, x, y, out=None, sum_to_shape=False):
    if out is None and is_number(<PyObject *> dout) and are_numbers(x, y):
        return PyNumber_Multiply(dout, y), PyNumber_Multiply(dout, x)
    return differentiate(MULTIPLY, dout, x, y, out, sum_to_shape)


def add_backward(dout, x=None, y=None, out=None, sum_to_shape=False):
    if out is None and not sum_to_shape and is_number(<PyObject *> dout):
        return PyNumber_Multiply(dout, 1), PyNumber_Multiply(dout, 1)
    return differentiate(ADD, dout, x, y, out, sum_to_shape)


def subtract_backward(dout, x=None, y=None, out=None, sum_to_shape=False):
    if out is None and not sum_to_shape and is_number(<PyObject *> dout):
        return PyNumber_Multiply(dout, 1), PyNumber_Multiply(dout, -1)
    return differentiate(SUBTRACT, dout, x, y, out, sum_to_shape)


def negative_backward(dout, out=None):
    return compute(MULTIPLY, dout, -1, out)


# ---- sums ----
#
# If a sum raises an exception that the user does not ignore, NumPy computes it too, and warns if it
# has a reason: in these sums an infinity raises flags. The results are these sums all the same.

cdef object sum_gradients(Operation operation, object dout, object x, object y, object out):
    """The pair of gradients, each summed to its operand's shape."""
    cdef Given given
    cdef bint warned = False
    if x is None or y is None:
        return evaluate_backward(operation, dout, x, y, out, True)  # says that they are needed
    given.operands[0] = <PyObject *> dout
    given.operands[1] = given.sum_to[0] = <PyObject *> x
    given.operands[2] = given.sum_to[1] = <PyObject *> y
    result = summed(&backward[operation], &given, &warned)
    if result is None or warned:
        shape = np.broadcast_shapes(np.shape(dout), np.shape(x), np.shape(y))
        first, second = (y, x) if operation == MULTIPLY else (1, -1 if operation == SUBTRACT else 1)
        dx = sum_product(dout, first, x, shape, warned)
        dy = sum_product(dout, second, y, shape, warned)
        if result is None:
            result = dx, dy
    return result if out is None else reference.store(result, reference.pair(out))


cdef object sum_product(object dout, object factor, object operand, tuple shape, bint warned):
    """One of the gradients, of a product as if broadcast to ``shape``."""
    if not warned and np.shape(dout) == shape:
        return multiply_to(dout, factor, operand, False)
    return sum_to_operand(at_shape(product(dout, factor, warned), shape), operand)


cdef inline object product(object x, object y, bint warned):
    """A product, by NumPy if the kernels have computed it and NumPy must warn of it."""
    return evaluate(PyNumber_Multiply, x, y) if warned else multiply(x, y)


cdef object summed(const Program *program, Given *given, bint *warned):
    """The results of a program, each summed to an operand's shape; None if it is not served."""
    cdef int slot
    begin(given)
    given.summing = True
    for slot in range(program.results):
        given.outs[slot] = NULL
    return attempt(program, given, warned)


def sum_to_operand(value, operand):
    """Like `reference.sum_to_operand`, with the sums of `add_backward`."""
    cdef Given given
    cdef bint warned = False
    if not PyArray_CheckExact(<PyObject *> value):
        return reference.sum_to_operand(value, operand)
    if has_same_shape(value, operand):
        return value if value.flags.owndata else value.copy()
    result = None
    if np.shape(operand) != value.shape:
        # Only the operand's shape counts, and whether it is a Python number.
        like = 1.0 if is_python_number(operand) else np.broadcast_to(
            np.zeros((), value.dtype), np.shape(operand))
        given.operands[0] = <PyObject *> value
        given.sum_to[0] = <PyObject *> like
        result = summed(&identity, &given, &warned)
    if result is None:
        return reference.sum_to_operand(value, operand)
    if warned:
        reference.sum_to_operand(value, operand)
    return result


def multiply_to_operand(dout, factor, operand):
    """Like `reference.multiply_to_operand`, with the sums of the operation's backward."""
    return multiply_to(dout, factor, operand, False)


cdef object multiply_to(object dout, object factor, object operand, bint by_numpy):
    """The same; or with NumPy's product, unless it is summed."""
    cdef Given given
    cdef bint warned = False
    if PyArray_CheckExact(<PyObject *> dout) and not has_same_shape(dout, operand):
        given.operands[0] = <PyObject *> dout
        given.operands[1] = <PyObject *> factor
        given.sum_to[0] = <PyObject *> operand
        result = summed(&forward[MULTIPLY], &given, &warned)
        if result is not None:
            if warned:
                sum_to_operand(evaluate(PyNumber_Multiply, dout, factor), operand)
            return result
    return sum_to_operand(product(dout, factor, by_numpy), operand)


# ---- for the nodes of graphs ----

# What runs the nodes of graphs, by the names of their operations.
functions = {
    "multiply": multiply,
    "add": add,
    "subtract": subtract,
    "negative": negative,
    "sum_to": sum_to_operand,
    "multiply_to": multiply_to_operand,
}

# The same for nodes of which a pass has raised what NumPy must warn of.
by_numpy = {
    "multiply": lambda x, y: evaluate(PyNumber_Multiply, x, y),
    "add": lambda x, y: evaluate(PyNumber_Add, x, y),
    "subtract": lambda x, y: evaluate(PyNumber_Subtract, x, y),
    "negative": lambda x: evaluate(negated, x, x),
    "multiply_to": lambda dout, factor, operand: multiply_to(dout, factor, operand, True),
}


cdef object at_shape(object product, tuple shape):
    """A product at ``shape``: along axes that it does not have, it counts for each element."""
    if np.shape(product) == shape:
        return product
    return np.broadcast_to(product, shape, subok=True)


cdef bint is_python_number(object value):
    return isinstance(value, Number) and not isinstance(value, np.generic)


# ---- documentation ----
#
# The functions are builtins (binding=False above), not the function objects that Cython makes by
# default: calling those takes 10 ns more, 7 % of a small step. A builtin takes its signature and
# docstring from C. They are set here to the reference's, so that both implementations share them.

cdef extern from "Python.h":
    ctypedef struct PyCFunctionObject:
        PyMethodDef *m_ml

cdef list texts = []  # keeps them alive; only the import writes it

for _function in (
    multiply, add, subtract, negative, multiply_backward, add_backward, subtract_backward,
    negative_backward,
):
    _text = documentation(getattr(reference, _function.__name__))
    texts.append(_text)
    (<PyCFunctionObject *> _function).m_ml.ml_doc = <bytes> _text
