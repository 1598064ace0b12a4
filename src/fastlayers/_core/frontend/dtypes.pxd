"""What programs take as operands: arrays of the table's dtypes, and numbers that NumPy would
convert to such a dtype in only one way."""

cimport numpy as cnp
from cpython.object cimport PyObject, PyTypeObject
from libc.stdint cimport int32_t, int64_t

from ..program.program cimport DTYPES, UNSERVED, DType
from .ndarray cimport (
    NPY_ARRAY_ALIGNED, Array, Descr, PyArray_CheckExact, PyArray_DATA, PyArray_DESCR, PyArray_DIMS,
    PyArray_FLAGS, PyArray_ISNBO, PyArray_NDIM, PyArray_STRIDES, PyDataType_METADATA,
    PyFloat_CheckExact, PyLong_CheckExact, Py_TYPE,
)

cdef struct DTypeRow:
    Descr *descr                # NumPy's own: surely native byte order and no metadata
    PyTypeObject *scalar_type   # NumPy takes its exact instances as 0-d arrays of the dtype
    Py_ssize_t item_bytes
    long long least             # integers from here
    long long most              # to here are exact, so there is only one way to convert them
    # Store a number; for a real one, return False if NumPy would warn, and with NULL NumPy converts
    # the array.
    bint (*store_real)(double value, char *number) noexcept
    void (*store_integer)(long long value, char *number) noexcept

# Written once, by the import, under its lock.
cdef DTypeRow dtypes[DTYPES]
cdef DType dtype_of_number[cnp.NPY_NTYPES_LEGACY]
cdef PyTypeObject *memory_map

cdef union Number:
    float float32
    double float64
    int32_t int32
    int64_t int64

# Arrays are read as NumPy's ufuncs read them: changing an array's shape, dtype or memory (`resize`)
# while another thread computes with it may crash both. Its elements may be written meanwhile; which
# of the new ones are seen is undefined, as with NumPy.
cdef struct Operand:
    int ndim                # 0 for a number, which every axis repeats
    int flags
    char *data
    Py_ssize_t *shape
    Py_ssize_t *strides
    Number number           # what data points to, if it is a number


cdef inline bint is_number(PyObject *value) noexcept:
    return PyFloat_CheckExact(value) or PyLong_CheckExact(value)


cdef inline bint is_array(PyObject *value) noexcept:
    return PyArray_CheckExact(value) or Py_TYPE(value) == memory_map


cdef inline DType array_dtype(Array *array) noexcept:
    """The dtype of an aligned array in native byte order, or UNSERVED."""
    cdef Descr *descr = PyArray_DESCR(array)
    cdef int number = descr.type_num
    cdef DType dtype
    if number < 0 or number >= cnp.NPY_NTYPES_LEGACY:
        return UNSERVED
    dtype = dtype_of_number[number]
    if dtype == UNSERVED or not PyArray_FLAGS(array) & NPY_ARRAY_ALIGNED:
        return UNSERVED
    if descr != dtypes[dtype].descr and (
        not PyArray_ISNBO(descr.byteorder) or PyDataType_METADATA(descr) != NULL
    ):
        return UNSERVED
    return dtype


cdef inline bint has_dtype(Array *array, DType dtype) noexcept:
    """Whether an array is aligned and of a dtype.

    That of an array from a pickle has a descriptor of its own.
    """
    if PyArray_DESCR(array) == dtypes[dtype].descr and PyArray_FLAGS(array) & NPY_ARRAY_ALIGNED:
        return True
    return array_dtype(array) == dtype


cdef inline bint has_axes(PyObject *value) noexcept:
    """Whether a value is a plain array, and none without axes, which counts as a number."""
    return PyArray_CheckExact(value) and PyArray_NDIM(<Array *> value) > 0


cdef inline bint describe(PyObject *value, DType dtype, Operand *operand) noexcept:
    """Describe an operand of the given dtype; False if NumPy would convert it or the array."""
    cdef Array *array
    if PyArray_CheckExact(value):
        array = <Array *> value
        operand.ndim = PyArray_NDIM(array)
        operand.flags = PyArray_FLAGS(array)
        operand.data = <char *> PyArray_DATA(array)
        operand.shape = PyArray_DIMS(array)
        operand.strides = PyArray_STRIDES(array)
        return has_dtype(array, dtype)
    operand.ndim = 0
    operand.data = <char *> &operand.number
    return store_number(value, dtype, operand.data)


cdef DType scalar_dtype(PyObject *value) noexcept
cdef bint store_number(PyObject *value, DType dtype, char *number) noexcept
cdef bint describe_shape(PyObject *value, Operand *operand) noexcept
cdef tuple converted(PyObject *const *operands, int count, unsigned int *copied)
