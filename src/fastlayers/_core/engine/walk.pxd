"""Jobs, cut into shares or chunks for threads, and these into rows."""

from cython.parallel cimport parallel, threadid

from ..program.program cimport (
    MAX_DIMS, MAX_OPERANDS, REPEATED, STACK_BYTES, WHOLE, Job, Share, Sum,
)
from .kernels cimport SHORT_ROW
from .tiles cimport Workspace, begin_totals, end_runs, prepare, row
from .totals cimport end_totals, find_subtree

cdef extern from "fpstatus.h" nogil:
    ctypedef struct fp_environment:
        pass
    void fp_clear()
    int fp_raised()
    void fp_get(fp_environment *environment)
    void fp_enter(const fp_environment *callers, fp_environment *own)
    int fp_leave(const fp_environment *own)

cdef extern from "shared.h" nogil:
    void add_flags(int *variable, int flags)

cdef extern from "stream.h" nogil:
    void stream_finish()

cdef extern from "team.h" nogil:
    int team_size()


cdef inline Py_ssize_t walk_rows(
    const Job *job, Workspace *workspace, Py_ssize_t start, Py_ssize_t stop
) noexcept nogil:
    """Run the elements from start to stop, counted in the job's order, row by row.

    Return where they end; before that only if `row` stops before that.
    """
    cdef int axis, operand
    cdef int last = job.ndim - 1
    cdef Py_ssize_t n, done
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
        done = row(job, workspace, data, n)
        start += done
        if start >= stop or done < n:
            return start
        # Back to the start of the row, then on to the next one, like an odometer.
        if index[last]:         # the first row alone
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


cdef inline void walk_groups(
    const Job *job, Workspace *workspace, Py_ssize_t start, Py_ssize_t stop
) noexcept nogil:
    """The same for a job whose rows are short, several rows at a time; they are whole ones."""
    cdef int last = job.ndim - 1
    cdef Py_ssize_t columns = job.shape[last]
    cdef Py_ssize_t most = (workspace.stored.most - SHORT_ROW) // columns  # see `accumulate_rows`
    cdef Py_ssize_t top, rows, rest, index
    cdef int axis, operand
    cdef char *data[MAX_OPERANDS]
    while start < stop:
        top = start // columns % job.shape[last - 1]
        rows = min(most, min(job.shape[last - 1] - top, (stop - start) // columns))
        for operand in range(job.operands):
            data[operand] = job.data[operand] + top * job.strides[last - 1][operand]
        rest = start // columns // job.shape[last - 1]
        for axis in range(last - 2, -1, -1):
            index = rest % job.shape[axis]
            rest = rest // job.shape[axis]
            for operand in range(job.operands):
                data[operand] += index * job.strides[axis][operand]
        row(job, workspace, data, rows * columns)
        start += rows * columns


cdef inline void walk_whole_rows(
    const Job *job, Workspace *workspace, Py_ssize_t start, Py_ssize_t stop
) noexcept nogil:
    """The same for a pass over whole rows, all of whose operands are contiguous."""
    cdef int slot
    cdef char *data[MAX_OPERANDS]
    for slot in range(job.operands):
        data[slot] = job.data[slot]
        if job.program.layouts[slot] == WHOLE:
            data[slot] += start * job.strides[0][slot]
        elif job.program.layouts[slot] != REPEATED:
            data[slot] += start // job.columns * job.strides[0][slot]
    job.engine.run_tiles(job, &workspace.stored, data, stop - start, False)


# If an operand lies across the others (a transposed array), a row would touch as many cache lines
# as it has elements, and use an eighth of each. A block of this many rows and columns uses all of
# them while they are in the caches. A step on 1M float64 elements with one operand transposed took
# 3.7 ms; in blocks of 16 x 64 it took 7.9 ms, of 32 x 32 13 ms, of 256 x 16 10 ms (one thread, Xeon
# of the Sapphire Rapids family).
cdef enum:
    BLOCK_ROWS = 16
    BLOCK_COLUMNS = 512


cdef inline Py_ssize_t ceil_div(Py_ssize_t a, Py_ssize_t b) noexcept nogil:
    return (a + b - 1) // b


cdef inline Py_ssize_t count_blocks(const Job *job) noexcept nogil:
    cdef Py_ssize_t rows = job.shape[job.ndim - 2]
    cdef Py_ssize_t columns = job.shape[job.ndim - 1]
    return (
        job.size // rows // columns
        * ceil_div(rows, BLOCK_ROWS) * ceil_div(columns, BLOCK_COLUMNS))


cdef inline Py_ssize_t walk_blocks(
    const Job *job, Workspace *workspace, Py_ssize_t start, Py_ssize_t stop
) noexcept nogil:
    """Run the blocks of the last two axes from start to stop, along the columns first."""
    cdef Py_ssize_t rows = job.shape[job.ndim - 2]
    cdef Py_ssize_t columns = job.shape[job.ndim - 1]
    cdef Py_ssize_t across = ceil_div(columns, BLOCK_COLUMNS)
    cdef Py_ssize_t down = ceil_div(rows, BLOCK_ROWS)
    cdef Py_ssize_t block, top, left, rest, index, _row
    cdef int axis, operand
    cdef char *data[MAX_OPERANDS]
    for block in range(start, stop):
        left = block % across * BLOCK_COLUMNS
        top = block // across % down * BLOCK_ROWS
        for operand in range(job.operands):
            data[operand] = (
                job.data[operand]
                + top * job.strides[job.ndim - 2][operand]
                + left * job.strides[job.ndim - 1][operand])
        rest = block // across // down
        for axis in range(job.ndim - 3, -1, -1):
            index = rest % job.shape[axis]
            rest = rest // job.shape[axis]
            for operand in range(job.operands):
                data[operand] += index * job.strides[axis][operand]
        for _row in range(min(<Py_ssize_t> BLOCK_ROWS, rows - top)):
            row(job, workspace, data, min(<Py_ssize_t> BLOCK_COLUMNS, columns - left))
            for operand in range(job.operands):
                data[operand] += job.strides[job.ndim - 2][operand]
    return stop


cdef inline Py_ssize_t walk_job(
    const Job *job, int thread, Py_ssize_t start, Py_ssize_t stop
) noexcept nogil:
    """Run the elements, or if the job is blocked the blocks, from start to stop."""
    cdef Workspace workspace
    cdef int number
    cdef char at_hand[STACK_BYTES]
    cdef char *memory = at_hand
    if job.workspace != NULL:
        memory = job.workspace + thread * job.workspace_bytes
    prepare(&workspace, job, memory)
    if job.columns:
        walk_whole_rows(job, &workspace, start, stop)
        return stop
    if job.blocked:
        return walk_blocks(job, &workspace, start, stop)
    begin_totals(job, &workspace.stored, stop - start)
    if not job.chunks:
        start = walk_rows(job, &workspace, start, stop)
        for number in range(job.program.totals):
            job.totals[number][job.subtree] = workspace.stored.totals[number].sum
        return start
    if job.grouped:
        walk_groups(job, &workspace, start, stop)
    else:
        walk_rows(job, &workspace, start, stop)
    end_runs(job, &workspace.stored)
    return stop


# Shares are whole cache lines of a contiguous result, and depend only on the size: in backward, a
# thread finds in its cache what it used in forward.
cdef enum:
    SHARE_UNIT = 64         # elements


cdef inline int run_share(
    const Job *job, int thread, int part, const fp_environment *callers
) noexcept nogil:
    """Run one thread's share of a job; return the floating-point exceptions that it raised."""
    cdef Py_ssize_t size = count_blocks(job) if job.blocked else job.size
    cdef Py_ssize_t unit = 1 if job.blocked else job.columns or SHARE_UNIT
    cdef Py_ssize_t share = (size // job.threads // unit + 1) * unit
    cdef Py_ssize_t start = min(part * share, size)
    cdef Py_ssize_t stop = min(start + share, size)
    cdef Py_ssize_t reached = stop
    cdef fp_environment own
    fp_enter(callers, &own)
    if start < stop:
        reached = job.engine.walk(job, thread, start, stop)
    # Of a team that is larger, others have no share: there are no more places than threads.
    if job.in_place and part < job.threads:
        job.shares[part] = Share(reached, stop)
    if job.streaming:
        stream_finish()
    return fp_leave(&own)


cdef inline int run_chunks(
    const Job *job, int thread, int group, const fp_environment *callers
) noexcept nogil:
    """Run one group of chunks of a job with sums; return the exceptions that it raised."""
    cdef Job part
    cdef fp_environment own
    cdef int chunk, result, each
    cdef Py_ssize_t units = job.size // job.chunk_unit
    fp_enter(callers, &own)
    if job.chunks == 1:
        job.engine.walk(job, thread, 0, job.size)
        return fp_leave(&own)
    part = job[0]
    each = job.chunks // job.chunk_groups
    for chunk in range(group * each, (group + 1) * each):
        for result in range(job.program.results):
            if job.sums[result].wanted:
                part.data[job.first_result + result] = job.data[job.first_result + result] + (
                    chunk * job.sums[result].sets // job.chunks * job.sums[result].set_stride)
        job.engine.walk(
            &part, thread, units * chunk // job.chunks * job.chunk_unit,
            units * (chunk + 1) // job.chunks * job.chunk_unit)
    return fp_leave(&own)


cdef inline int run_subtree(
    const Job *job, int thread, int number, const fp_environment *callers
) noexcept nogil:
    """Run the elements of a subtree of totals; return the exceptions that were raised."""
    cdef Job part
    cdef fp_environment own
    cdef Py_ssize_t start, length
    fp_enter(callers, &own)
    part = job[0]
    part.subtree = number
    find_subtree(job, number, &start, &length)
    job.engine.walk(&part, thread, start, start + length)
    if job.streaming:
        stream_finish()
    return fp_leave(&own)


cdef inline int finish_sum(const Job *job, const Sum *sum, char *sums) noexcept nogil:
    """Add up the sets, in order, and round the sums to the job's dtype."""
    cdef int number
    cdef char *data[4]
    fp_clear()
    data[2] = sums
    data[3] = sums + sum.error_offset
    for number in range(1, sum.sets):
        data[0] = sums + number * sum.set_stride
        data[1] = data[0] + sum.error_offset
        job.engine.merge[job.dtype](data, &sum.count, NULL, NULL)
    data[0] = sums
    data[1] = sums + sum.error_offset
    data[2] = sum.result
    job.engine.round_sums[job.dtype](data, &sum.count, NULL, NULL)
    return fp_raised()


cdef inline int run_job(const Job *job) noexcept nogil:
    cdef int raised
    cdef int part
    cdef fp_environment callers
    if (
        job.threads == 1 and job.ndim == 1 and not job.streaming and not job.chunks
        and not job.in_place and job.subtrees <= 1
    ):
        fp_clear()
        if job.program.direct:
            row(job, NULL, <char **> job.data, job.size)
        elif job.size:
            job.engine.walk(job, 0, 0, job.size)
        return fp_raised()
    fp_get(&callers)
    raised = run_parts(
        job, job.chunk_groups if job.chunks else job.subtrees or job.team, &callers)
    if job.subtrees:
        fp_clear()
        end_totals(job)
        raised |= fp_raised()
    if job.chunks:
        for part in range(job.program.results):
            if job.sums[part].wanted:
                raised |= finish_sum(job, &job.sums[part], job.data[job.first_result + part])
    return raised


cdef inline int run_parts(
    const Job *job, int parts, const fp_environment *callers
) noexcept nogil:
    """Run the groups of chunks, or the shares, of a job on its team; return the exceptions raised.

    Parts without a share return at once: with a smaller team, GNU OpenMP would end the other
    threads and start them again for the next larger job. This is a parallel block, and no prange:
    that waits for all threads twice. With it, a call on two threads took 0.85 us longer (Xeon of
    the Sapphire Rapids family).
    """
    cdef int raised = 0
    cdef int thread, part
    if job.team == 1:           # OpenMP would take longer than a small sum
        for part in range(parts):
            raised |= run_part(job, 0, part, callers)
        return raised
    with parallel(num_threads=job.team):
        thread = threadid()
        # There may be fewer threads than were asked for.
        for part in range(parts * thread // team_size(), parts * (thread + 1) // team_size()):
            add_flags(&raised, run_part(job, thread, part, callers))
    return raised


cdef inline int run_part(
    const Job *job, int thread, int part, const fp_environment *callers
) noexcept nogil:
    if job.chunks:
        return run_chunks(job, thread, part, callers)
    if job.subtrees:
        return run_subtree(job, thread, part, callers)
    return run_share(job, thread, part, callers)
