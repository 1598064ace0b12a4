"""Where results go: into given arrays, or into new ones laid out as NumPy would."""

from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF
from cpython.tuple cimport PyTuple_New
from libc.string cimport memcpy, memset

from ..memory cimport (
    ANYWHERE, PAGE, SHIFTED_BYTES, can_own_blocks, free_block, is_recycling, new_block, own_block,
    recycling_handler, set_handler,
)
from ..program.program cimport MAX_DIMS, MAX_RESULTS, DType, Job, Sum
from .dtypes cimport Number, Operand, describe, dtypes, is_number
from .layout cimport (
    Call, find_shared_order, has_shape, keep_order, magnitude,
)
from .ndarray cimport (
    NPY_ARRAY_C_CONTIGUOUS, NPY_ARRAY_F_CONTIGUOUS, NPY_ARRAY_WRITEABLE, Array, Descr,
    PyArray_CheckExact, PyArray_DATA, PyArray_FLAGS, PyArray_NDIM, PyArray_NewFromDescr,
    PyArray_STRIDES,
    PyArray_Type, PyTuple_GET_ITEM, set_item,
)
from .schedule cimport is_streamed, recycled_bytes


cdef inline object place_result(Call *call, int slot, unsigned int sources, PyObject *out):
    """The array that a result goes into: ``out``, or a new one if that is NULL.

    ``sources`` has a bit for each input that the result depends on: as in NumPy, their memory order
    decides the new array's. None if the kernels may not write into ``out``.
    """
    cdef Job *job = &call.job
    cdef Py_ssize_t strides[MAX_DIMS]
    cdef int axis, order
    if out != NULL:
        if not is_served_out(call, out):
            return None
        array = <object> out
    else:
        # NumPy lays out results of buffered operands by axis, which shows in axes of length 1.
        order = 0 if call.copied & sources else find_shared_order(call, sources)
        if order:
            array = allocate(call, order, NULL)
        else:
            keep_order(call, sources, strides)
            array = allocate(call, 0, strides)
    job.data[slot] = <char *> PyArray_DATA(<Array *> array)
    for axis in range(call.ndim):
        job.strides[axis][slot] = PyArray_STRIDES(<Array *> array)[axis]
    return array


cdef inline object allocate(const Call *call, int order, const Py_ssize_t *strides):
    """A new array, with a memory order or with strides."""
    cdef size_t size = call.job.size * dtypes[call.dtype].item_bytes
    cdef int flags = NPY_ARRAY_F_CONTIGUOUS if order == NPY_ARRAY_F_CONTIGUOUS else 0
    if size >= <size_t> recycled_bytes() and is_recycling():
        return allocate_recycled(call, size, strides, flags)
    return new_array(call, strides, NULL, flags)


cdef inline object allocate_recycled(
    const Call *call, size_t size, const Py_ssize_t *strides, int flags
):
    cdef size_t phase = 0
    cdef void *block
    if not can_own_blocks:
        previous = set_handler(recycling_handler())
        try:
            return new_array(call, strides, NULL, flags)
        finally:
            set_handler(previous)
    if size >= SHIFTED_BYTES and not is_streamed(size):
        phase = away_from_inputs(call)
    block = new_block(size, phase)
    if block == NULL:
        return new_array(call, strides, NULL, flags)  # NumPy tries, too, and words the error
    try:
        array = new_array(call, strides, block, flags | NPY_ARRAY_WRITEABLE)
    except BaseException:
        free_block(block)
        raise
    own_block(array, size)
    return array


cdef inline size_t away_from_inputs(const Call *call) noexcept nogil:
    """Where in a page a result should start: in the middle of the widest gap between inputs."""
    cdef size_t start, gap, distance
    cdef size_t widest = 0
    cdef size_t middle = 0
    cdef int slot, other
    for slot in range(call.input_count):
        if call.numbers >> slot & 1:
            continue
        start = <size_t> call.job.data[slot]
        gap = PAGE
        for other in range(call.input_count):
            distance = (<size_t> call.job.data[other] - start) & (PAGE - 1)
            if distance and not call.numbers >> other & 1:
                gap = min(gap, distance)
        if gap > widest:
            widest = gap
            middle = start + gap // 2
    return middle & (PAGE - 1)


cdef inline object new_array(
    const Call *call, const Py_ssize_t *strides, void *block, int flags
):
    cdef Descr *descr = dtypes[call.dtype].descr
    Py_INCREF(<object> descr)  # PyArray_NewFromDescr steals it
    return PyArray_NewFromDescr(
        &PyArray_Type, descr, call.ndim, call.shape, strides, block, flags, NULL)


# NumPy warns when an array with this flag is written to; `np.broadcast_arrays` returns such arrays.
# The flag has no public name (ndarraytypes.h, NPY_ARRAY_WARN_ON_WRITE).
cdef enum:
    WARN_ON_WRITE = -0x80000000


cdef inline bint is_writable(int flags) noexcept:
    return flags & (NPY_ARRAY_WRITEABLE | WARN_ON_WRITE) == NPY_ARRAY_WRITEABLE


cdef inline bint is_served_out(const Call *call, PyObject *out) noexcept:
    """Whether the kernels may write a result into ``out``."""
    cdef Operand target
    cdef int slot
    if not describe(out, call.dtype, &target) or not PyArray_CheckExact(out):
        return False
    if not is_writable(target.flags) or not has_shape(&target, call):
        return False
    if not 0 < call.ndim <= MAX_DIMS or call.job.size == 0 or not is_distinct(&target, call):
        return False
    # Overlaps, including work in place, are left to NumPy: after an exception it would repeat the
    # call to report it, and find the operands overwritten.
    for slot in range(call.input_count):
        if overlap(&call.input[slot], &target, call.job.item_bytes):
            return False
    return True


cdef inline bint is_distinct(const Operand *operand, const Call *call) noexcept:
    """Whether no two elements share memory: each stride exceeds the reach of all shorter ones."""
    cdef Py_ssize_t step, shorter, extent
    cdef int axis, other
    for axis in range(operand.ndim):
        if operand.shape[axis] == 1:
            continue
        step = magnitude(operand.strides[axis])
        extent = call.job.item_bytes
        for other in range(operand.ndim):
            shorter = magnitude(operand.strides[other])
            if other == axis or operand.shape[other] == 1 or shorter > step:
                continue
            extent += (operand.shape[other] - 1) * shorter
            if shorter == step:
                return False
        if step < extent:
            return False
    return True


cdef inline bint are_apart(PyObject *const *outs, const Call *call) noexcept:
    """Whether the outputs, each an array of the call's dtype or NULL, share no memory."""
    cdef Operand first, second
    cdef int one, other
    for one in range(call.program.results):
        for other in range(one):
            if outs[one] == NULL or outs[other] == NULL:
                continue
            if not (
                describe(outs[one], call.dtype, &first)
                and describe(outs[other], call.dtype, &second)
            ) or overlap(&first, &second, call.job.item_bytes):
                return False
    return True


cdef inline bint overlap(const Operand *a, const Operand *b, Py_ssize_t item) noexcept:
    """Whether the memory spans of two operands overlap."""
    return first_byte(a) < end_byte(b, item) and first_byte(b) < end_byte(a, item)


cdef inline bint meet(const char *a, const char *b, Py_ssize_t bytes) noexcept:
    """Whether two rows of ``bytes`` bytes share memory."""
    return a < b + bytes and b < a + bytes


cdef inline char *first_byte(const Operand *operand) noexcept:
    cdef char *byte = operand.data
    cdef int axis
    for axis in range(operand.ndim):
        byte += min(<Py_ssize_t> 0, (operand.shape[axis] - 1) * operand.strides[axis])
    return byte


cdef inline char *end_byte(const Operand *operand, Py_ssize_t item) noexcept:
    cdef char *byte = operand.data + item
    cdef int axis
    for axis in range(operand.ndim):
        byte += max(<Py_ssize_t> 0, (operand.shape[axis] - 1) * operand.strides[axis])
    return byte


# ---- sums ----
#
# The order of the additions depends on the shape of what is summed, in its memory order, and on the
# sums' shape alone: neither on the number of threads, nor on how axes are merged, which is up to
# all operands. So do the chunks. One of 32k elements takes some 10 us.
cdef enum:
    CHUNK = 1 << 15         # elements
    MAX_CHUNKS = 64


cdef inline bint fits(const Operand *operand, const Call *call) noexcept:
    """Whether an operand broadcasts to the shape of the call."""
    cdef int axis
    cdef int lead = call.ndim - operand.ndim
    if lead < 0:
        return False
    for axis in range(operand.ndim):
        if operand.shape[axis] != 1 and operand.shape[axis] != call.shape[lead + axis]:
            return False
    return True


cdef inline object place_sums(
    Call *call, int result, unsigned int sources, const Operand *operand
):
    """A new array for a result of an operand's shape, and in the job the strides of its sums."""
    cdef Job *job = &call.job
    cdef Sum *sum = &job.sums[result]
    cdef int slot = job.first_result + result
    cdef int axis
    cdef int lead = call.ndim - operand.ndim
    sum.wanted = not has_shape(operand, call)
    if not sum.wanted:
        return place_result(call, slot, sources, NULL)
    sum.count = 1
    for axis in range(call.ndim - 1, -1, -1):
        if axis < lead or operand.shape[axis - lead] == 1:
            job.strides[axis][slot] = 0
        else:
            job.strides[axis][slot] = sum.count * sizeof(double)
            sum.count *= operand.shape[axis - lead]
    sum.error_offset = sum.count * sizeof(double)
    array = allocate_like(call.dtype, operand, sum.count)
    sum.result = <char *> PyArray_DATA(<Array *> array)
    return array


cdef inline object allocate_like(DType dtype, const Operand *operand, Py_ssize_t size):
    """A new array of an operand's shape, of ``size`` elements in the usual order."""
    cdef Call target
    target.dtype = dtype
    target.input_count = 0  # it may start anywhere in a page: nothing is read while it is written
    target.ndim = operand.ndim
    target.shape = operand.shape
    target.job.size = size
    return allocate(&target, NPY_ARRAY_C_CONTIGUOUS, NULL)


cdef inline object sum_of_units(
    DType dtype, int unit, Py_ssize_t elements, PyObject *like, const Operand *operand
):
    """The sum of as many units as there are elements, to an operand's shape."""
    cdef Number number
    cdef Py_ssize_t size = 1
    cdef Py_ssize_t item = dtypes[dtype].item_bytes
    cdef Py_ssize_t done
    cdef int axis
    cdef char *data
    for axis in range(operand.ndim):
        size *= operand.shape[axis]
    array = allocate_like(dtype, operand, size)
    data = <char *> PyArray_DATA(<Array *> array)
    dtypes[dtype].store_integer(unit * (elements // max(size, <Py_ssize_t> 1)), <char *> &number)
    if size:
        memcpy(data, &number, item)
        done = 1
        while done < size:
            memcpy(data + done * item, data, min(done, size - done) * item)
            done *= 2
    return one_as_given(array, like)


cdef inline int count_chunks(const Job *job) noexcept:
    return power_of_2(min(job.size // CHUNK, <Py_ssize_t> MAX_CHUNKS))


cdef inline void cut_sums(Job *job) noexcept:
    """Find how long the runs of each sum are, and how many sets it gets: a power of 2.

    Both depend on the job's shape and on its own alone: whatever else is computed in the same pass,
    its bits are the same.
    """
    cdef int result, axis
    cdef Sum *sum
    cdef Py_ssize_t inside
    cdef bint shared
    job.chunk_groups = job.chunks
    for result in range(job.program.results):
        sum = &job.sums[result]
        if not sum.wanted:
            continue
        sum.run = inside = 1
        shared = False          # whether several chunks add to one sum
        for axis in range(job.ndim - 1, -1, -1):
            if job.strides[axis][job.first_result + result] == 0:
                if sum.run == inside:
                    sum.run *= job.shape[axis]
                shared |= inside * job.shape[axis] > job.chunk_unit
            inside *= job.shape[axis]
        sum.sets = 1
        sum.set_stride = 2 * sum.error_offset
        if shared:
            # At most as many sums as an eighth of the elements.
            sum.sets = power_of_2(min(<Py_ssize_t> job.chunks, job.size // (8 * sum.count)))
            job.chunk_groups = min(job.chunk_groups, sum.sets)


cdef inline int power_of_2(Py_ssize_t most) noexcept:
    """The largest power of 2 up to ``most``, but at least 1."""
    cdef int power = 1
    while 2 * power <= most:
        power *= 2
    return power


cdef enum:
    AT_HAND = 512               # doubles that a call has on its stack


cdef inline void *new_workspace(Job *job, double *at_hand) except NULL:
    """Memory for the sums and their errors, all 0: what is at hand, or more that is to be freed.
    """
    cdef size_t size = 0
    cdef size_t offset[MAX_RESULTS]
    cdef int result
    cdef const Sum *sum
    cdef void *workspace
    for result in range(job.program.results):
        sum = &job.sums[result]
        offset[result] = size
        if sum.wanted:
            size += sum.sets * sum.set_stride
    workspace = at_hand
    if size > AT_HAND * sizeof(double):
        workspace = new_block(size, ANYWHERE)
    if workspace == NULL:
        raise MemoryError(f"no memory for {size} bytes of partial sums")
    memset(workspace, 0, size)
    for result in range(job.program.results):
        if job.sums[result].wanted:
            job.data[job.first_result + result] = <char *> workspace + offset[result]
    return workspace


cdef inline object as_given(object results, PyObject *const *operands, int count):
    """Sums without axes in the type of their operands: Python numbers or NumPy scalars."""
    cdef int slot
    if count == 1:
        return one_as_given(results, operands[0])
    others = PyTuple_New(count)
    for slot in range(count):
        one = <object> PyTuple_GET_ITEM(results, slot)
        if operands[slot] != NULL:
            one = one_as_given(one, operands[slot])
        set_item(others, slot, one)
    return others


cdef inline object one_as_given(object gradient, PyObject *operand):
    if PyArray_NDIM(<Array *> gradient):
        return gradient
    return gradient.item() if is_number(operand) else gradient[()]
