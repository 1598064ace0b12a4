# What the kernels take for an operand: arrays of their dtypes, and numbers that NumPy would convert
# to such a dtype in one way only.

# A new dtype is a line in each of these, an entry in job.pxd, and one in the kernels' T. They are
# written once, by the import, under its lock.

cdef int type_number[DTYPES]
type_number[FLOAT32] = NPY_FLOAT32
type_number[FLOAT64] = NPY_FLOAT64
type_number[INT32] = NPY_INT32
type_number[INT64] = NPY_INT64

cdef Py_ssize_t item_size[DTYPES]
item_size[FLOAT32] = sizeof(float)
item_size[FLOAT64] = sizeof(double)
item_size[INT32] = sizeof(int32_t)
item_size[INT64] = sizeof(int64_t)

# The scalar types, whose exact instances NumPy takes as 0-d arrays of the dtype.
cdef PyObject *scalar_type[DTYPES]
cdef tuple _scalar_types = (np.float32, np.float64, np.int32, np.int64)  # keeps them alive

# NumPy's own descriptors: native byte order and no metadata, without a look.
cdef Descr *canonical[DTYPES]

cdef DType dtype_of_number[cnp.NPY_NTYPES_LEGACY]
cdef int _number
for _number in range(cnp.NPY_NTYPES_LEGACY):
    dtype_of_number[_number] = UNSERVED
for _number in range(DTYPES):
    dtype_of_number[type_number[_number]] = <DType> _number
    canonical[_number] = PyArray_DescrFromType(type_number[_number])
    scalar_type[_number] = <PyObject *> _scalar_types[_number]


cdef union AnyNumber:
    float float32
    double float64
    int32_t int32
    int64_t int64


# An array is looked at as NumPy's ufuncs look at it: whoever gives it another shape, dtype or
# memory (`resize`) while another thread computes with it may crash either. Its elements may be
# written meanwhile; which of them are seen is then anybody's guess, as with NumPy.
cdef struct Operand:
    int ndim                # 0 for a number, which every axis repeats
    int flags
    char *data
    Py_ssize_t *shape
    Py_ssize_t *strides
    AnyNumber number        # where data points, if it is one


cdef inline DType array_dtype(Array *array) noexcept:
    """The kernel dtype of an aligned array in native byte order, or UNSERVED."""
    cdef Descr *descr = PyArray_DESCR(array)
    cdef int number = descr.type_num
    cdef DType dtype
    if number < 0 or number >= cnp.NPY_NTYPES_LEGACY:
        return UNSERVED
    dtype = dtype_of_number[number]
    if dtype == UNSERVED or not PyArray_FLAGS(array) & NPY_ARRAY_ALIGNED:
        return UNSERVED
    if descr != canonical[dtype] and (
        not PyArray_ISNBO(descr.byteorder) or PyDataType_METADATA(descr) != NULL
    ):
        return UNSERVED
    return dtype


cdef inline bint describe(object value, DType dtype, Operand *operand) noexcept:
    """Describe an operand of the given dtype; False if NumPy would convert it, or the array."""
    cdef Array *array
    if PyArray_CheckExact(value):
        array = <Array *> value
        operand.ndim = PyArray_NDIM(array)
        operand.flags = PyArray_FLAGS(array)
        operand.data = <char *> PyArray_DATA(array)
        operand.shape = PyArray_DIMS(array)
        operand.strides = PyArray_STRIDES(array)
        if PyArray_DESCR(array) == canonical[dtype] and operand.flags & NPY_ARRAY_ALIGNED:
            return True
        return array_dtype(array) == dtype
    operand.ndim = 0
    operand.data = <char *> &operand.number
    return describe_number(value, dtype, <char *> &operand.number)


cdef bint describe_number(object value, DType dtype, char *number) noexcept:
    """Store a number as the dtype; False if NumPy would convert it otherwise, warn or raise."""
    cdef double real
    cdef long long integer
    cdef int overflow = 0
    if <PyObject *> Py_TYPE(value) == scalar_type[dtype]:
        PyArray_ScalarAsCtype(value, number)
        return True
    if PyFloat_CheckExact(value):
        real = PyFloat_AS_DOUBLE(value)
        if dtype == FLOAT64:
            (<double *> number)[0] = real
            return True
        if dtype == FLOAT32:
            # NumPy warns when the conversion overflows or underflows.
            if isfinite(real) and real != 0 and not FLT_MIN <= fabs(real) <= FLT_MAX:
                return False
            (<float *> number)[0] = <float> real
            return True
        return False
    if not PyLong_CheckExact(value):
        return False
    integer = PyLong_AsLongLongAndOverflow(value, &overflow)
    if overflow:
        return False
    if dtype == INT64:
        (<int64_t *> number)[0] = integer
        return True
    if dtype == INT32:
        (<int32_t *> number)[0] = <int32_t> integer
        return INT32_MIN <= integer <= INT32_MAX
    # Integers that the dtype holds exactly: there is one way only to convert them.
    if dtype == FLOAT64:
        (<double *> number)[0] = <double> integer
        return -(1LL << 53) <= integer <= 1LL << 53
    (<float *> number)[0] = <float> integer
    return -(1LL << 24) <= integer <= 1LL << 24


cdef inline bint is_number(object value) noexcept:
    return PyFloat_CheckExact(value) or PyLong_CheckExact(value)


# ---- arrays in another form ----
#
# The kind of an array changes between processes: joblib hands its workers memory maps, Dask arrays
# at odd addresses. A memory map is served as the array that it is; an unaligned or byte-swapped
# array is copied first, which takes less than the buffers that NumPy reads it through.

cdef object _memory_map = np.memmap


cdef inline bint is_array(object value) noexcept:
    return PyArray_CheckExact(value) or <PyObject *> Py_TYPE(value) == <PyObject *> _memory_map


cdef DType number_of_dtype(object value) noexcept:
    """The kernel dtype of an array, in whatever byte order and wherever it lies, or UNSERVED."""
    cdef Descr *descr = PyArray_DESCR(<Array *> value)
    cdef int number = descr.type_num
    if number < 0 or number >= cnp.NPY_NTYPES_LEGACY or PyDataType_METADATA(descr) != NULL:
        return UNSERVED
    return dtype_of_number[number]


cdef tuple converted(tuple operands, int *copied):
    """Operands that are not served as they are, in a form that is; None if there is none.

    ``copied`` gets a bit for each that is a copy.
    """
    cdef DType dtype = UNSERVED
    cdef DType one
    cdef bint changed = False
    for position, operand in enumerate(operands):
        if not is_array(operand):
            continue
        one = number_of_dtype(operand)
        if one == UNSERVED or (dtype != UNSERVED and one != dtype):
            return None
        dtype = one
        if array_dtype(<Array *> operand) == UNSERVED:
            copied[0] |= 1 << <int> position
            changed = True
        elif not PyArray_CheckExact(operand):
            changed = True
    if not changed:
        return None
    previous = let_recycle(may_be_large(operands[0], operands[len(operands) - 1]))
    try:
        return tuple([plain(operand) if is_array(operand) else operand for operand in operands])
    except MemoryError:
        return None
    finally:
        restore(previous)


cdef object plain(object array):
    """The array itself, or a view or a copy with its values and its memory order."""
    if not PyArray_CheckExact(array):
        array = array.view(np.ndarray)
    if array_dtype(<Array *> array) != UNSERVED:
        return array
    dtype = array.dtype.newbyteorder("=")
    if 0 not in array.strides:
        return array.astype(dtype)
    # An axis that repeats an element says nothing about the memory order; nor may the copy's.
    once = array[tuple([slice(None) if stride else slice(1) for stride in array.strides])]
    return np.broadcast_to(once.astype(dtype), array.shape)
