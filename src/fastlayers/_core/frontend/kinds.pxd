"""The kinds of a graph's operands, on which its plan depends."""

from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.object cimport PyObject
from libc.string cimport memset

from ..program.program cimport MAX_DIMS, UNSERVED, DType
from .dtypes cimport array_dtype, has_axes, has_dtype, is_number, scalar_dtype
from .ndarray cimport Array, PyArray_CheckExact, PyArray_DIMS, PyArray_NDIM, have_one_shape

cdef enum:
    MOST_OPERANDS = 448
    MOST_SHAPES = 8

# The kinds of operands; arrays are of the whole shape, or of one that broadcasts to it.
cdef enum:
    NUMBER
    ONE             # the number 1, of the gradients of outputs
    SCALAR          # of NumPy's, of the arrays' dtype; an array without axes is one, too
    FIRST_SHAPE     # from here on arrays, by their shape

# How a shape broadcasts to the whole one, see graph/tracing.py.
cdef struct Shape:
    unsigned char lead
    unsigned char repeated

# What the plan for some operands depends on.
cdef struct Kinds:
    unsigned char axes      # of the whole shape
    unsigned char shapes    # how many there are
    Shape shape[MOST_SHAPES]            # the others are 0
    unsigned char kind[MOST_OPERANDS]

# What became of the calls of graphs: served, or why their nodes were run one by one.
cdef enum:
    SERVED
    OPERAND         # one that is no plain array, number or NumPy scalar
    DTYPE           # several dtypes, or one that is not served
    SHAPE           # shapes that do not broadcast, too many of them, or no axes at all
    EXPRESSION      # no schedule serves it on such operands
    LAYOUT          # memory orders that differ, or outputs that cannot be written
    WARNING         # NumPy must warn
    OUTCOMES


cdef inline Py_ssize_t size_of(int count) noexcept:
    """In bytes, of `Kinds` of as many operands, whose kinds are its last bytes."""
    return sizeof(Kinds) - MOST_OPERANDS + count


cdef inline int find_kinds(PyObject *const *operands, int count, int douts, Kinds *kinds) noexcept:
    """Find the kinds of operands, of which the last ones are outputs' gradients.

    Return why no pass serves them, or `SERVED`: arrays and NumPy's scalars are of one dtype.
    """
    cdef Array *array
    cdef Array *first = NULL
    cdef DType dtype = UNSERVED
    cdef DType scalars = UNSERVED
    cdef DType one
    cdef bint same = True
    cdef int slot
    for slot in range(count):
        if has_axes(operands[slot]):
            array = <Array *> operands[slot]
            if first == NULL:
                first = array
                dtype = array_dtype(array)
                if dtype == UNSERVED:
                    return DTYPE
            elif not has_dtype(array, dtype):
                return DTYPE
            else:
                same &= have_one_shape(array, first)
            if PyArray_NDIM(array) > MAX_DIMS:
                return SHAPE
            kinds.kind[slot] = FIRST_SHAPE
        elif is_number(operands[slot]):
            # Not 1.0, which makes floats of integers.
            kinds.kind[slot] = (
                ONE if slot >= count - douts and operands[slot] == <PyObject *> <object> 1
                else NUMBER)
        else:
            one = scalar_dtype(operands[slot])
            if PyArray_CheckExact(operands[slot]) and slot >= count - douts:
                return DTYPE  # it stands for the scalar in it
            if one == UNSERVED:
                return OPERAND
            if scalars != UNSERVED and one != scalars:
                return DTYPE
            scalars = one
            kinds.kind[slot] = SCALAR
    if scalars != UNSERVED and scalars != dtype:
        return SHAPE if first == NULL else DTYPE
    memset(kinds, 0, size_of(0))
    kinds.shapes = first != NULL
    if first != NULL:
        kinds.axes = PyArray_NDIM(first)
    return SERVED if same or tell_shapes_apart(operands, count, kinds) else SHAPE


cdef inline Py_ssize_t length_from_last(Array *array, int axis) noexcept:
    """Of an axis counted from the last one; 1 of one that the array does not have."""
    cdef int before = PyArray_NDIM(array) - 1 - axis
    return PyArray_DIMS(array)[before] if before >= 0 else 1


cdef inline bint tell_shapes_apart(PyObject *const *operands, int count, Kinds *kinds) noexcept:
    """Find the shapes of arrays that broadcast together; False if they do not."""
    cdef Py_ssize_t whole[MAX_DIMS]     # from the last axis
    cdef Py_ssize_t length
    cdef Array *array
    cdef Shape shape
    cdef int slot, axis, position
    for axis in range(MAX_DIMS):
        whole[axis] = 1
    for slot in range(count):
        if kinds.kind[slot] < FIRST_SHAPE:
            continue
        array = <Array *> operands[slot]
        kinds.axes = max(<int> kinds.axes, PyArray_NDIM(array))
        for axis in range(PyArray_NDIM(array)):
            length = length_from_last(array, axis)
            if whole[axis] == 1:
                whole[axis] = length
            elif length != 1 and length != whole[axis]:
                return False
    for slot in range(count):
        if kinds.kind[slot] < FIRST_SHAPE:
            continue
        array = <Array *> operands[slot]
        shape.lead = kinds.axes - PyArray_NDIM(array)
        shape.repeated = 0
        for axis in range(<int> kinds.axes):
            if whole[axis] != length_from_last(array, axis):
                shape.repeated |= 1 << axis
        position = 0
        while position < kinds.shapes and (
            kinds.shape[position].lead != shape.lead
            or kinds.shape[position].repeated != shape.repeated
        ):
            position += 1
        if position == MOST_SHAPES:
            return False
        if position == kinds.shapes:
            kinds.shape[position] = shape
            kinds.shapes += 1
        kinds.kind[slot] = FIRST_SHAPE + position
    return True


cdef enum:
    BITS = 2        # of a kind in a short key
    AXES_BITS = 4


cdef inline object key_of(const Kinds *kinds, int count):
    """A number if all arrays have one shape and operands are few, else bytes."""
    cdef Py_ssize_t key = kinds.axes
    cdef int slot
    if kinds.shapes <= 1 and count * BITS + AXES_BITS < 8 * <int> sizeof(key) - 1:
        for slot in range(count):
            key |= <Py_ssize_t> kinds.kind[slot] << BITS * slot + AXES_BITS
        return key
    return PyBytes_FromStringAndSize(<const char *> kinds, size_of(count))


cdef inline list described(const Kinds *kinds, int count):
    """The kinds as graph/tracing.py has them."""
    cdef int slot
    cdef const Shape *shape
    found = []
    for slot in range(count):
        if kinds.kind[slot] < FIRST_SHAPE:
            found.append(("number", "one", "scalar")[<int> kinds.kind[slot]])
        else:
            shape = &kinds.shape[kinds.kind[slot] - FIRST_SHAPE]
            found.append((shape.lead, shape.repeated))
    return found
