# Rows: the kernels, run over one axis of a job by its operation, dtype and strides.

include "kernels.pxi"

from .job cimport (
    ADD, FLOAT32, FLOAT64, INT32, MAX_OPERANDS, MULTIPLY, MULTIPLY_BACKWARD, Job, Operation, Sum,
)

cdef extern from "stream.h" nogil:
    const bint CAN_STREAM
    void stream_copy(void *to, const void *source, size_t size)
    void stream_finish()


# ---- memoryviews without acquisition ----
#
# Acquiring a typed memoryview takes some 70 ns, as long as NumPy takes for a whole small product.
# A kernel only borrows its operands, so the slice struct that Cython passes for a memoryview is
# filled here by hand: with no owner (memview NULL) nothing is counted, locked or released. To the
# C compiler a kernel takes such structs whatever the dtype; the casts below only tell Cython so.

cdef extern from *:
    """
    /* Cython's struct has these fields and no other; else this does not compile. */
    struct fastlayers_slice {
        void *memview;
        char *data;
        Py_ssize_t shape[8], strides[8], suboffsets[8];
    };
    #define FASTLAYERS_SAME_PLACE(field) \\
        (offsetof(__Pyx_memviewslice, field) == offsetof(struct fastlayers_slice, field))
    #define CHECK_SLICE() \\
        ((void)sizeof(char[sizeof(__Pyx_memviewslice) == sizeof(struct fastlayers_slice) \\
            && FASTLAYERS_SAME_PLACE(memview) && FASTLAYERS_SAME_PLACE(data) \\
            && FASTLAYERS_SAME_PLACE(shape) && FASTLAYERS_SAME_PLACE(strides) \\
            && FASTLAYERS_SAME_PLACE(suboffsets) ? 1 : -1]))
    """
    ctypedef struct Slice "__Pyx_memviewslice":
        void *memview
        char *data
        Py_ssize_t shape[8]
        Py_ssize_t strides[8]
        Py_ssize_t suboffsets[8]
    void CHECK_SLICE() noexcept nogil

ctypedef void (*TernaryKernel)(Slice, Slice, Slice) noexcept nogil
ctypedef void (*QuaternaryKernel)(Slice, Slice, Slice, Slice) noexcept nogil
ctypedef void (*QuinaryKernel)(Slice, Slice, Slice, Slice, Slice) noexcept nogil


cdef inline Slice borrow(char *data, Py_ssize_t n, Py_ssize_t stride) noexcept nogil:
    cdef Slice view
    CHECK_SLICE()
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


cdef inline void plain_row(
    const Job *job, char **data, const Py_ssize_t *strides, Py_ssize_t n
) noexcept nogil:
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
    cdef Py_ssize_t head
    if job.chunks:
        summing_row(job, data, n)
        return
    if n < ALIGNED_ROW or strides[job.inputs] != job.item:
        plain_row(job, data, strides, n)
        return
    head = (-<Py_ssize_t> data[job.inputs] & (CACHE_LINE - 1)) // job.item
    plain_row(job, data, strides, head)
    for operand in range(job.operands):
        rest[operand] = data[operand] + head * strides[operand]
    if CAN_STREAM and job.streaming and is_streamable(job, rest):
        streaming_row(job, rest, n - head)
    else:
        plain_row(job, rest, strides, n - head)


# Each tile of the results is computed into a buffer by the ordinary kernels, then copied out past
# the caches. Tiles of 512 elements and more lose what that gains for two results.
cdef enum:
    TILE = 64
    TILE_BYTES = 64 * 8
    BUFFER_BYTES = 2 * 64 * 8 + 64  # for two results, wherever the stack aligns it


cdef inline bint is_streamable(const Job *job, char **data) noexcept nogil:
    cdef int result
    for result in range(job.inputs, job.operands):
        if (job.strides[job.ndim - 1][result] != job.item
                or <Py_ssize_t> data[result] & (CACHE_LINE - 1)):
            return False
    return True


cdef void streaming_row(const Job *job, char **data, Py_ssize_t n) noexcept nogil:
    cdef char memory[BUFFER_BYTES]
    cdef char *buffers = memory + (-<Py_ssize_t> &memory[0] & (CACHE_LINE - 1))
    cdef char *tile[MAX_OPERANDS]
    cdef const Py_ssize_t *strides = job.strides[job.ndim - 1]
    cdef Py_ssize_t length
    cdef Py_ssize_t start = 0
    cdef int operand
    for operand in range(job.inputs, job.operands):
        tile[operand] = buffers + (operand - job.inputs) * TILE_BYTES
    while start < n:
        length = min(<Py_ssize_t> TILE, n - start)
        for operand in range(job.inputs):
            tile[operand] = data[operand] + start * strides[operand]
        plain_row(job, tile, strides, length)
        for operand in range(job.inputs, job.operands):
            stream_copy(data[operand] + start * job.item, tile[operand], length * job.item)
        start += length


cdef void summing_row(const Job *job, char **data, Py_ssize_t n) noexcept nogil:
    """Compute a row segment by segment, and add what is to be summed to its sums."""
    cdef double buffers[2][SEGMENT]     # as wide as any dtype
    cdef char *segment[MAX_OPERANDS]
    cdef Py_ssize_t strides[MAX_OPERANDS]
    cdef Py_ssize_t length
    cdef Py_ssize_t start = 0
    cdef int operand, result
    for operand in range(MAX_OPERANDS):
        strides[operand] = job.strides[job.ndim - 1][operand]
    for result in range(job.operands - job.inputs):
        if job.sums[result].wanted:
            strides[job.inputs + result] = job.item
    while start < n:
        length = min(<Py_ssize_t> SEGMENT, n - start)
        for operand in range(job.operands):
            segment[operand] = data[operand] + start * strides[operand]
        for result in range(job.operands - job.inputs):
            if job.sums[result].wanted:
                segment[job.inputs + result] = <char *> buffers[result]
        plain_row(job, segment, strides, length)
        for result in range(job.operands - job.inputs):
            if job.sums[result].wanted:
                operand = job.inputs + result
                add_segment(
                    job, <char *> buffers[result], length,
                    data[operand] + start * job.strides[job.ndim - 1][operand],
                    job.strides[job.ndim - 1][operand], job.sums[result].errors)
        start += length


cdef inline void add_segment(
    const Job *job, char *values, Py_ssize_t n, char *sums, Py_ssize_t stride, Py_ssize_t errors
) noexcept nogil:
    if job.dtype == FLOAT64:
        add_typed_segment(<double *> values, n, sums, stride, errors)
    else:
        add_typed_segment(<float *> values, n, sums, stride, errors)


ctypedef fused Real:
    float
    double


cdef inline void add_typed_segment(
    Real *values, Py_ssize_t n, char *sums, Py_ssize_t stride, Py_ssize_t errors
) noexcept nogil:
    cdef Slice source = borrow(<char *> values, n, sizeof(Real))
    if stride == 0:
        while source.shape[0] % LANES:  # sums begin at 0.0: no 0.0 more changes one
            values[source.shape[0]] = 0
            source.shape[0] += 1
        (<TernaryKernel> <void *> accumulate_segment[Real])(
            source, borrow(sums, 1, sizeof(double)), borrow(sums + errors, 1, sizeof(double)))
    elif stride == sizeof(double):
        (<TernaryKernel> <void *> accumulate[Real])(
            source, borrow(sums, n, sizeof(double)), borrow(sums + errors, n, sizeof(double)))
    else:
        (<TernaryKernel> <void *> accumulate[Real])(
            source, borrow(sums, n, stride), borrow(sums + errors, n, stride))
