"""Rows of a job, run straight on the operands or tile by tile through buffers in the caches."""

from cython cimport floating
from libc.string cimport memcpy, memset

from ..program.program cimport (
    COMPILED, ELEMENTWISE, EXPAND, FOREIGN, FROM_ZERO, MAX_INPUTS, MAX_OPERANDS, MAX_RESULTS,
    MAX_SLOTS, REPEATED, ROW_SUM, STEP_SLOTS, TOTAL, Form, Job, Loop, Step, Sum,
)
from .kernels cimport LANES, SEGMENT, SHORT_ROW
from .totals cimport Total, add_to_total, begin_total

cdef extern from "fpstatus.h" nogil:
    int fp_raised()
    int fp_take()
    int fp_take_x87()
    void fp_raise(int flags)

cdef extern from "stream.h" nogil:
    const bint CAN_STREAM
    void stream_copy(void *to, const void *source, size_t size)

# A vector store that straddles two cache lines costs twice as much, and malloc's large arrays all
# start 16 bytes past a line. There a backward of 10k float64 took 9.4 us, but 4.1 us with the first
# elements computed separately (AVX-512, Xeon of the Sapphire Rapids family).
cdef enum:
    CACHE_LINE = 64         # bytes
    ALIGNED_ROW = 256       # elements; for shorter rows a second loop does not pay

# The ordinary loops compute streamed results into a tile, which is then copied out past the
# caches. With two results, tiles of 512 elements or more lose the benefit; with tiles of 64, steps
# take 1.02 to 1.07 times as long (1M to 4M elements, AMD EPYC of the Milan family). What is summed
# goes by tiles as long as a segment. All other tiles have as many bytes as a segment of the widest
# dtype: with twice as many, graphs take 1.00 to 1.03 times as long, and float32 with half as many
# 1.00 to 1.04 times (ibid.). The buffers are a cache line further apart, so they do not collide in
# a page.
cdef enum:
    STREAMED_TILE = 128     # elements
    TILE_BYTES = 256 * 8
    MOST_ROWS = 2 * TILE_BYTES // 4     # of a tile


# A step on the tile at hand. What changes lies together, the arrays of one step behind those of the
# one before: with arrays for all steps, these were 4 KiB apart, where a load waits for a store that
# it only seems to need.
cdef struct TileStep:
    Loop loop
    void *its_own                       # what a ufunc's loop is given
    int flags                           # 0, or FROM_UFUNC and others
    int lanes                           # of a compiled loop
    Form form
    int its_sign                        # 1 of a largest element, -1 of a smallest one
    bint once                           # for each row
    Total *total
    int slot_count
    int buffered                        # how many results that go through a buffer are then done
    char **data                         # for each slot
    Py_ssize_t *strides                 # bytes from an element to the next
    Py_ssize_t *advances                # bytes from a tile to the next, 0 in a buffer

# What becomes of the floating-point flags at a ufunc's step. Its loop may clear them: what was
# raised before is taken before, and again after it, where x87's are, too; that of some does not
# count.
cdef enum:
    FROM_UFUNC = 1
    TAKE_BEFORE = 2
    SILENT = 4

# A run of elements that go to one sum, of which less than a segment is held for what comes next.
cdef struct Run:
    char *to                        # the sum
    Py_ssize_t count                # of elements so far
    Py_ssize_t held
    char values[TILE_BYTES]

# How the rows of a job are run tile by tile: worked out once for all of them, but for `data`.
cdef struct Tiles:
    Py_ssize_t most                 # elements of a tile
    int step_count
    int gathered_count
    int gathered[MAX_INPUTS]        # the inputs that are copied to a buffer
    char *repeated[MAX_INPUTS]      # if several rows are: the row that all rows there repeat
    int buffered[MAX_RESULTS]       # the results that go through a buffer, as they are done
    char *buffers[MAX_SLOTS]        # theirs, and those of temporaries, else NULL
    TileStep *steps
    Run *runs                       # of the results that are summed
    Total *totals

# What a thread needs to run rows: tiles to store, and to stream.
cdef struct Workspace:
    Tiles stored
    Tiles streamed


cdef inline void begin_totals(const Job *job, Tiles *tiles, Py_ssize_t length) noexcept nogil:
    cdef int i
    cdef TileStep *step
    for i in range(job.program.step_count if job.subtrees else 0):
        step = &tiles.steps[i]
        if step.form == TOTAL:
            begin_total(step.total, step.loop, step.its_own, length)


cdef inline bint is_tiled(const Job *job) noexcept nogil:
    """Whether rows are run tile by tile even if they are not streamed."""
    return not job.program.direct or job.chunks or job.in_place


cdef inline bint is_aside(const Job *job) noexcept nogil:
    """Whether what is written in place is computed elsewhere first, until its flags are known.

    Where nobody asks for flags, a compiled loop writes an element once it has read it, and touches
    no other: updates of Adam's averages of 65k elements take 0.7 times as long (AMD EPYC of the
    Milan family).
    """
    return job.in_place and (job.heeded or not is_compiled(job))


cdef inline bint is_compiled(const Job *job) noexcept nogil:
    """Whether all of it is one compiled loop."""
    return job.program.step_count == 1 and job.program.steps[0].operation == COMPILED


cdef inline Py_ssize_t tile_of(const Job *job) noexcept nogil:
    """How many elements a tile has; of a pass over whole rows these, at least one.

    They get twice the bytes: a step of theirs does more before and after its loop. Chosen, with no
    difference of note between once and twice (softmax of 100 columns, AMD EPYC, beside other work).
    """
    cdef Py_ssize_t most = TILE_BYTES // job.item_bytes
    if job.columns:
        return max(<Py_ssize_t> 1, 2 * most // job.columns) * job.columns
    if job.chunks:
        return SEGMENT
    if job.program.step_count == 1 and job.single_row and not (job.streaming or is_aside(job)):
        return max(most, job.size)  # nothing is left in the caches for another step
    return most


cdef inline Py_ssize_t step_bytes(const Job *job) noexcept nogil:
    """How much memory the steps of tiles take."""
    return (
        job.program.step_count * <Py_ssize_t> sizeof(TileStep)
        + job.program.slot_count * <Py_ssize_t> (sizeof(char *) + 2 * sizeof(Py_ssize_t)))


cdef inline Py_ssize_t count_workspace_bytes(const Job *job) noexcept nogil:
    """How much memory `prepare` takes at most for steps and buffers."""
    cdef Py_ssize_t tiles = is_tiled(job) + job.streaming
    cdef Py_ssize_t buffers = job.program.temporaries
    if job.streaming or is_aside(job) or job.chunks or not job.single_row:
        buffers += job.program.results
    if not job.single_row or job.columns:
        buffers += job.first_result
    return whole_lines(
        tiles * step_bytes(job)
        + buffers * buffer_bytes(max(<Py_ssize_t> TILE_BYTES, tile_of(job) * job.item_bytes))
        + 2 * CACHE_LINE  # for two places that begin with a line
        + job.program.totals * <Py_ssize_t> sizeof(Total)
        + (job.program.results * <Py_ssize_t> sizeof(Run) if job.chunks else 0))


cdef inline Py_ssize_t whole_lines(Py_ssize_t bytes) noexcept nogil:
    return (bytes + CACHE_LINE - 1) // CACHE_LINE * CACHE_LINE


cdef inline Py_ssize_t buffer_bytes(Py_ssize_t bytes) noexcept nogil:
    """From a buffer of so many bytes to the next one."""
    return whole_lines(bytes) + CACHE_LINE


cdef inline void prepare(Workspace *workspace, const Job *job, char *memory) noexcept nogil:
    """Work out the tiles, if the job needs any; ``memory`` is for their steps and buffers."""
    cdef Py_ssize_t steps = step_bytes(job)
    cdef int result
    if is_tiled(job):
        workspace.stored.steps = <TileStep *> memory
        memory += steps
    if job.streaming:
        workspace.streamed.steps = <TileStep *> memory
        memory += steps
    memory += -<Py_ssize_t> memory & (CACHE_LINE - 1)
    if job.chunks:
        workspace.stored.runs = <Run *> memory
        for result in range(job.program.results):
            workspace.stored.runs[result].to = NULL
            workspace.stored.runs[result].held = 0
        memory += job.program.results * sizeof(Run)
    workspace.stored.totals = workspace.streamed.totals = <Total *> memory
    memory += job.program.totals * sizeof(Total)
    memory += -<Py_ssize_t> memory & (CACHE_LINE - 1)
    if is_tiled(job):
        prepare_tiles(&workspace.stored, job, memory, False)
    if job.streaming:
        prepare_tiles(&workspace.streamed, job, memory, True)


cdef inline void prepare_tiles(
    Tiles *tiles, const Job *job, char *buffer, bint streaming
) noexcept nogil:
    """Work out tiles with buffers from ``buffer`` on, where a cache line begins."""
    cdef Py_ssize_t distance
    cdef const Step *step
    cdef TileStep *tile_step
    cdef unsigned int buffered = 0      # a bit for each result
    cdef unsigned long long noncontiguous = find_noncontiguous(job)
    cdef char *arrays = <char *> (tiles.steps + job.program.step_count)
    cdef int count = 0
    cdef int slot, result, i, j
    tiles.most = tile_of(job)
    if streaming and job.program.direct:
        tiles.most = STREAMED_TILE
    distance = buffer_bytes(tiles.most * job.item_bytes)
    for slot in range(job.operands + job.program.temporaries):
        result = slot - job.first_result
        tiles.buffers[slot] = NULL
        if slot < job.operands:
            if result < 0 or not (
                streaming or is_summed(job, result)
                or (is_aside(job) and job.in_place >> result & 1)
                or noncontiguous >> slot & 1
            ):
                continue
            buffered |= <unsigned int> 1 << result
        tiles.buffers[slot] = buffer
        buffer += distance
    tiles.gathered_count = 0
    for slot in range(job.first_result):
        if noncontiguous >> slot & 1:
            tiles.buffers[slot] = buffer
            buffer += distance
            tiles.gathered[tiles.gathered_count] = slot
            tiles.repeated[slot] = NULL
            tiles.gathered_count += 1
    tiles.step_count = job.program.step_count
    for i in range(tiles.step_count):
        step = &job.program.steps[i]
        tile_step = &tiles.steps[i]
        tile_step.flags = 0
        tile_step.data = <char **> arrays
        tile_step.strides = <Py_ssize_t *> (tile_step.data + step.slot_count)
        tile_step.advances = tile_step.strides + step.slot_count
        arrays = <char *> (tile_step.advances + step.slot_count)
        if step.operation == COMPILED:
            tile_step.lanes = job.program.foreigns[i].lanes
            tile_step.loop = job.program.foreigns[i].loops[job.dtype][0]
            tile_step.its_own = NULL
        elif step.operation == FOREIGN:
            tile_step.loop = job.program.foreigns[i].loops[job.dtype][0]
            tile_step.its_own = job.program.foreigns[i].its_own[job.dtype]
            tile_step.flags = FROM_UFUNC | (SILENT if job.program.foreigns[i].silent else 0)
            # Of the first step, for the tile before.
            if job.program.steps[(i or tiles.step_count) - 1].operation != FOREIGN:
                tile_step.flags |= TAKE_BEFORE
        else:
            tile_step.loop = job.engine.loops[step.operation][job.dtype]
            tile_step.its_own = NULL
        tile_step.form = step.form
        tile_step.its_sign = step.its_sign
        tile_step.total = &tiles.totals[step.total]
        tile_step.once = step.once
        tile_step.slot_count = step.slot_count
        for j in range(step.slot_count):
            slot = step.slots[j]
            tile_step.strides[j] = 1 if step.bools >> j & 1 else job.item_bytes
            tile_step.advances[j] = 0
            if tiles.buffers[slot] == NULL and step.by_row >> j & 1:
                tile_step.advances[j] = job.item_bytes * (tiles.most // job.columns)
            elif tiles.buffers[slot] == NULL:
                # Of rows that are grouped: the same from one to the next.
                tile_step.strides[j] = job.strides[job.ndim - 1][slot]
                tile_step.advances[j] = tile_step.strides[j] * tiles.most
            result = slot - job.first_result
            # The first step that a result is in is the one that computes it.
            if 0 <= result < job.program.results and buffered >> result & 1:
                buffered ^= <unsigned int> 1 << result
                tiles.buffered[count] = slot
                count += 1
        tile_step.buffered = count


cdef inline bint is_summed(const Job *job, int result) noexcept nogil:
    return job.chunks and job.sums[result].wanted


# Operands that are not contiguous along a row, strided and repeated ones, take longer. It pays to
# copy each to a buffer, or from it, if such are met often enough: a step with two of them, or with
# more than five operands in all, goes element by element, and counts as many as it has; one with a
# single strided operand is a vector loop that gathers, and counts two. From two and a half for each
# such operand on, steps take 0.43 to 1.0 times as long (value and gradients of four graphs on 1,000
# to 100,000 elements; quaternions 0.46; AMD EPYC of the Milan family).
cdef inline unsigned long long find_noncontiguous(const Job *job) noexcept nogil:
    """A bit for each operand that is not contiguous, if it pays to copy them."""
    cdef const Py_ssize_t *strides = job.strides[job.ndim - 1]
    cdef unsigned long long found = 0
    cdef int count = 0
    cdef int met = 0
    cdef const Step *step
    cdef Py_ssize_t before
    cdef int slot, one, its_own, i, j
    if job.columns:
        for slot in range(job.first_result):
            if job.program.layouts[slot] == REPEATED and strides[slot]:
                found |= <unsigned long long> 1 << slot
        return found
    if job.grouped:
        for slot in range(job.operands):
            before = job.strides[job.ndim - 2][slot]
            if before != strides[slot] * job.shape[job.ndim - 1] or strides[slot] not in (
                0, job.item_bytes
            ):
                found |= <unsigned int> 1 << slot
        return found
    if job.program.direct:
        return 0
    for slot in range(job.operands):
        if strides[slot] == job.item_bytes or is_number(job, slot):
            continue
        if slot < job.first_result or not is_summed(job, slot - job.first_result):
            found |= <unsigned long long> 1 << slot
            count += 1
    if count == 0:
        return 0
    for i in range(job.program.step_count):
        step = &job.program.steps[i]
        one = its_own = 0
        for j in range(step.slot_count):
            slot = step.slots[j]
            if slot < job.operands and found >> slot & 1:
                one = slot
                its_own += 1
        if step.operation == COMPILED:
            met += 3 * its_own      # it is no vector loop for them
        elif its_own > 1 or (its_own == 1 and step.slot_count > 5):
            met += step.slot_count
        elif its_own == 1 and strides[one]:
            met += 2
    return found if 2 * met >= 5 * count else 0


cdef inline bint is_number(const Job *job, int slot) noexcept nogil:
    cdef int axis
    for axis in range(job.ndim):
        if job.strides[axis][slot]:
            return False
    return True


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
    if (
        n < ALIGNED_ROW or job.chunks or job.program.results == 0
        or strides[job.first_result] != job.item_bytes
    ):
        return run_span(job, workspace, data, n)
    head = (-<Py_ssize_t> data[job.first_result] & (CACHE_LINE - 1)) // job.item_bytes
    if head and run_span(job, workspace, data, head) < head:
        return 0
    for operand in range(job.operands):
        rest[operand] = data[operand] + head * strides[operand]
    if CAN_STREAM and job.streaming and is_streamable(job, rest):
        return head + job.engine.run_tiles(
            job, &workspace.streamed, rest, n - head, True)
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
        return job.engine.run_tiles(job, &workspace.stored, data, n, False)
    job.loop(data, &n, job.strides[job.ndim - 1], NULL)
    return n


cdef inline Py_ssize_t tile_by_tile(
    const Job *job, Tiles *tiles, char **data, Py_ssize_t n, bint streaming
) noexcept nogil:
    cdef Py_ssize_t start = 0
    cdef Py_ssize_t length
    cdef int slot, i, j, done, flags
    cdef int raised = 0
    cdef char *data_of_its_own[STEP_SLOTS]
    cdef Py_ssize_t strides_of_its_own[STEP_SLOTS]
    cdef Py_ssize_t length_of_its_own
    cdef Py_ssize_t rows
    cdef TileStep *step = tiles.steps
    if job.program.foreign:
        fp_take_x87()                   # of no step
        raised = fp_take()              # of the rows before
    for i in range(tiles.step_count):
        step = &tiles.steps[i]
        for j in range(step.slot_count):
            slot = job.program.steps[i].slots[j]
            step.data[j] = data[slot] if tiles.buffers[slot] == NULL else tiles.buffers[slot]
    while start < n:
        length = min(tiles.most, n - start)
        for i in range(tiles.gathered_count):
            gather(job, tiles, tiles.gathered[i], data, start, length)
        done = 0
        for i in range(tiles.step_count):
            step = &tiles.steps[i]
            if step.once or step.form != ELEMENTWISE:
                rows = length // job.columns if job.columns else 0
                if step.flags & TAKE_BEFORE:
                    raised |= fp_take()
                if step.form == TOTAL:
                    add_to_total(job, step.total, step.data[0], length)
                else:
                    run_rows(job, step, rows)
                if step.flags:
                    flags = fp_take()
                    if not step.flags & SILENT:
                        raised |= flags
            elif step.flags == 0 and job.in_place and not is_aside(job):
                run_over_itself(step, length)
            elif step.flags == 0:
                step.loop(step.data, &length, step.strides, NULL)
            else:
                if step.flags & TAKE_BEFORE:
                    raised |= fp_take()
                # Some go through their operands by these pointers, and count down.
                memcpy(data_of_its_own, step.data, step.slot_count * sizeof(char *))
                memcpy(strides_of_its_own, step.strides, step.slot_count * sizeof(Py_ssize_t))
                length_of_its_own = length
                step.loop(data_of_its_own, &length_of_its_own, strides_of_its_own, step.its_own)
                flags = fp_take()
                if not step.flags & SILENT:
                    raised |= flags
            for j in range(step.slot_count):
                step.data[j] += step.advances[j]
            # At once, so that streaming stores overlap with what the next step reads: 1.1 times as
            # fast for a graph's value and gradients, 12 arrays of 524k float64 elements and more
            # (AMD EPYC of the Milan family, 2 cores).
            while done < step.buffered and not job.in_place:
                hand_over(job, tiles, tiles.buffered[done], data, start, length, streaming)
                done += 1
        if job.in_place:
            if (raised | fp_raised()) & job.heeded:
                break
            for j in range(step.buffered):
                hand_over(job, tiles, tiles.buffered[j], data, start, length, streaming)
        start += length
    if raised:
        fp_raise(raised)
    return min(start, n)


cdef inline void run_over_itself(TileStep *step, Py_ssize_t length) noexcept nogil:
    """Run a compiled loop that writes where it reads.

    Its last vector would overlap the one before, which is written by then: what is left of whole
    vectors is too short for one.
    """
    cdef Py_ssize_t whole = length // step.lanes * step.lanes
    cdef Py_ssize_t rest = length - whole
    cdef char *data[STEP_SLOTS]
    cdef int i
    step.loop(step.data, &whole, step.strides, NULL)
    for i in range(step.slot_count):
        data[i] = step.data[i] + whole * step.strides[i]
    step.loop(data, &rest, step.strides, NULL)


cdef inline void run_rows(const Job *job, const TileStep *step, Py_ssize_t rows) noexcept nogil:
    """Run a step of a pass over whole rows that reduces them, expands them, or is for each one."""
    cdef char *data[STEP_SLOTS]
    cdef Py_ssize_t strides[STEP_SLOTS]
    cdef Py_ssize_t item = job.item_bytes
    cdef Py_ssize_t columns = job.columns
    cdef Py_ssize_t row
    memcpy(data, step.data, step.slot_count * sizeof(char *))
    if step.form == ELEMENTWISE:
        memcpy(strides, step.strides, step.slot_count * sizeof(Py_ssize_t))
        step.loop(data, &rows, strides, step.its_own)
        return
    if step.form == ROW_SUM:
        sum_rows(job, data[0], data[1], rows)
        return
    if step.form == EXPAND:
        if item == sizeof(float):
            expand(<const float *> data[0], <float *> data[1], rows, columns)
        else:
            expand(<const double *> data[0], <double *> data[1], rows, columns)
        return
    for row in range(rows):
        if columns < SHORT_ROW and (
            reduce_short(
                step.form, step.its_sign, <const float *> step.data[0] + row * columns,
                <float *> step.data[1] + row, columns)
            if item == sizeof(float) else
            reduce_short(
                step.form, step.its_sign, <const double *> step.data[0] + row * columns,
                <double *> step.data[1] + row, columns)
        ):
            continue
        # As NumPy calls the loop: x, out -> out.
        data[0] = data[2] = step.data[1] + row * item
        data[1] = step.data[0] + row * columns * item
        strides[0] = strides[2] = 0
        strides[1] = item
        if step.form == FROM_ZERO:
            memset(data[0], 0, item)
        else:
            memcpy(data[0], data[1], item)
            data[1] += item
            columns -= 1
        step.loop(data, &columns, strides, step.its_own)
        columns = job.columns


# NumPy's loops take longer to be called than to reduce so few elements: 100,000 rows of ten float32
# took 15 ns each for the largest one, see `reduce_short` (AMD EPYC, AVX-512).
cdef inline bint reduce_short(
    Form form, int sign, const floating *x, floating *out, Py_ssize_t n
) noexcept nogil:
    """Reduce a row of less than 16 elements as NumPy does; False where that is left to NumPy."""
    cdef floating found = x[0]
    cdef bint is_nan = x[0] != x[0]
    cdef Py_ssize_t i
    if form == FROM_ZERO:
        if n < 8:
            for i in range(1, n):
                found += x[i]
        else:
            found = ((x[0] + x[1]) + (x[2] + x[3])) + ((x[4] + x[5]) + (x[6] + x[7]))
            for i in range(8, n):
                found += x[i]
        out[0] = found + 0  # of -0.0, too
        return True
    for i in range(1, n):
        is_nan |= x[i] != x[i]
        if (x[i] > found) if sign > 0 else (x[i] < found):
            found = x[i]
    out[0] = found
    return not is_nan and found != 0  # which NaN, and which zero, depends on NumPy's order


cdef inline void expand(
    const floating *given, floating *out, Py_ssize_t rows, Py_ssize_t columns
) noexcept nogil:
    cdef Py_ssize_t row, column
    cdef floating value
    for row in range(rows):
        value = given[row]
        for column in range(columns):
            out[column] = value
        out += columns


cdef inline void sum_rows(
    const Job *job, char *values, char *out, Py_ssize_t rows
) noexcept nogil:
    """Add up rows as `add_to_sums` does."""
    cdef double sums[MOST_ROWS]
    cdef double errors[MOST_ROWS]
    cdef char rest[TILE_BYTES]
    cdef char *data[3]
    cdef Py_ssize_t strides[2]
    cdef Py_ssize_t item = job.item_bytes
    cdef Py_ssize_t row, column, length
    for row in range(rows):
        sums[row] = errors[row] = 0
    if job.columns < SHORT_ROW:
        for column in range(job.columns):
            strides[0] = job.columns * item
            strides[1] = item
            data[0] = values + column * item
            data[1] = rest
            job.engine.copy[job.dtype](data, &rows, strides, NULL)
            strides[0] = item
            strides[1] = sizeof(double)
            data[0] = rest
            data[1] = <char *> sums
            data[2] = <char *> errors
            job.engine.accumulate[job.dtype](data, &rows, strides, NULL)
    else:
        for row in range(rows):
            data[1] = <char *> &sums[row]
            data[2] = <char *> &errors[row]
            column = 0
            while column < job.columns:
                length = min(job.columns - column, <Py_ssize_t> SEGMENT)
                data[0] = values + (row * job.columns + column) * item
                if length % LANES:  # it is filled up with zeros
                    memcpy(rest, data[0], length * item)
                    data[0] = rest
                job.engine.accumulate_segment[job.dtype](data, &length, NULL, NULL)
                column += length
    data[0] = <char *> sums
    data[1] = <char *> errors
    data[2] = out
    job.engine.round_sums[job.dtype](data, &rows, NULL, NULL)


cdef inline void gather(
    const Job *job, Tiles *tiles, int slot, char **data, Py_ssize_t start, Py_ssize_t n
) noexcept nogil:
    """Copy an input to its buffer, for the tile that starts there."""
    cdef char *both[2]
    cdef Py_ssize_t strides[2]
    cdef Py_ssize_t row
    if job.columns:             # what all rows repeat
        for row in range(tiles.most // job.columns if start == 0 else 0):
            memcpy(
                tiles.buffers[slot] + row * job.columns * job.item_bytes, data[slot],
                job.columns * job.item_bytes)
        return
    if job.grouped:
        gather_rows(job, tiles, slot, data[slot], n // job.shape[job.ndim - 1])
        return
    strides[0] = job.strides[job.ndim - 1][slot]
    strides[1] = job.item_bytes
    if strides[0] == 0 and start:
        return
    both[0] = data[slot] + start * strides[0]
    both[1] = tiles.buffers[slot]
    job.engine.copy[job.dtype](both, &n, strides, NULL)


cdef inline void gather_rows(
    const Job *job, Tiles *tiles, int slot, char *data, Py_ssize_t rows
) noexcept nogil:
    """Copy several rows, column by column. What they repeat is still there from the last tile."""
    cdef Py_ssize_t columns = job.shape[job.ndim - 1]
    if job.strides[job.ndim - 2][slot] == 0:
        if data == tiles.repeated[slot]:
            return
        tiles.repeated[slot] = data
        rows = tiles.most // columns
    cross(job, slot, data, tiles.buffers[slot], rows, False)


cdef inline void cross(
    const Job *job, int slot, char *data, char *tile, Py_ssize_t rows, bint back
) noexcept nogil:
    """Copy the columns of several rows to those of a tile, or back."""
    cdef char *both[2]
    cdef Py_ssize_t strides[2]
    cdef Py_ssize_t columns = job.shape[job.ndim - 1]
    cdef Py_ssize_t column
    strides[back] = job.strides[job.ndim - 2][slot]
    strides[not back] = columns * job.item_bytes
    for column in range(columns):
        both[back] = data + column * job.strides[job.ndim - 1][slot]
        both[not back] = tile + column * job.item_bytes
        job.engine.copy[job.dtype](both, &rows, strides, NULL)


cdef inline void hand_over(
    const Job *job, Tiles *tiles, int slot, char **data, Py_ssize_t start, Py_ssize_t n,
    bint streaming,
) noexcept nogil:
    """Store, stream or sum the tile of a result that went through a buffer."""
    cdef char *both[2]
    cdef Py_ssize_t strides[2]
    strides[0] = job.item_bytes
    strides[1] = job.strides[job.ndim - 1][slot]
    both[0] = tiles.buffers[slot]
    both[1] = data[slot] + start * strides[1]
    if streaming:
        stream_copy(both[1], both[0], n * job.item_bytes)
    elif job.in_place:
        memcpy(both[1], both[0], n * job.item_bytes)
    elif is_summed(job, slot - job.first_result):
        job.engine.add_to_sums(job, tiles, slot, both[0], n, both[1])
    elif job.grouped:
        cross(job, slot, data[slot], both[0], n // job.shape[job.ndim - 1], True)
    else:
        job.engine.copy[job.dtype](both, &n, strides, NULL)


# The order of a sum's additions depends on the job's elements in their order, whatever its axes
# are, and on where the sum's runs begin. Runs that are short, and elements that each go to another
# sum than the one before, are added one by one.
cdef inline void add_to_sums(
    const Job *job, Tiles *tiles, int slot, char *values, Py_ssize_t n, char *sums
) noexcept nogil:
    """Add a tile, of one row or of several, to sums."""
    cdef const Sum *sum = &job.sums[slot - job.first_result]
    cdef Py_ssize_t stride = job.strides[job.ndim - 1][slot]
    if stride == 0 and sum.run >= SHORT_ROW:
        add_run(job, sum, &tiles.runs[slot - job.first_result], values, n, sums)
    elif job.grouped:
        add_rows(job, sum, values, n, sums, job.strides[job.ndim - 2][slot], stride)
    else:
        add_each(job, sum, values, n, sums, stride)


cdef inline void add_each(
    const Job *job, const Sum *sum, char *values, Py_ssize_t n, char *sums, Py_ssize_t stride
) noexcept nogil:
    cdef char *data[3]
    cdef Py_ssize_t strides[2]
    data[0] = values
    data[1] = sums
    data[2] = sums + sum.error_offset
    strides[0] = job.item_bytes
    strides[1] = stride
    job.engine.accumulate[job.dtype](data, &n, strides, NULL)


cdef inline void add_rows(
    const Job *job, const Sum *sum, char *values, Py_ssize_t n, char *sums,
    Py_ssize_t across, Py_ssize_t along,
) noexcept nogil:
    """Add several rows to sums that lie ``across`` the rows and ``along`` them at such strides."""
    cdef char *data[3]
    cdef char at_hand[TILE_BYTES]
    cdef Py_ssize_t strides[2]
    cdef Py_ssize_t counts[2]
    cdef Py_ssize_t columns = job.shape[job.ndim - 1]
    cdef Py_ssize_t rows = n // columns
    cdef Py_ssize_t i
    if across:
        strides[0] = columns * job.item_bytes
        strides[1] = job.item_bytes
        data[1] = at_hand
        for i in range(columns):
            data[0] = values + i * job.item_bytes
            job.engine.copy[job.dtype](data, &rows, strides, NULL)
            add_each(job, sum, at_hand, rows, sums + i * along, across)
    elif along == sizeof(double):
        data[0] = values
        data[1] = sums
        data[2] = sums + sum.error_offset
        counts[0] = n
        counts[1] = columns
        job.engine.accumulate_rows[job.dtype](data, counts, NULL, NULL)
    else:
        for i in range(rows):
            add_each(job, sum, values + i * columns * job.item_bytes, columns, sums, along)


cdef inline void add_run(
    const Job *job, const Sum *sum, Run *run, char *values, Py_ssize_t n, char *to
) noexcept nogil:
    """Add a tile of elements that go to one sum, whose run may have begun before and may go on.

    Whatever the tiles are, segments are cut from the start of the run, or of the chunk.
    """
    cdef Py_ssize_t length
    cdef bint whole
    if to != run.to:
        end_run(job, sum, run)
        run.to = to
        run.count = 0
    # A segment that is not full is filled up with zeros, for which a tile has room at its end.
    whole = run.held == 0 and run.count + n == sum.run
    while n:
        if whole or (run.held == 0 and n >= SEGMENT):
            length = min(n, <Py_ssize_t> SEGMENT)
            add_segment(job, sum, values, length, to)
        else:
            length = min(n, SEGMENT - run.held)
            memcpy(&run.values[run.held * job.item_bytes], values, length * job.item_bytes)
            run.held += length
            if run.held == SEGMENT:
                end_run(job, sum, run)
        run.count += length
        values += length * job.item_bytes
        n -= length


cdef inline void add_segment(
    const Job *job, const Sum *sum, char *values, Py_ssize_t n, char *to
) noexcept nogil:
    cdef char *data[3]
    data[0] = values
    data[1] = to
    data[2] = to + sum.error_offset
    job.engine.accumulate_segment[job.dtype](data, &n, NULL, NULL)


cdef inline void end_run(const Job *job, const Sum *sum, Run *run) noexcept nogil:
    """Add what is held of a run."""
    if run.held:
        add_segment(job, sum, run.values, run.held, run.to)
        run.held = 0


cdef inline void end_runs(const Job *job, Tiles *tiles) noexcept nogil:
    cdef int result
    for result in range(job.program.results):
        end_run(job, &job.sums[result], &tiles.runs[result])
