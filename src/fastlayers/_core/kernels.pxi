# The kernels, and how a job is cut into rows for them.
#
# This file is compiled once for each instruction set, each time into a module of its own (the .pyx
# files beside it say which). All arithmetic of the package is in the four kernels below. They loop
# over strided memoryviews and know nothing of layouts: the rows that matter (contiguous, or one
# operand repeated) call them with constant strides, and the C compiler makes a vector loop of each.

from cpython.pycapsule cimport PyCapsule_New
from libc.stdint cimport int32_t, int64_t

from .job cimport (
    ADD, FLOAT32, FLOAT64, INT32, MAX_DIMS, MAX_OPERANDS, MULTIPLY, MULTIPLY_BACKWARD,
    DType, Job, Operation,
)

cdef extern from "fpstatus.h" nogil:
    void fp_clear()
    int fp_raised()

# A row becomes a vector loop only where the compiler sees its constant strides inside the kernel.
# Left to itself GCC shares one strided copy between rows of different strides: three times slower.
cdef extern from *:
    """
    #undef CYTHON_INLINE
    #if defined(__GNUC__) || defined(__clang__)
    #define CYTHON_INLINE inline __attribute__((always_inline))
    #elif defined(_MSC_VER)
    #define CYTHON_INLINE __forceinline
    #else
    #define CYTHON_INLINE inline
    #endif
    """

ctypedef fused T:
    float
    double
    int32_t
    int64_t


# ---- arithmetic ----

cdef inline void multiply(
    const T[:] x,           # IN
    const T[:] y,           # IN
    T[:] out,               # OUT
) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(out.shape[0]):
        out[i] = x[i] * y[i]


cdef inline void add(
    const T[:] x,           # IN
    const T[:] y,           # IN
    T[:] out,               # OUT
) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(out.shape[0]):
        out[i] = x[i] + y[i]


cdef inline void multiply_backward(
    const T[:] dout,        # IN
    const T[:] x,           # IN
    const T[:] y,           # IN
    T[:] dx,                # OUT
    T[:] dy,                # OUT
) noexcept nogil:
    cdef Py_ssize_t i
    cdef T gradient
    for i in range(dout.shape[0]):
        gradient = dout[i]
        dx[i] = gradient * y[i]
        dy[i] = gradient * x[i]


cdef inline void add_backward(
    const T[:] dout,        # IN
    const T[:] one,         # IN   multiplied by, since dout * 1 quiets a signalling NaN
    T[:] dx,                # OUT
    T[:] dy,                # OUT
) noexcept nogil:
    cdef Py_ssize_t i
    cdef T gradient
    for i in range(dout.shape[0]):
        gradient = dout[i] * one[i]
        dx[i] = gradient
        dy[i] = gradient


# ---- memoryviews without acquisition ----
#
# Acquiring a typed memoryview takes some 70 ns, as long as NumPy takes for a whole small product.
# A kernel only borrows its operands, so the slice struct that Cython passes for a memoryview is
# filled here by hand: with no owner (memview NULL) nothing is counted, locked or released. To the
# C compiler a kernel takes such structs whatever the dtype; the casts below only tell Cython so.

cdef extern from *:
    ctypedef struct Slice "__Pyx_memviewslice":
        void *memview
        char *data
        Py_ssize_t shape[8]
        Py_ssize_t strides[8]
        Py_ssize_t suboffsets[8]

ctypedef void (*TernaryKernel)(Slice, Slice, Slice) noexcept nogil
ctypedef void (*QuaternaryKernel)(Slice, Slice, Slice, Slice) noexcept nogil
ctypedef void (*QuinaryKernel)(Slice, Slice, Slice, Slice, Slice) noexcept nogil


cdef inline Slice borrow(char *data, Py_ssize_t n, Py_ssize_t stride) noexcept nogil:
    cdef Slice view
    view.memview = NULL
    view.data = data
    view.shape[0] = n
    view.strides[0] = stride
    view.suboffsets[0] = -1
    return view


cdef inline void strided_row(
    T *dtype,               # only its type is used
    Operation operation,
    char **data,
    Py_ssize_t n,
    Py_ssize_t s0,          # strides in bytes, one an operand
    Py_ssize_t s1,
    Py_ssize_t s2,
    Py_ssize_t s3,
    Py_ssize_t s4,
) noexcept nogil:
    if operation == MULTIPLY:
        (<TernaryKernel> <void *> multiply[T])(
            borrow(data[0], n, s0), borrow(data[1], n, s1), borrow(data[2], n, s2))
    elif operation == ADD:
        (<TernaryKernel> <void *> add[T])(
            borrow(data[0], n, s0), borrow(data[1], n, s1), borrow(data[2], n, s2))
    elif operation == MULTIPLY_BACKWARD:
        (<QuinaryKernel> <void *> multiply_backward[T])(
            borrow(data[0], n, s0), borrow(data[1], n, s1), borrow(data[2], n, s2),
            borrow(data[3], n, s3), borrow(data[4], n, s4))
    else:
        (<QuaternaryKernel> <void *> add_backward[T])(
            borrow(data[0], n, s0), borrow(data[1], n, s1), borrow(data[2], n, s2),
            borrow(data[3], n, s3))


cdef inline void typed_row(
    T *dtype,
    Operation operation,
    char **data,
    const Py_ssize_t *s,
    Py_ssize_t n,
) noexcept nogil:
    cdef Py_ssize_t unit = sizeof(T)
    # Operands that an operation does not have are given the stride of a contiguous one.
    if s[0] == unit and s[2] == unit and s[3] == unit and s[4] == unit:
        if s[1] == unit:
            strided_row(dtype, operation, data, n, unit, unit, unit, unit, unit)
            return
        if s[1] == 0:
            strided_row(dtype, operation, data, n, unit, 0, unit, unit, unit)
            return
    if (operation == MULTIPLY_BACKWARD and s[2] == 0
            and s[0] == unit and s[1] == unit and s[3] == unit and s[4] == unit):
        strided_row(dtype, operation, data, n, unit, unit, 0, unit, unit)
        return
    strided_row(dtype, operation, data, n, s[0], s[1], s[2], s[3], s[4])


cdef inline void plain_row(const Job *job, char **data, Py_ssize_t n) noexcept nogil:
    cdef const Py_ssize_t *strides = job.strides[job.ndim - 1]
    if job.dtype == FLOAT64:
        typed_row(<double *> NULL, job.operation, data, strides, n)
    elif job.dtype == FLOAT32:
        typed_row(<float *> NULL, job.operation, data, strides, n)
    elif job.dtype == INT32:
        typed_row(<int32_t *> NULL, job.operation, data, strides, n)
    else:
        typed_row(<int64_t *> NULL, job.operation, data, strides, n)


# A vector store that straddles two cache lines costs twice, and large arrays that malloc gives are
# all 16 bytes past a line: there a backward of 10k float64 took 9.4 us, and 4.1 us with the first
# elements computed apart (AVX-512, Xeon of the Sapphire Rapids family).
cdef enum:
    CACHE_LINE = 64
    ALIGNED_ROW = 256       # shorter rows do not repay the second loop


cdef inline void row(const Job *job, char **data, Py_ssize_t n) noexcept nogil:
    """Run the operation over n elements of the innermost axis."""
    cdef const Py_ssize_t *strides = job.strides[job.ndim - 1]
    cdef char *rest[MAX_OPERANDS]
    cdef int operand
    cdef Py_ssize_t head = 0
    if n >= ALIGNED_ROW and strides[job.inputs] == job.item:
        head = (-<Py_ssize_t> data[job.inputs] & (CACHE_LINE - 1)) // job.item
    if head == 0:
        plain_row(job, data, n)
        return
    plain_row(job, data, head)
    for operand in range(job.operands):
        rest[operand] = data[operand] + head * strides[operand]
    plain_row(job, rest, n - head)


# ---- from a job to rows ----

cdef void walk(const Job *job, Py_ssize_t start, Py_ssize_t stop) noexcept nogil:
    """Run the elements from start to stop, counted in the job's own order, row by row."""
    cdef int axis, operand
    cdef int last = job.ndim - 1
    cdef Py_ssize_t n
    cdef Py_ssize_t rest = start
    cdef Py_ssize_t index[MAX_DIMS]
    cdef char *data[MAX_OPERANDS]
    for operand in range(job.operands):
        data[operand] = job.data[operand]
    for axis in range(last, -1, -1):
        index[axis] = rest % job.shape[axis]
        rest = rest // job.shape[axis]
        for operand in range(job.operands):
            data[operand] += index[axis] * job.strides[axis][operand]
    while True:
        n = min(job.shape[last] - index[last], stop - start)
        row(job, data, n)
        start += n
        if start >= stop:
            return
        # Back to the head of the row, then on to the next one, as an odometer goes.
        for operand in range(job.operands):
            data[operand] -= index[last] * job.strides[last][operand]
        index[last] = 0
        axis = last - 1
        while True:
            index[axis] += 1
            for operand in range(job.operands):
                data[operand] += job.strides[axis][operand]
            if index[axis] < job.shape[axis]:
                break
            for operand in range(job.operands):
                data[operand] -= job.shape[axis] * job.strides[axis][operand]
            index[axis] = 0
            axis -= 1


cdef int run(const Job *job) noexcept nogil:
    fp_clear()
    if job.ndim == 1:
        row(job, <char **> job.data, job.size)
    else:
        walk(job, 0, job.size)
    return fp_raised()


kernels = PyCapsule_New(<void *> run, "fastlayers._core.kernels", NULL)
