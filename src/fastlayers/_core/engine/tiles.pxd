"""Rows of a job, run straight on the operands or tile by tile through buffers in the caches."""

from ..program.program cimport (
    MAX_INPUTS, MAX_OPERANDS, MAX_RESULTS, MAX_SLOTS, MAX_TEMPORARIES, STEP_SLOTS, Job, Loop,
    Program, Step, Sum,
)
from .kernels cimport SEGMENT

cdef extern from "stream.h" nogil:
    const bint CAN_STREAM
    void stream_copy(void *to, const void *source, size_t size)

# A vector store that straddles two cache lines costs twice as much, and malloc's large arrays all
# start 16 bytes past a line. There a backward of 10k float64 took 9.4 us, but 4.1 us with the first
# elements computed separately (AVX-512, Xeon of the Sapphire Rapids family).
cdef enum:
    CACHE_LINE = 64         # bytes
    ALIGNED_ROW = 256       # elements; for shorter rows a second loop does not pay

# The ordinary loops compute streamed results into a tile, which is then copied out past the caches.
# With two results, tiles of 512 elements or more lose the benefit. All other tiles are as long as a
# segment of the sums. The buffers are a cache line further apart, so they do not collide in a page.
cdef enum:
    STREAMED_TILE = 64      # elements
    BUFFER_BYTES = 256 * 8 + 64
    ALL_BUFFERS = (16 + 16) * (256 * 8 + 64) + 64


cdef inline void row(const Job *job, char **data, Py_ssize_t n) noexcept nogil:
    """Run the program over n elements of the innermost axis."""
    cdef const Py_ssize_t *strides = job.strides[job.ndim - 1]
    cdef char *rest[MAX_OPERANDS]
    cdef int operand
    cdef Py_ssize_t head
    if n < ALIGNED_ROW or job.chunks or strides[job.first_result] != job.item_bytes:
        run_span(job, data, n, False)
        return
    head = (-<Py_ssize_t> data[job.first_result] & (CACHE_LINE - 1)) // job.item_bytes
    if head:
        run_span(job, data, head, False)
    for operand in range(job.operands):
        rest[operand] = data[operand] + head * strides[operand]
    run_span(job, rest, n - head, CAN_STREAM and job.streaming and is_streamable(job, rest))


cdef inline bint is_streamable(const Job *job, char **data) noexcept nogil:
    cdef int result
    for result in range(job.first_result, job.operands):
        if (job.strides[job.ndim - 1][result] != job.item_bytes
                or <Py_ssize_t> data[result] & (CACHE_LINE - 1)):
            return False
    return True


cdef inline void run_span(
    const Job *job, char **data, Py_ssize_t n, bint streaming
) noexcept nogil:
    if job.program.direct and not streaming and not job.chunks:
        job.loop(data, &n, job.strides[job.ndim - 1], NULL)
    else:
        run_tiles(job, data, n, streaming)


cdef inline void run_tiles(
    const Job *job, char **data, Py_ssize_t n, bint streaming
) noexcept nogil:
    cdef char memory[ALL_BUFFERS]
    cdef char *buffer = memory + (-<Py_ssize_t> &memory[0] & (CACHE_LINE - 1))
    cdef const Py_ssize_t *strides = job.strides[job.ndim - 1]
    cdef char *slots[MAX_SLOTS]
    cdef Py_ssize_t steps[MAX_SLOTS]    # bytes from an element to the next
    cdef bint buffered[MAX_OPERANDS]
    cdef Py_ssize_t most = STREAMED_TILE if streaming and job.program.direct else SEGMENT
    cdef Py_ssize_t distance = most * job.item_bytes + CACHE_LINE
    cdef Py_ssize_t start = 0
    cdef Py_ssize_t length
    cdef int slot
    for slot in range(job.operands + job.program.temporaries):
        if slot < job.first_result:
            buffered[slot] = False
        elif slot < job.operands:
            buffered[slot] = streaming or (
                job.chunks and job.sums[slot - job.first_result].wanted)
        if slot < job.operands and not buffered[slot]:
            steps[slot] = strides[slot]
            continue
        slots[slot] = buffer
        steps[slot] = job.item_bytes
        buffer += distance
    while start < n:
        length = min(most, n - start)
        for slot in range(job.operands):
            if not buffered[slot]:
                slots[slot] = data[slot] + start * steps[slot]
        run_steps(job, slots, steps, length)
        for slot in range(job.first_result, job.operands):
            if not buffered[slot]:
                continue
            if streaming:
                stream_copy(
                    data[slot] + start * job.item_bytes, slots[slot], length * job.item_bytes)
            else:
                add_to_sums(
                    job, &job.sums[slot - job.first_result], slots[slot], length,
                    data[slot] + start * strides[slot], strides[slot])
        start += length


cdef inline void run_steps(
    const Job *job, char **slots, const Py_ssize_t *strides, Py_ssize_t n
) noexcept nogil:
    cdef const Step *step
    cdef char *data[STEP_SLOTS]
    cdef Py_ssize_t its_strides[STEP_SLOTS]
    cdef int i, j
    if job.program.direct:
        job.loop(slots, &n, strides, NULL)
        return
    for i in range(job.program.step_count):
        step = &job.program.steps[i]
        for j in range(step.slot_count):
            data[j] = slots[step.slots[j]]
            its_strides[j] = strides[step.slots[j]]
        job.engine.loops[step.operation][job.dtype](data, &n, its_strides, NULL)


cdef inline void add_to_sums(
    const Job *job, const Sum *sum, char *values, Py_ssize_t n, char *sums, Py_ssize_t stride
) noexcept nogil:
    cdef char *data[3]
    cdef Py_ssize_t strides[3]
    data[0] = values
    data[1] = sums
    data[2] = sums + sum.error_offset
    strides[0] = job.item_bytes
    strides[1] = strides[2] = stride
    if stride == 0:
        job.engine.accumulate_segment[job.dtype](data, &n, strides, NULL)
    else:
        job.engine.accumulate[job.dtype](data, &n, strides, NULL)
