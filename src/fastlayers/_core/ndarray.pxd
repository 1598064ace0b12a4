"""Fields of NumPy's objects as borrowed pointers, so that looking at them counts no references."""

from cpython.object cimport PyObject, PyTypeObject

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
    bint PyArray_CheckExact(object)
    PyObject *PyDataType_METADATA(const Descr *)
    PyTypeObject PyArray_Type
    Descr *PyArray_DescrFromType(int)  # a new reference
    object PyArray_NewFromDescr(
        PyTypeObject *, Descr *, int, const Py_ssize_t *, const Py_ssize_t *, void *, int,
        PyObject *)
    void PyArray_ScalarAsCtype(object, void *)
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
