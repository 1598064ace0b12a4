"""The table of dtypes."""

cimport numpy as cnp
from cpython.object cimport PyObject
from cpython.tuple cimport PyTuple_New
from libc.float cimport FLT_MAX, FLT_MIN
from libc.math cimport fabs, isfinite
from libc.stdint cimport INT32_MAX, INT32_MIN, INT64_MAX, INT64_MIN
from libc.string cimport memcpy

from ..program.program cimport FLOAT32, FLOAT64, INT32, INT64
from .ndarray cimport (
    NPY_FLOAT32, NPY_FLOAT64, NPY_INT32, NPY_INT64, PyArray_DescrFromType, PyArray_ScalarAsCtype,
    PyFloat_AS_DOUBLE, set_item,
)

import numpy as np

cdef extern from "Python.h":
    long long PyLong_AsLongLongAndOverflow(PyObject *, int *overflow) except? -1

cnp.import_array()

ctypedef fused T:
    float
    double
    int32_t
    int64_t


cdef bint store_float64(double value, char *number) noexcept:
    (<double *> number)[0] = value
    return True


cdef bint store_float32(double value, char *number) noexcept:
    # NumPy warns if the conversion overflows or underflows.
    if isfinite(value) and value != 0 and not FLT_MIN <= fabs(value) <= FLT_MAX:
        return False
    (<float *> number)[0] = <float> value
    return True


cdef void store_integer(long long value, T *number) noexcept:
    number[0] = <T> value


ctypedef void (*StoreInteger)(long long, char *) noexcept


cdef void add_row(
    DType dtype, T *unused, int type_number, object scalar_type, long long least, long long most
) noexcept:
    cdef DTypeRow *row = &dtypes[dtype]
    row.descr = PyArray_DescrFromType(type_number)
    row.scalar_type = <PyTypeObject *> scalar_type
    row.item_bytes = sizeof(T)
    row.least = least
    row.most = most
    row.store_real = NULL
    row.store_integer = <StoreInteger> store_integer[T]
    dtype_of_number[type_number] = dtype


cdef int _number
for _number in range(<int> cnp.NPY_NTYPES_LEGACY):
    dtype_of_number[_number] = UNSERVED

cdef long long FLOAT32_EXACT = 1LL << 24
cdef long long FLOAT64_EXACT = 1LL << 53
add_row(FLOAT32, <float *> NULL, NPY_FLOAT32, np.float32, -FLOAT32_EXACT, FLOAT32_EXACT)
add_row(FLOAT64, <double *> NULL, NPY_FLOAT64, np.float64, -FLOAT64_EXACT, FLOAT64_EXACT)
add_row(INT32, <int32_t *> NULL, NPY_INT32, np.int32, INT32_MIN, INT32_MAX)
add_row(INT64, <int64_t *> NULL, NPY_INT64, np.int64, INT64_MIN, INT64_MAX)
dtypes[FLOAT32].store_real = store_float32
dtypes[FLOAT64].store_real = store_float64

memory_map = <PyTypeObject *> np.memmap


cdef DType scalar_dtype(PyObject *value) noexcept:
    """The dtype of a NumPy scalar, or of an array without axes; UNSERVED for all else."""
    cdef DType dtype
    if PyArray_CheckExact(value):
        return array_dtype(<Array *> value) if PyArray_NDIM(<Array *> value) == 0 else UNSERVED
    for dtype in range(DTYPES):
        if Py_TYPE(value) == dtypes[dtype].scalar_type:
            return dtype
    return UNSERVED


cdef bint store_number(PyObject *value, DType dtype, char *number) noexcept:
    """Store a number as the dtype; False if NumPy would convert it differently, warn or raise."""
    cdef const DTypeRow *row = &dtypes[dtype]
    cdef long long integer
    cdef int overflow = 0
    if PyArray_CheckExact(value):
        if scalar_dtype(value) != dtype:
            return False
        memcpy(number, PyArray_DATA(<Array *> value), row.item_bytes)
        return True
    if Py_TYPE(value) == row.scalar_type:
        PyArray_ScalarAsCtype(value, number)
        return True
    if PyFloat_CheckExact(value):
        return row.store_real != NULL and row.store_real(PyFloat_AS_DOUBLE(value), number)
    if not PyLong_CheckExact(value):
        return False
    integer = PyLong_AsLongLongAndOverflow(value, &overflow)
    if overflow or not row.least <= integer <= row.most:
        return False
    row.store_integer(integer, number)
    return True


cdef bint describe_shape(PyObject *value, Operand *operand) noexcept:
    """Describe an operand's shape, if its values do not matter; False if it is not plain."""
    if is_array(value):
        operand.ndim = PyArray_NDIM(<Array *> value)
        operand.shape = PyArray_DIMS(<Array *> value)
        return True
    operand.ndim = 0
    return is_number(value) or isinstance(<object> value, np.generic)


# ---- arrays in another form ----
#
# The kind of an array can change between processes: joblib gives its workers memory maps, Dask
# arrays at odd addresses. A memory map is served as a plain array. An unaligned or byte-swapped
# array is copied first, which costs less than the buffers through which NumPy reads it.

cdef tuple converted(PyObject *const *operands, int count, unsigned int *copied):
    """Operands that are not served as they are, in a form that is served; None if there is none.

    ``copied`` gets a bit for each operand that is a copy.
    """
    cdef DType dtype = UNSERVED
    cdef DType one
    cdef bint changed = False
    cdef int slot
    copied[0] = 0
    for slot in range(count):
        if not is_array(operands[slot]):
            continue
        one = dtype_in_any_form(<Array *> operands[slot])
        if one == UNSERVED or (dtype != UNSERVED and one != dtype):
            return None
        dtype = one
        if array_dtype(<Array *> operands[slot]) == UNSERVED:
            if PyArray_NDIM(<Array *> operands[slot]):  # an array without axes has no order
                copied[0] |= <unsigned int> 1 << slot
            changed = True
        elif not PyArray_CheckExact(operands[slot]):
            changed = True
    if not changed:
        return None
    others = PyTuple_New(count)
    try:
        for slot in range(count):
            operand = <object> operands[slot]
            set_item(others, slot, plain(operand) if is_array(operands[slot]) else operand)
    except MemoryError:
        return None
    return others


cdef DType dtype_in_any_form(Array *array) noexcept:
    """The dtype of an array in any byte order and at any address, or UNSERVED."""
    cdef Descr *descr = PyArray_DESCR(array)
    cdef int number = descr.type_num
    if number < 0 or number >= cnp.NPY_NTYPES_LEGACY or PyDataType_METADATA(descr) != NULL:
        return UNSERVED
    return dtype_of_number[number]


cdef object plain(object array):
    """The array itself, or a view or a copy with its values and its memory order."""
    if not PyArray_CheckExact(<PyObject *> array):
        array = array.view(np.ndarray)
    if array_dtype(<Array *> array) != UNSERVED:
        return array
    dtype = array.dtype.newbyteorder("=")
    if 0 not in array.strides:
        return array.astype(dtype)
    # An axis that repeats an element does not affect the memory order; nor may the copy's.
    once = array[tuple([slice(None) if stride else slice(1) for stride in array.strides])]
    return np.broadcast_to(once.astype(dtype), array.shape)
