# cython: binding=False
# The four functions: which calls the kernels serve, and where their results go.
#
# A call is served when its operands are plain arrays (and numbers) of one kernel dtype that NumPy
# would not convert; the result is allocated here, a job is filled in and run, and that is all.
# Every other call, and every call that raises a floating-point exception which the user wants to
# hear of, goes to the plain expression of fastlayers.reference, which also words all errors.

cimport numpy as cnp
from cpython.float cimport PyFloat_AS_DOUBLE, PyFloat_CheckExact
from cpython.long cimport PyLong_CheckExact
from cpython.number cimport PyNumber_Add, PyNumber_Multiply
from cpython.object cimport PyObject, PyTypeObject
from cpython.pycapsule cimport PyCapsule_GetPointer
from cpython.ref cimport Py_INCREF
from libc.float cimport FLT_MAX, FLT_MIN
from libc.math cimport fabs, isfinite
from libc.stdint cimport INT32_MAX, INT32_MIN, int32_t, int64_t
from libc.string cimport memset

from .job cimport (
    ADD, ADD_BACKWARD, DTYPES, FLOAT32, FLOAT64, INT32, INT64, MAX_DIMS, MAX_OPERANDS, MULTIPLY,
    MULTIPLY_BACKWARD, UNSERVED, DType, Job, Operation, Run, Sum,
    capsule_name,
)
from .memory cimport (
    ANYWHERE, PAGE, SHIFTED_BYTES, can_own_blocks, free_block, is_recycling, new_block, own_block,
    recycling_handler, set_handler,
)
from .ndarray cimport (
    NPY_ARRAY_ALIGNED, NPY_ARRAY_C_CONTIGUOUS, NPY_ARRAY_F_CONTIGUOUS, NPY_ARRAY_WRITEABLE,
    NPY_FLOAT32, NPY_FLOAT64, NPY_INT32, NPY_INT64, Array, Descr, PyArray_CheckExact, PyArray_DATA,
    PyArray_DESCR, PyArray_DIMS, PyArray_DescrFromType, PyArray_FLAGS, PyArray_ISNBO, PyArray_NDIM,
    PyArray_NewFromDescr, PyArray_STRIDES, PyArray_ScalarAsCtype, PyArray_Type,
    PyDataType_METADATA,
)

from numbers import Number

import numpy as np

from .. import reference
from . import memory

cdef extern from "Python.h":
    const Py_ssize_t PY_SSIZE_T_MAX
    PyTypeObject *Py_TYPE(object)
    long long PyLong_AsLongLongAndOverflow(object, int *overflow) except? -1

cdef extern from "fpstatus.h":
    enum:
        FP_OVERFLOW
        FP_UNDERFLOW
        FP_INVALID

cdef extern from "threads.h" nogil:
    const bint HAVE_OPENMP
    int openmp_threads()
    int is_forked_child
    void notice_fork()
    bint can_start_threads(int count)

cdef extern from "shared.h" nogil:
    Py_ssize_t load_size(Py_ssize_t *variable)
    void store_size(Py_ssize_t *variable, Py_ssize_t value)
    double load_double(double *variable)
    void store_double(double *variable, double value)
    void *load_pointer(void **variable)
    void store_pointer(void **variable, void *value)

cdef extern from "clock.h" nogil:
    double clock_seconds()

cdef extern from "cpu.h":
    int c_cpu_level "cpu_level"()

cdef extern from "compiler.h":
    const char *COMPILER

cdef extern from "build_info.h":  # setup.py writes it
    const char *BUILD_INFO

cnp.import_array()

include "operands.pxi"
include "calls.pxi"
include "running.pxi"
include "sums.pxi"


cdef inline object binary(
    Operation operation, object x, object y, object out, int copied=0
):
    """The result of a binary operation, or None where it is not served."""
    cdef Call call
    if PyArray_CheckExact(x):
        call.dtype = array_dtype(<Array *> x)
    elif PyArray_CheckExact(y):
        call.dtype = array_dtype(<Array *> y)
    else:
        return None
    call.inputs = 2
    call.copied = copied
    if (
        call.dtype == UNSERVED
        or not describe(x, call.dtype, &call.input[0])
        or not describe(y, call.dtype, &call.input[1])
        or not begin(&call, operation, 3)
    ):
        return None
    if call.order and call.input[0].ndim == 0:
        exchange_inputs(&call.job)
    result = attach(&call, 2, ALL_INPUTS, out)
    return result if result is not None and run(&call) else None


cdef inline object binary_backward(
    Operation operation, object dout, object x, object y, object out, int copied=0
):
    """The pair of gradients in one pass over ``dout``, or None where it is not served."""
    cdef Call call
    cdef int inputs = 3 if operation == MULTIPLY_BACKWARD else 2
    if not PyArray_CheckExact(dout):
        return None
    call.dtype = array_dtype(<Array *> dout)
    call.inputs = inputs
    call.copied = copied
    if (
        call.dtype == UNSERVED
        or not describe(dout, call.dtype, &call.input[0])
        or not describe(x, call.dtype, &call.input[1])
        or (inputs == 3 and not describe(y, call.dtype, &call.input[2]))
        or not begin(&call, operation, inputs + 2)
        or not (call.order and call.input[0].ndim or has_shape(&call.input[0], &call))
    ):
        return None
    if out is None:
        dx_out = dy_out = None
    elif type(out) is tuple and len(out) == 2:
        dx_out, dy_out = out
        if not are_apart(dx_out, dy_out, &call):
            return None
    else:
        return None
    dx = attach(&call, inputs, DOUT | 1 << inputs - 1, dx_out)
    if dx is None:
        return None
    dy = attach(&call, inputs + 1, DOUT | 1 << 1, dy_out)
    if dy is None or not run(&call):
        return None
    return dx, dy


cdef object binary_converted(Operation operation, object x, object y, object out):
    """`binary` with operands in another form, where they have one that is served."""
    cdef int copied = 0
    operands = converted((x, y), &copied)
    if operands is None or overwrites(out, (x, y)):
        return None
    result = binary(operation, operands[0], operands[1], out, copied)
    return result if result is None or out is not None else as_mapped(result, x, y)


cdef object binary_backward_converted(
    Operation operation, object dout, object x, object y, object out
):
    """`binary_backward` with operands in another form, where they have one that is served."""
    cdef int copied = 0
    operands = converted((dout, x, y), &copied)
    if operands is None or overwrites(out, (dout, x, y)):
        return None
    result = binary_backward(operation, operands[0], operands[1], operands[2], out, copied)
    if result is None or out is not None:
        return result
    return as_mapped(result[0], dout, y), as_mapped(result[1], dout, x)


cdef bint overwrites(object out, tuple operands):
    """Whether outputs lie over operands, which NumPy must find as they were if it is to report."""
    for result in out if type(out) is tuple else (out,):
        for operand in operands:
            if type(result) is np.ndarray and is_array(operand):
                if np.may_share_memory(result, operand):
                    return True
    return False


cdef inline object as_mapped(object result, object x, object y):
    """A result as NumPy gives it: with memory maps and no other array, a view."""
    return result if PyArray_CheckExact(x) or PyArray_CheckExact(y) else result.view()


cdef object summed(Operation operation, object dout, object x, object y, bint *heard):
    """`summed_backward`, with operands in another form where they have one that is served."""
    cdef int copied = 0
    result = summed_backward(operation, dout, x, y, heard)
    if result is not None:
        return result
    operands = converted((dout, x, y) if operation == MULTIPLY_BACKWARD else (dout,), &copied)
    if operands is None:
        return None
    if operation == MULTIPLY_BACKWARD:
        _, x, y = operands
    return summed_backward(operation, operands[0], x, y, heard)


# What the kernels do not serve is evaluated by NumPy; large results of that are recycled, too.

ctypedef object (*Expression)(object, object)


cdef inline object evaluate(Expression expression, object x, object y):
    """A plain expression of two operands."""
    previous = let_recycle(may_be_large(x, y))
    try:
        return expression(x, y)
    finally:
        restore(previous)


cdef object evaluate_backward(function, object dout, object x, object y, object out, object sum_to):
    """One of the backward functions of `reference`."""
    previous = let_recycle(may_be_large(dout, x) or may_be_large(dout, y))
    try:
        return function(dout, x, y, out, sum_to)
    finally:
        restore(previous)


cdef inline object let_recycle(bint large):
    """Put the recycler in force for NumPy's large results; return what was before, or None."""
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
        # Broadcast against each other they may give an element for each of their pairs.
        size = min(x_size, 1 << 30) * min(y_size, 1 << 30)
    return size >= load_size(&thresholds.recycling) // max(bytes_of_element(x), bytes_of_element(y))


cdef inline Py_ssize_t count_elements(object value) noexcept:
    return cnp.PyArray_SIZE(<cnp.ndarray> value) if cnp.PyArray_Check(value) else 1


cdef inline Py_ssize_t bytes_of_element(object value) noexcept:
    if not cnp.PyArray_Check(value):
        return 1
    return max(1, cnp.PyArray_ITEMSIZE(<cnp.ndarray> value))


# PyNumber_Multiply, not ``*``: Cython has shortcuts for that, which lose the sign of a zero.

def multiply(x, y, out=None):
    if out is None and is_number(x) and is_number(y):
        return PyNumber_Multiply(x, y)
    result = binary(MULTIPLY, x, y, out)
    if result is None:
        result = binary_converted(MULTIPLY, x, y, out)
    if result is not None:
        return result
    return evaluate(PyNumber_Multiply, x, y) if out is None else reference.multiply(x, y, out)


def add(x, y, out=None):
    if out is None and is_number(x) and is_number(y):
        return PyNumber_Add(x, y)
    result = binary(ADD, x, y, out)
    if result is None:
        result = binary_converted(ADD, x, y, out)
    if result is not None:
        return result
    return evaluate(PyNumber_Add, x, y) if out is None else reference.add(x, y, out)


def multiply_backward(dout, x, y, out=None, sum_to_shape=False):
    if out is None and is_number(dout) and is_number(x) and is_number(y):
        return PyNumber_Multiply(dout, y), PyNumber_Multiply(dout, x)
    if sum_to_shape and not have_one_shape(dout, x, y):
        return sum_gradients(MULTIPLY_BACKWARD, dout, x, y, out)
    result = binary_backward(MULTIPLY_BACKWARD, dout, x, y, out)
    if result is None:
        result = binary_backward_converted(MULTIPLY_BACKWARD, dout, x, y, out)
    if result is not None:
        return result
    if out is None:
        return multiply(dout, y), multiply(dout, x)  # one of them may be served
    return evaluate_backward(reference.multiply_backward, dout, x, y, out, sum_to_shape)


def add_backward(dout, x=None, y=None, out=None, sum_to_shape=False):
    if out is None and not sum_to_shape and is_number(dout):
        return PyNumber_Multiply(dout, 1), PyNumber_Multiply(dout, 1)
    if sum_to_shape and not have_one_shape(dout, x, y):
        return sum_gradients(ADD_BACKWARD, dout, x, y, out)
    result = binary_backward(ADD_BACKWARD, dout, 1, None, out)
    if result is None:
        result = binary_backward_converted(ADD_BACKWARD, dout, 1, None, out)
    if result is not None:
        return result
    if out is None:
        return evaluate(PyNumber_Multiply, dout, 1), evaluate(PyNumber_Multiply, dout, 1)
    return evaluate_backward(reference.add_backward, dout, x, y, out, sum_to_shape)


cdef bint have_one_shape(object dout, object x, object y) noexcept:
    """Whether three plain arrays are of one shape, so that gradients have nothing to sum."""
    return (
        PyArray_CheckExact(dout) and PyArray_CheckExact(x) and PyArray_CheckExact(y)
        and cnp.PyArray_SAMESHAPE(<cnp.ndarray> dout, <cnp.ndarray> x)
        and cnp.PyArray_SAMESHAPE(<cnp.ndarray> dout, <cnp.ndarray> y))


# ---- sums ----
#
# Where a sum raises an exception that the user wants to hear of, NumPy says of what, if anything:
# an infinity raises flags in sums that keep what rounding takes. The sums are these all the same.

cdef object sum_gradients(Operation operation, object dout, object x, object y, object out):
    """The pair of gradients, each summed to its operand's shape."""
    cdef bint heard = False
    if x is None or y is None:
        return reference.add_backward(dout, x, y, out, True)  # which says that they are needed
    result = summed(operation, dout, x, y, &heard)
    if heard:
        evaluate_backward(
            reference.multiply_backward if operation == MULTIPLY_BACKWARD else
            reference.add_backward, dout, x, y, None, True)
    if result is None:
        shape = np.broadcast_shapes(np.shape(dout), np.shape(x), np.shape(y))
        first, second = (y, x) if operation == MULTIPLY_BACKWARD else (1, 1)
        dx = sum_to_operand(at_shape(multiply(dout, first), shape), x)
        dy = sum_to_operand(at_shape(multiply(dout, second), shape), y)
        result = dx, dy
    return result if out is None else reference.store(result, reference.pair(out))


def sum_to_operand(value, operand, other=None):
    """As `reference.sum_to_operand`, with the sums of `add_backward`."""
    cdef bint heard = False
    if not PyArray_CheckExact(value):
        return reference.sum_to_operand(value, operand)
    if has_same_shape(value, operand):
        return value if value.flags.owndata else value.copy()
    result = None
    if other is not None:
        result = summed(ADD_BACKWARD, value, operand, other, &heard)
    if result is None and np.shape(operand) != value.shape:
        # Of the operand the shape alone counts, and whether it is a number.
        like = 1.0 if is_python_number(operand) else np.broadcast_to(
            np.zeros((), value.dtype), np.shape(operand))
        result = summed(ADD_BACKWARD, value, like, value, &heard)
    if result is None:
        return reference.sum_to_operand(value, operand)
    if heard:
        reference.sum_to_operand(value, operand)
    return result[0]


def multiply_to_operand(dout, factor, operand):
    """As `reference.multiply_to_operand`, with the sums of `multiply_backward`."""
    cdef bint heard = False
    if PyArray_CheckExact(dout) and not has_same_shape(dout, operand):
        result = summed(MULTIPLY_BACKWARD, dout, operand, factor, &heard)
        if result is not None:
            if heard:
                reference.multiply_to_operand(dout, factor, operand)
            return result[0]
    return sum_to_operand(multiply(dout, factor), operand)


cdef bint has_same_shape(array, operand):
    return PyArray_CheckExact(operand) and cnp.PyArray_SAMESHAPE(
        <cnp.ndarray> array, <cnp.ndarray> operand)


cdef object at_shape(object product, tuple shape):
    """A product that may not depend on all axes: it counts for each of their elements."""
    if np.shape(product) == shape:
        return product
    return np.broadcast_to(product, shape, subok=True)


cdef bint is_python_number(object value):
    return isinstance(value, Number) and not isinstance(value, np.generic)


# ---- documentation ----
#
# The functions are builtins, not the function objects that Cython makes by default (binding=False
# above): calling those takes 10 ns more, 7 % of a small step. A builtin has its signature and text
# from C; they are set here, so that the reference's serve both implementations.

cdef extern from "Python.h":
    ctypedef struct PyMethodDef:
        const char *ml_doc
    ctypedef struct PyCFunctionObject:
        PyMethodDef *m_ml

cdef list texts = []  # keeps them alive; written by the import alone


cdef int document(object function, object original) except -1:
    defaults = [f"={default!r}" for default in original.__defaults__]
    names = original.__code__.co_varnames[:original.__code__.co_argcount]
    defaults = [""] * (len(names) - len(defaults)) + defaults
    parameters = ", ".join([name + default for name, default in zip(names, defaults)])
    text = f"{original.__name__}({parameters})\n--\n\n{original.__doc__ or ''}".encode()
    texts.append(text)
    (<PyCFunctionObject *> function).m_ml.ml_doc = text


document(multiply, reference.multiply)
document(add, reference.add)
document(multiply_backward, reference.multiply_backward)
document(add_backward, reference.add_backward)
