# The kernels, and how a job is cut into rows for them.
#
# This file is compiled once for each instruction set, each time into a module of its own (the .pyx
# files beside it say which). All arithmetic of the package is in the four kernels below. They loop
# over strided memoryviews and know nothing of layouts: the rows that matter (contiguous, or one
# operand repeated) call them with constant strides, and the C compiler makes a vector loop of each.

from cpython.pycapsule cimport PyCapsule_New
from cython.parallel cimport prange
from libc.stdint cimport int32_t, int64_t

from .job cimport (
    ADD, FLOAT32, FLOAT64, INT32, MAX_DIMS, MAX_OPERANDS, MULTIPLY, MULTIPLY_BACKWARD,
    DType, Job, Operation, Sum,
)

cdef extern from "fpstatus.h" nogil:
    void fp_clear()
    int fp_raised()

cdef extern from "stream.h" nogil:
    void stream_copy(void *to, const void *source, size_t size)
    void stream_finish()

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


# ---- sums ----
#
# Sums are kept to twice the precision of a double: with each addition the part that rounding took is
# computed (exactly: Knuth, The Art of Computer Programming vol. 2, 4.2.2, theorem B) and summed too.
# Whole rows of results are summed so, element by element; along a row, 256 elements at a time are
# first summed in 32 lanes. Neither depends on the width of a vector or on who computes it, so all
# instruction sets and thread counts give the same bits.

cdef enum:
    SEGMENT = 256
    LANES = 32


cdef inline void accumulate(
    const T[:] values,      # IN
    double[:] sums,         # IN/OUT
    double[:] errors,       # IN/OUT
) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(values.shape[0]):
        add_exactly(values[i], &sums[i], &errors[i])


cdef inline void add_exactly(double value, double *sum, double *error) noexcept nogil:
    cdef double before = sum[0]
    cdef double after = before + value
    cdef double added = after - before
    error[0] += (before - (after - added)) + (value - added)
    sum[0] = after


cdef inline double segment_sum(const T[:] values) noexcept nogil:
    cdef double lanes[LANES]
    cdef Py_ssize_t i, lane
    cdef Py_ssize_t n = values.shape[0]
    cdef Py_ssize_t whole = n - n % LANES
    for lane in range(LANES):
        lanes[lane] = 0
    for i in range(0, whole, 32):
        for lane in range(LANES):
            lanes[lane] += values[i + lane]
    for lane in range(n - whole):
        lanes[lane] += values[whole + lane]
    i = LANES // 2
    while i:
        for lane in range(i):
            lanes[lane] += lanes[lane + i]
        i //= 2
    return lanes[0]


cdef inline void round_sums(
    const double[:] sums,   # IN
    const double[:] errors, # IN
    T[:] out,               # OUT
) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(out.shape[0]):
        out[i] = <T> (sums[i] + errors[i])


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

ctypedef double (*SumKernel)(Slice) noexcept nogil
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
    if job.streaming and is_streamable(job, rest):
        streaming_row(job, rest, n - head)
    else:
        plain_row(job, rest, strides, n - head)


# Each tile of the results is computed into a buffer by the ordinary kernels, then copied out past
# the caches. Tiles of 512 elements and more lose what that gains for two results.
cdef enum:
    TILE = 64
    TILE_BYTES = 64 * 8
    BUFFER_BYTES = 2 * 64 * 8 + 64  # for two results, wherever the stack aligns it
    SEGMENT_BYTES = 256 * 8


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
    cdef char buffers[2][SEGMENT_BYTES]
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
                segment[job.inputs + result] = buffers[result]
        plain_row(job, segment, strides, length)
        for result in range(job.operands - job.inputs):
            if job.sums[result].wanted:
                operand = job.inputs + result
                add_segment(
                    job, buffers[result], length,
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
        add_exactly(
            (<SumKernel> <void *> segment_sum[Real])(source),
            <double *> sums, <double *> (sums + errors))
    elif stride == sizeof(double):
        (<TernaryKernel> <void *> accumulate[Real])(
            source, borrow(sums, n, sizeof(double)), borrow(sums + errors, n, sizeof(double)))
    else:
        (<TernaryKernel> <void *> accumulate[Real])(
            source, borrow(sums, n, stride), borrow(sums + errors, n, stride))


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


# Where an operand lies across the others (a transposed array), a row would touch as many cache lines
# as it has elements, and use an eighth of each. A block of this many rows and columns uses them up
# while they are in the L1 cache.
cdef enum:
    BLOCK = 32


cdef inline Py_ssize_t count_blocks(const Job *job) noexcept nogil:
    """How many blocks of rows a blocked job has."""
    cdef Py_ssize_t rows = job.shape[job.ndim - 2]
    return (job.size // job.shape[job.ndim - 1] // rows) * ((rows + BLOCK - 1) // BLOCK)


cdef void walk_blocks(const Job *job, Py_ssize_t start, Py_ssize_t stop) noexcept nogil:
    """Run blocks of rows of the last two axes, each block of columns by block of columns."""
    cdef int last = job.ndim - 1
    cdef Py_ssize_t blocks = (job.shape[last - 1] + BLOCK - 1) // BLOCK
    cdef Py_ssize_t block, outer, row_index, rows, column, columns
    cdef int axis, operand
    cdef char *origin[MAX_OPERANDS]
    cdef char *data[MAX_OPERANDS]
    for block in range(start, stop):
        outer = block // blocks
        row_index = block % blocks * BLOCK
        rows = min(<Py_ssize_t> BLOCK, job.shape[last - 1] - row_index)
        for operand in range(job.operands):
            origin[operand] = job.data[operand] + row_index * job.strides[last - 1][operand]
        for axis in range(last - 2, -1, -1):
            for operand in range(job.operands):
                origin[operand] += outer % job.shape[axis] * job.strides[axis][operand]
            outer //= job.shape[axis]
        for column in range(0, job.shape[last], 32):
            columns = min(<Py_ssize_t> BLOCK, job.shape[last] - column)
            for row_index in range(rows):
                for operand in range(job.operands):
                    data[operand] = (
                        origin[operand] + row_index * job.strides[last - 1][operand]
                        + column * job.strides[last][operand])
                row(job, data, columns)


cdef int run_part(const Job *job, int part) noexcept nogil:
    """Run one thread's share of a job; return the floating-point exceptions that it raised."""
    # Shares begin at a cache line of the results, and are the same whenever the size is: in
    # backward a thread finds in its cache what it had in forward.
    cdef Py_ssize_t size = count_blocks(job) if job.blocked else job.size
    cdef Py_ssize_t unit = 1 if job.blocked else CACHE_LINE
    cdef Py_ssize_t share = (size // job.threads // unit + 1) * unit
    cdef Py_ssize_t start = min(part * share, size)
    cdef Py_ssize_t stop = min(start + share, size)
    fp_clear()
    if start < stop:
        if job.blocked:
            walk_blocks(job, start, stop)
        else:
            walk(job, start, stop)
    if job.streaming:
        stream_finish()
    return fp_raised()


cdef int run_chunk(const Job *job, int chunk) noexcept nogil:
    """Run one chunk of a job whose results are summed."""
    cdef Job part = job[0]
    cdef int operand, result
    cdef Py_ssize_t start = job.shape[0] * chunk // job.chunks
    part.shape[0] = job.shape[0] * (chunk + 1) // job.chunks - start
    part.size = job.size // job.shape[0] * part.shape[0]
    for operand in range(job.operands):
        part.data[operand] += start * job.strides[0][operand]
    for result in range(job.operands - job.inputs):
        if job.sums[result].wanted:
            part.data[job.inputs + result] += chunk * job.sums[result].next_chunk
    fp_clear()
    walk(&part, 0, part.size)
    return fp_raised()


cdef int finish_sum(const Job *job, const Sum *sum, char *sums) noexcept nogil:
    """Add the chunks' sums up, in their order, and round them to the job's dtype."""
    cdef Py_ssize_t i
    cdef int chunk
    cdef double *total
    cdef char *part
    fp_clear()
    if sum.next_chunk:
        for chunk in range(1, job.chunks):
            part = sums + chunk * sum.next_chunk
            for i in range(sum.count):
                total = <double *> sums + i
                add_exactly(
                    (<double *> part)[i], total, <double *> (<char *> total + sum.errors))
                (<double *> (<char *> total + sum.errors))[0] += (
                    <double *> (part + sum.errors))[i]
    if job.dtype == FLOAT64:
        round_typed_sums(<double *> sum.result, sums, sum)
    else:
        round_typed_sums(<float *> sum.result, sums, sum)
    return fp_raised()


cdef inline void round_typed_sums(Real *result, char *sums, const Sum *sum) noexcept nogil:
    (<TernaryKernel> <void *> round_sums[Real])(
        borrow(sums, sum.count, sizeof(double)),
        borrow(sums + sum.errors, sum.count, sizeof(double)),
        borrow(<char *> result, sum.count, sizeof(Real)))


cdef int run(const Job *job) noexcept nogil:
    cdef int raised = 0
    cdef int part
    if job.chunks:
        for part in prange(
            job.chunks, num_threads=job.threads, schedule="static"
        ):
            raised |= run_chunk(job, part)
        for part in range(job.operands - job.inputs):
            if job.sums[part].wanted:
                raised |= finish_sum(job, &job.sums[part], job.data[job.inputs + part])
        return raised
    if job.threads == 1:
        if job.ndim == 1 and not job.streaming:
            fp_clear()
            row(job, <char **> job.data, job.size)
            return fp_raised()
        return run_part(job, 0)
    for part in prange(job.threads, num_threads=job.threads, schedule="static", chunksize=1):
        raised |= run_part(job, part)
    return raised


kernels = PyCapsule_New(<void *> run, "fastlayers._core.kernels", NULL)
