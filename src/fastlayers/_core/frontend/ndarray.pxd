"""Objects as borrowed pointers, so that reading them counts no references."""

from cpython.object cimport PyObject, PyTypeObject
from cpython.ref cimport Py_INCREF
from cpython.tuple cimport PyTuple_SET_ITEM

cdef extern from "numpy/arrayobject.h" nogil:
    ctypedef struct Descr "PyArray_Descr":
        int type_num
        char byteorder
    ctypedef struct Array "PyArrayObject":
        pass
    Descr *PyArray_DESCR(const Array *)
    void *PyArray_DATA(const Array *)
    Py_ssize_t *PyArray_DIMS(const Array *)
    Py_ssize_t *PyArray_STRIDES(const Array *)
    int PyArray_NDIM(const Array *)
    int PyArray_FLAGS(const Array *)
    bint PyArray_CheckExact(PyObject *)
    PyObject *PyDataType_METADATA(const Descr *)
    PyTypeObject PyArray_Type
    Descr *PyArray_DescrFromType(int)  # a new reference
    object PyArray_NewFromDescr(
        PyTypeObject *, Descr *, int, const Py_ssize_t *, const Py_ssize_t *, void *, int,
        PyObject *)
    void PyArray_ScalarAsCtype(PyObject *, void *)
    bint PyArray_ISNBO(char)
    enum:
        NPY_FLOAT32
        NPY_FLOAT64
        NPY_INT32
        NPY_INT64
        NPY_ARRAY_C_CONTIGUOUS
        NPY_ARRAY_F_CONTIGUOUS
        NPY_ARRAY_ALIGNED
        NPY_ARRAY_WRITEABLE

cdef extern from "Python.h" nogil:
    PyTypeObject *Py_TYPE(PyObject *)
    bint PyFloat_CheckExact(PyObject *)
    bint PyLong_CheckExact(PyObject *)
    double PyFloat_AS_DOUBLE(PyObject *)
    PyObject *PyTuple_GET_ITEM(object, Py_ssize_t)


# Not with a comprehension: if its list cannot grow, Cython 3.3 releases an item twice.
cdef inline void set_item(object new_tuple, int position, object item) noexcept:
    """Set an item of a new tuple that nothing else refers to."""
    Py_INCREF(item)
    PyTuple_SET_ITEM(new_tuple, position, item)


cdef inline bint have_one_shape(const Array *array, const Array *other) noexcept nogil:
    cdef int axis
    if PyArray_NDIM(array) != PyArray_NDIM(other):
        return False
    for axis in range(PyArray_NDIM(array)):
        if PyArray_DIMS(array)[axis] != PyArray_DIMS(other)[axis]:
            return False
    return True
