"""From operands to a job: broadcast them, find their memory order, sort and merge the axes."""

from ..program.program cimport MAX_DIMS, MAX_INPUTS, DType, Job, Program
from .dtypes cimport Operand, dtypes
from .ndarray cimport NPY_ARRAY_C_CONTIGUOUS, NPY_ARRAY_F_CONTIGUOUS

cdef extern from "Python.h":
    const Py_ssize_t PY_SSIZE_T_MAX

cdef extern from "shared.h" nogil:
    void *load_pointer(void **variable)

# A call on its way to the engine: its operands, and the job that they become.
cdef struct Call:
    const Program *program
    DType dtype
    int input_count             # the program's inputs and constants
    unsigned int copied         # a bit for each input that is a copy of what NumPy would buffer
    unsigned int numbers        # a bit for each input that is a number
    unsigned int whole          # a bit for each input that has the results' shape
    int ndim                    # of the results
    const Py_ssize_t *shape
    Py_ssize_t broadcast_shape[MAX_DIMS]
    Operand input[MAX_INPUTS]
    Job job

cdef inline void begin_job(Call *call) noexcept:
    cdef Job *job = &call.job
    job.program = <const Program *> load_pointer(
        <void **> &call.program.compiled[call.dtype])
    if job.program == NULL:
        job.program = call.program
    job.dtype = call.dtype
    job.first_result = call.input_count
    job.operands = call.input_count + call.program.results
    job.item_bytes = dtypes[call.dtype].item_bytes
    job.chunks = 0
    job.blocked = False
    job.grouped = False
    job.in_place = 0
    job.single_row = False
    job.columns = 0
    job.subtrees = 0
    job.workspace = NULL


cdef inline int find_shared_order(const Call *call, unsigned int sources) noexcept:
    """The common memory order of inputs that are contiguous and have the results' shape, or 0.

    ``sources`` has a bit for each input that counts. Numbers fit every shape and order.
    """
    cdef int flags = NPY_ARRAY_C_CONTIGUOUS | NPY_ARRAY_F_CONTIGUOUS
    cdef int slot
    if sources & ~call.numbers & ~call.whole:
        return 0
    for slot in range(call.input_count):
        if sources & ~call.numbers & (<unsigned int> 1 << slot):
            flags &= call.input[slot].flags
    return flags & NPY_ARRAY_C_CONTIGUOUS or flags & NPY_ARRAY_F_CONTIGUOUS


cdef inline bint broadcast(Call *call) noexcept:
    """Give the job the results' axes, in their order, and set the inputs' strides along them.

    False if the inputs do not broadcast, or the call is not served.
    """
    cdef Job *job = &call.job
    cdef const Operand *operand
    cdef int slot, axis, lead
    cdef Py_ssize_t length
    call.ndim = 0
    for slot in range(call.input_count):
        call.ndim = max(call.ndim, call.input[slot].ndim)
    if not 0 < call.ndim <= MAX_DIMS:
        return False
    call.shape = call.broadcast_shape
    for axis in range(call.ndim):
        call.broadcast_shape[axis] = 1
    for slot in range(call.input_count):
        operand = &call.input[slot]
        job.data[slot] = operand.data
        lead = call.ndim - operand.ndim
        for axis in range(call.ndim):
            length = operand.shape[axis - lead] if axis >= lead else 1
            job.strides[axis][slot] = operand.strides[axis - lead] if length != 1 else 0
            if length == 1 or length == call.broadcast_shape[axis]:
                continue
            if call.broadcast_shape[axis] != 1:
                return False
            call.broadcast_shape[axis] = length
    job.ndim = call.ndim
    job.size = 1
    for axis in range(call.ndim):
        length = job.shape[axis] = call.shape[axis]
        if length == 0 or job.size > PY_SSIZE_T_MAX // dtypes[call.dtype].item_bytes // length:
            return False
        job.size *= length
    call.whole = 0
    for slot in range(call.input_count):
        if has_shape(&call.input[slot], call):
            call.whole |= <unsigned int> 1 << slot
    return True


cdef inline bint has_shape(const Operand *operand, const Call *call) noexcept:
    """Whether an operand has the shape of the call, so that it is not broadcast."""
    cdef int axis
    if operand.ndim != call.ndim:
        return False
    for axis in range(call.ndim):
        if operand.shape[axis] != call.shape[axis]:
            return False
    return True


cdef inline bint is_in_order(const Call *call) noexcept:
    """Whether all inputs lie in C order; so does then what is computed of them, step by step."""
    cdef int slot, axis
    cdef Py_ssize_t stride, before
    for slot in range(call.input_count):
        if call.numbers >> slot & 1:
            continue
        before = PY_SSIZE_T_MAX
        for axis in range(call.ndim):
            stride = magnitude(call.job.strides[axis][slot])
            if stride > before:
                return False
            if stride == 0 and call.whole >> slot & 1 and call.shape[axis] > 1:
                return False  # it says nothing of the order, but to a copy
            before = stride or before
    return True


cdef inline int leader(const Call *call) noexcept:
    """The first input that has the results' shape and tells a memory order, which sums follow.

    -1 if there is none.
    """
    cdef int slot, axis
    for slot in range(call.input_count):
        if not call.whole >> slot & 1:
            continue
        for axis in range(call.ndim):
            if call.shape[axis] > 1 and call.job.strides[axis][slot] == 0:
                break  # a view that repeats elements
        else:
            return slot
    return -1


cdef inline bint reaches_all(const Call *call, unsigned int sources) noexcept:
    """Whether a result of these inputs has the shape of the call."""
    cdef int slot, axis, lead
    cdef unsigned int missing
    cdef bint has_all_axes = False
    cdef const Operand *operand
    if call.whole & sources:
        return True
    missing = <unsigned int> (1 << call.ndim) - 1
    for slot in range(call.program.inputs):
        operand = &call.input[slot]
        if operand.ndim == 0 or not sources >> slot & 1:
            continue
        lead = call.ndim - operand.ndim
        has_all_axes |= lead == 0
        for axis in range(operand.ndim):
            if operand.shape[axis] == call.shape[lead + axis]:
                missing &= ~(<unsigned int> 1 << (lead + axis))
    for axis in range(call.ndim):
        if call.shape[axis] != 1 and missing >> axis & 1:
            return False
    return has_all_axes


cdef inline void keep_order(
    const Call *call, unsigned int sources, Py_ssize_t *strides
) noexcept:
    """The strides that NumPy gives a result of the given inputs, its order "K".

    An axis goes inside another if its stride is smaller in all inputs. If they disagree, or repeat
    their elements along an axis, the later axis goes inside.
    """
    cdef int inner_first[MAX_DIMS]
    cdef int axis, other, comparison, i, j, position
    cdef Py_ssize_t stride = dtypes[call.dtype].item_bytes
    for i in range(call.ndim):
        axis = call.ndim - 1 - i
        position = i
        # An insertion sort; an axis may pass neighbours with which it does not compare.
        for j in range(i - 1, -1, -1):
            other = inner_first[j]
            comparison = compare_axes(call, axis, other, sources)
            if comparison < 0:
                position = j
            elif comparison > 0:
                break
        for j in range(i, position, -1):
            inner_first[j] = inner_first[j - 1]
        inner_first[position] = axis
    for i in range(call.ndim):
        axis = inner_first[i]
        strides[axis] = stride
        stride *= call.shape[axis]


cdef inline Py_ssize_t magnitude(Py_ssize_t stride) noexcept nogil:
    # Not abs(), which uses Python integers: slowly, and not if there is no memory.
    return -stride if stride < 0 else stride


cdef inline int compare_axes(
    const Call *call, int axis, int other, unsigned int sources
) noexcept:
    """-1 if ``axis`` belongs inside ``other``, 1 if outside, 0 if no input can tell."""
    cdef int slot
    cdef int result = 0
    cdef Py_ssize_t a, b
    for slot in range(call.input_count):
        a = magnitude(call.job.strides[axis][slot])
        b = magnitude(call.job.strides[other][slot])
        if a == 0 or b == 0 or not sources >> slot & 1:
            continue
        if b <= a:
            return 1
        result = -1
    return result


cdef inline void arrange(Job *job, int leader) noexcept:
    """Sort a job's axes by the leading operand's strides, if any, and merge axes that run on.

    Chunks are cut from as many of the first axes as it takes, as they were before.
    """
    cdef int axes[MAX_DIMS]
    cdef Py_ssize_t shape[MAX_DIMS]
    cdef Py_ssize_t strides[MAX_DIMS]
    cdef int last[MAX_DIMS]     # the innermost of the axes that become one
    cdef int slot, axis, position
    cdef int ndim = 0
    cdef int merged = 0
    cdef bint moved = False
    shape[0] = 1                # for a single element
    for axis in range(job.ndim):
        if job.shape[axis] == 1:
            continue
        position = ndim
        while leader >= 0 and position > 0 and (
            magnitude(job.strides[axes[position - 1]][leader])
            < magnitude(job.strides[axis][leader])
        ):
            axes[position] = axes[position - 1]
            position -= 1
        axes[position] = axis
        ndim += 1
    job.chunk_unit = job.size
    for position in range(ndim):
        if job.size // job.chunk_unit >= job.chunks:
            break
        job.chunk_unit //= job.shape[axes[position]]
    for position in range(ndim):
        axis = axes[position]
        moved |= axis != position
        if merged and runs_on(job, last[merged - 1], axis):
            shape[merged - 1] *= job.shape[axis]
        else:
            shape[merged] = job.shape[axis]
            merged += 1
        last[merged - 1] = axis
    if merged == job.ndim and not moved:
        return
    job.ndim = max(merged, 1)
    for axis in range(job.ndim):
        job.shape[axis] = shape[axis]
    for slot in range(job.operands):
        strides[0] = job.item_bytes
        for axis in range(merged):
            strides[axis] = job.strides[last[axis]][slot]
        for axis in range(job.ndim):
            job.strides[axis][slot] = strides[axis]


# Shorter rows cost less if they are run crosswise, with their neighbours. 250k float64 rows of 4
# columns took 3 times as long row by row (Xeon of the Sapphire Rapids family).
cdef enum:
    SHORT_ROW = 16


cdef inline void choose_blocks(Job *job) noexcept:
    """Have a job run by blocks if rows are short, or if an input lies across the others.

    One with sums is run row by row, in which order its sums are added up, or by several short rows.
    """
    cdef int last = job.ndim - 1
    cdef int slot
    cdef Py_ssize_t before
    if last == 0:
        return
    if job.chunks:
        job.grouped = job.shape[last] < SHORT_ROW
        return
    if job.shape[last] < SHORT_ROW and job.shape[last] < job.shape[last - 1]:
        exchange_last_axes(job)
        job.blocked = True
        return
    for slot in range(job.first_result):
        before = magnitude(job.strides[last - 1][slot])
        if before and before < magnitude(job.strides[last][slot]):
            job.blocked = True


cdef inline void exchange_last_axes(Job *job) noexcept:
    cdef int last = job.ndim - 1
    cdef int slot
    job.shape[last - 1], job.shape[last] = job.shape[last], job.shape[last - 1]
    for slot in range(job.operands):
        job.strides[last - 1][slot], job.strides[last][slot] = (
            job.strides[last][slot], job.strides[last - 1][slot])


cdef inline bint runs_on(const Job *job, int outer, int axis) noexcept:
    """Whether a step along the axis ``outer`` is as long as the whole other axis."""
    cdef int slot
    for slot in range(job.operands):
        if job.strides[outer][slot] != job.strides[axis][slot] * job.shape[axis]:
            return False
    return True
