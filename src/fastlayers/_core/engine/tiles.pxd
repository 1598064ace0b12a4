"""Rows of a job, run straight on the operands or tile by tile through buffers in the caches."""

from libc.string cimport memcpy

from ..program.program cimport (
    MAX_OPERANDS, MAX_RESULTS, MAX_SLOTS, MAX_STEPS, STEP_SLOTS, Job, Loop, Step, Sum,
)
from .kernels cimport SEGMENT

cdef extern from "fpstatus.h" nogil:
    int fp_raised()

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
    ALL_BUFFERS = (16 + 16) * (256 * 8 + 64) + 64   # bytes, of MAX_RESULTS and MAX_TEMPORARIES


# How the rows of a job are run tile by tile: worked out once for all of them.
cdef struct Tiles:
    Py_ssize_t most                 # elements of a tile
    char *slots[MAX_SLOTS]          # where the steps find each slot's part of a tile
    Py_ssize_t steps[MAX_SLOTS]     # bytes from an element to the next
    int straight_count
    int straight[MAX_OPERANDS]      # operands that are read and written where they lie
    int buffered_count
    int buffered[MAX_RESULTS]       # results that go through a buffer
    Loop loops[MAX_STEPS]
    Py_ssize_t strides[MAX_STEPS][STEP_SLOTS]

# What a thread needs to run rows: tiles to store, and to stream; and the memory of their buffers.
cdef struct Workspace:
    Tiles stored
    Tiles streamed
    char memory[ALL_BUFFERS]


cdef inline bint is_tiled(const Job *job) noexcept nogil:
    """Whether rows are run tile by tile even if they are not streamed."""
    return not job.program.direct or job.chunks or job.in_place


cdef inline void prepare(Workspace *workspace, const Job *job) noexcept nogil:
    """Work out the tiles, if the job needs any."""
    if is_tiled(job):
        prepare_tiles(&workspace.stored, job, workspace.memory, False)
    if job.streaming:
        prepare_tiles(&workspace.streamed, job, workspace.memory, True)


cdef inline void prepare_tiles(
    Tiles *tiles, const Job *job, char *memory, bint streaming
) noexcept nogil:
    cdef char *buffer = memory + (-<Py_ssize_t> memory & (CACHE_LINE - 1))
    cdef Py_ssize_t distance
    cdef const Step *step
    cdef int slot, result, i, j
    tiles.most = STREAMED_TILE if streaming and job.program.direct else SEGMENT
    distance = tiles.most * job.item_bytes + CACHE_LINE
    tiles.straight_count = tiles.buffered_count = 0
    for slot in range(job.operands + job.program.temporaries):
        result = slot - job.first_result
        if slot < job.operands:
            if result < 0 or not (
                streaming or job.in_place >> result & 1
                or (job.chunks and job.sums[result].wanted)
            ):
                tiles.straight[tiles.straight_count] = slot
                tiles.straight_count += 1
                tiles.steps[slot] = job.strides[job.ndim - 1][slot]
                continue
            tiles.buffered[tiles.buffered_count] = slot
            tiles.buffered_count += 1
        tiles.slots[slot] = buffer
        tiles.steps[slot] = job.item_bytes
        buffer += distance
    for i in range(job.program.step_count):
        step = &job.program.steps[i]
        tiles.loops[i] = job.engine.loops[step.operation][job.dtype]
        for j in range(step.slot_count):
            tiles.strides[i][j] = tiles.steps[step.slots[j]]


cdef inline Py_ssize_t row(
    const Job *job, Workspace *workspace, char **data, Py_ssize_t n
) noexcept nogil:
    """Run the program over n elements of the innermost axis; return how many were run.

    All, unless the job works in place and meets an exception that is heeded: what it would
    overwrite is still needed then.
    """
    cdef const Py_ssize_t *strides = job.strides[job.ndim - 1]
    cdef char *rest[MAX_OPERANDS]
    cdef int operand
    cdef Py_ssize_t head
    if n < ALIGNED_ROW or job.chunks or strides[job.first_result] != job.item_bytes:
        return run_span(job, workspace, data, n)
    head = (-<Py_ssize_t> data[job.first_result] & (CACHE_LINE - 1)) // job.item_bytes
    if head and run_span(job, workspace, data, head) < head:
        return 0
    for operand in range(job.operands):
        rest[operand] = data[operand] + head * strides[operand]
    if CAN_STREAM and job.streaming and is_streamable(job, rest):
        return head + run_tiles(job, &workspace.streamed, rest, n - head, True)
    return head + run_span(job, workspace, rest, n - head)


cdef inline bint is_streamable(const Job *job, char **data) noexcept nogil:
    cdef int result
    for result in range(job.first_result, job.operands):
        if (job.strides[job.ndim - 1][result] != job.item_bytes
                or <Py_ssize_t> data[result] & (CACHE_LINE - 1)):
            return False
    return True


cdef inline Py_ssize_t run_span(
    const Job *job, Workspace *workspace, char **data, Py_ssize_t n
) noexcept nogil:
    if is_tiled(job):
        return run_tiles(job, &workspace.stored, data, n, False)
    job.loop(data, &n, job.strides[job.ndim - 1], NULL)
    return n


cdef inline Py_ssize_t run_tiles(
    const Job *job, Tiles *tiles, char **data, Py_ssize_t n, bint streaming
) noexcept nogil:
    cdef const Py_ssize_t *strides = job.strides[job.ndim - 1]
    cdef Py_ssize_t start = 0
    cdef Py_ssize_t length
    cdef int slot, i
    while start < n:
        length = min(tiles.most, n - start)
        for i in range(tiles.straight_count):
            slot = tiles.straight[i]
            tiles.slots[slot] = data[slot] + start * tiles.steps[slot]
        run_steps(job, tiles, length)
        if job.in_place and fp_raised() & job.heeded:
            return start
        for i in range(tiles.buffered_count):
            slot = tiles.buffered[i]
            if streaming:
                stream_copy(
                    data[slot] + start * job.item_bytes, tiles.slots[slot],
                    length * job.item_bytes)
            elif job.in_place:
                memcpy(
                    data[slot] + start * job.item_bytes, tiles.slots[slot],
                    length * job.item_bytes)
            else:
                add_to_sums(
                    job, &job.sums[slot - job.first_result], tiles.slots[slot], length,
                    data[slot] + start * strides[slot], strides[slot])
        start += length
    return n


cdef inline void run_steps(const Job *job, Tiles *tiles, Py_ssize_t n) noexcept nogil:
    cdef const Step *step
    cdef char *data[STEP_SLOTS]
    cdef int i, j
    for i in range(job.program.step_count):
        step = &job.program.steps[i]
        for j in range(step.slot_count):
            data[j] = tiles.slots[step.slots[j]]
        tiles.loops[i](data, &n, tiles.strides[i], NULL)


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
