# From operands to a job: broadcast them, lay out the results as NumPy would, order the axes.

# A call on its way to the kernels: what it was given, and the job that this becomes.
cdef struct Call:
    DType dtype
    int inputs
    Operand input[3]
    int order                   # C or Fortran: the call is one contiguous row. 0: it has axes
    int copied                  # a bit for each input that is a copy of what NumPy would buffer
    int ndim                    # of the results
    const Py_ssize_t *shape
    Py_ssize_t broadcast_shape[MAX_DIMS]
    Job job


# Sets of inputs, a bit for each.
cdef enum:
    DOUT = 1
    ALL_INPUTS = 7


cdef bint begin(Call *call, Operation operation, int operands) noexcept:
    """Find the shape of the results and lay the inputs along it; False if it is not served."""
    cdef Job *job = &call.job
    cdef const Operand *shaped
    cdef int slot
    begin_job(call, operation, operands)
    call.order = 0 if call.copied else shared_order(call, ALL_INPUTS, &shaped)
    if call.order:
        call.ndim = shaped.ndim
        call.shape = shaped.shape
        job.size = 1
        for slot in range(call.ndim):
            job.size *= call.shape[slot]
        job.ndim = 1
        job.shape[0] = job.size
        for slot in range(call.inputs):
            job.data[slot] = call.input[slot].data
            job.strides[0][slot] = job.item if call.input[slot].ndim else 0
        for slot in range(operands, MAX_OPERANDS):
            job.strides[0][slot] = job.item
        return True
    return broadcast(call)


cdef inline void begin_job(Call *call, Operation operation, int operands) noexcept:
    cdef Job *job = &call.job
    job.operation = operation
    job.dtype = call.dtype
    job.inputs = call.inputs
    job.operands = operands
    job.item = item_size[call.dtype]
    job.chunks = 0
    job.blocked = False
    job.streaming = False


cdef inline int shared_order(const Call *call, int sources, const Operand **shaped) noexcept:
    """The memory order of inputs that are of one shape and contiguous in one order, or 0.

    ``sources`` has a bit for each input that counts. Numbers go with every shape and order;
    ``shaped`` is set to an input that has the shape.
    """
    cdef int flags = NPY_ARRAY_C_CONTIGUOUS | NPY_ARRAY_F_CONTIGUOUS
    cdef int slot, axis
    cdef const Operand *operand
    shaped[0] = NULL
    for slot in range(call.inputs):
        operand = &call.input[slot]
        if operand.ndim == 0 or not sources >> slot & 1:
            continue
        flags &= operand.flags
        if shaped[0] == NULL:
            shaped[0] = operand
            continue
        if operand.ndim != shaped[0].ndim:
            return 0
        for axis in range(operand.ndim):
            if operand.shape[axis] != shaped[0].shape[axis]:
                return 0
    if shaped[0] == NULL:
        return 0
    if flags & NPY_ARRAY_C_CONTIGUOUS:
        return NPY_ARRAY_C_CONTIGUOUS
    return flags & NPY_ARRAY_F_CONTIGUOUS


cdef bint broadcast(Call *call) noexcept:
    """Broadcast the inputs: give the job an axis for each of the result's, as they come."""
    cdef Job *job = &call.job
    cdef const Operand *operand
    cdef int slot, axis, lead
    cdef Py_ssize_t length
    call.ndim = 0
    for slot in range(call.inputs):
        call.ndim = max(call.ndim, call.input[slot].ndim)
    if not 0 < call.ndim <= MAX_DIMS:
        return False
    call.shape = call.broadcast_shape
    for axis in range(call.ndim):
        call.broadcast_shape[axis] = 1
    for slot in range(call.inputs):
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
        if length == 0 or job.size > PY_SSIZE_T_MAX // item_size[call.dtype] // length:
            return False
        job.size *= length
    return True


cdef inline object attach(Call *call, int slot, int sources, object out):
    """The array that a result goes into: ``out``, or where this is None a new one.

    ``sources`` has a bit for each input that the result is computed from: as in NumPy their memory
    order decides the new array's. None if the kernels may not write into ``out``.
    """
    if out is not None or call.order == 0:
        return attach_any(call, slot, sources, out)
    out = allocate(call, call.order, NULL)
    call.job.data[slot] = <char *> PyArray_DATA(<Array *> out)
    call.job.strides[0][slot] = call.job.item
    return out


cdef object attach_any(Call *call, int slot, int sources, object out):
    """`attach` for given arrays, and for calls that have axes."""
    cdef Job *job = &call.job
    cdef const Operand *shaped
    cdef Py_ssize_t strides[MAX_DIMS]
    cdef int axis, order
    if out is None:
        # Results of buffered operands NumPy lays out axis by axis, which shows in axes of length 1.
        order = 0 if call.copied & sources else shared_order(call, sources, &shaped)
        if order:
            out = allocate(call, order, NULL)
        else:
            keep_order(call, sources, strides)
            out = allocate(call, 0, strides)
    elif not is_served_out(call, out):
        return None
    elif call.order and not PyArray_FLAGS(<Array *> out) & call.order:
        give_axes(call, slot)
    job.data[slot] = <char *> PyArray_DATA(<Array *> out)
    if call.order:
        job.strides[0][slot] = job.item
    else:
        for axis in range(call.ndim):
            job.strides[axis][slot] = PyArray_STRIDES(<Array *> out)[axis]
    return out


cdef void give_axes(Call *call, int slot) noexcept:
    """Give a call that was one row its axes; the results before ``slot`` are rows as it was."""
    cdef Job *job = &call.job
    cdef int order = call.order
    cdef int result, axis, position
    cdef Py_ssize_t stride
    call.order = 0
    broadcast(call)
    for result in range(call.inputs, slot):
        stride = job.item
        for position in range(call.ndim):
            axis = position if order == NPY_ARRAY_F_CONTIGUOUS else call.ndim - 1 - position
            job.strides[axis][result] = stride
            stride *= call.shape[axis]


cdef inline object allocate(const Call *call, int order, const Py_ssize_t *strides):
    """A new array, in a memory order or by its strides."""
    cdef size_t size = call.job.size * item_size[call.dtype]
    cdef int flags = NPY_ARRAY_F_CONTIGUOUS if order == NPY_ARRAY_F_CONTIGUOUS else 0
    if size >= <size_t> load_size(&thresholds.recycling) and is_recycling():
        return allocate_recycled(call, size, strides, flags)
    return new_array(call, strides, NULL, flags)


cdef object allocate_recycled(
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
    if SHIFTED_BYTES <= size < <size_t> streamed_bytes():
        phase = away_from_inputs(call)
    block = new_block(size, phase)
    if block == NULL:
        return new_array(call, strides, NULL, flags)  # NumPy tries, too, and says what failed
    try:
        array = new_array(call, strides, block, flags | NPY_ARRAY_WRITEABLE)
    except BaseException:
        free_block(block)
        raise
    own_block(array, size)
    return array


cdef size_t away_from_inputs(const Call *call) noexcept nogil:
    """Where in a page a result should begin: in the middle of the widest gap between the inputs."""
    cdef size_t start, gap, distance
    cdef size_t widest = 0
    cdef size_t middle = 0
    cdef int slot, other
    for slot in range(call.inputs):
        if call.input[slot].ndim == 0:
            continue
        start = <size_t> call.input[slot].data
        gap = PAGE
        for other in range(call.inputs):
            distance = (<size_t> call.input[other].data - start) & (PAGE - 1)
            if call.input[other].ndim and distance:
                gap = min(gap, distance)
        if gap > widest:
            widest = gap
            middle = start + gap // 2
    return middle & (PAGE - 1)


cdef inline object new_array(
    const Call *call, const Py_ssize_t *strides, void *block, int flags
):
    cdef Descr *descr = canonical[call.dtype]
    Py_INCREF(<object> descr)  # PyArray_NewFromDescr steals it
    return PyArray_NewFromDescr(
        &PyArray_Type, descr, call.ndim, call.shape, strides, block, flags, NULL)


cdef void keep_order(const Call *call, int sources, Py_ssize_t *strides) noexcept:
    """The strides that NumPy gives a result of the given inputs, its order "K".

    An axis goes inside another if its stride is the smaller one in all inputs; where they disagree,
    or repeat their elements along an axis, the later axis goes inside.
    """
    cdef int inner_first[MAX_DIMS]
    cdef int axis, other, comparison, i, j, position
    cdef Py_ssize_t stride = item_size[call.dtype]
    for i in range(call.ndim):
        axis = call.ndim - 1 - i
        position = i
        # An insertion sort; an axis that compares with none of its neighbours may still pass them.
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
    # Not abs(), which takes and makes Python integers: slowly, and not where memory is out.
    return -stride if stride < 0 else stride


cdef inline int compare_axes(const Call *call, int axis, int other, int sources) noexcept:
    """-1 if ``axis`` belongs inside ``other``, 1 if outside, 0 if no input can tell."""
    cdef int slot
    cdef int result = 0
    cdef Py_ssize_t a, b
    for slot in range(call.inputs):
        a = magnitude(call.job.strides[axis][slot])
        b = magnitude(call.job.strides[other][slot])
        if a == 0 or b == 0 or not sources >> slot & 1:
            continue
        if b <= a:
            return 1
        result = -1
    return result


# NumPy warns when such an array is written to: those that `np.broadcast_arrays` returns. The flag
# has no public name (ndarraytypes.h, NPY_ARRAY_WARN_ON_WRITE).
cdef enum:
    WARN_ON_WRITE = -0x80000000


cdef bint is_served_out(const Call *call, object out) noexcept:
    """Whether the kernels may write a result into ``out``."""
    cdef Operand target
    cdef int slot
    if not describe(out, call.dtype, &target) or not PyArray_CheckExact(out):
        return False
    if not target.flags & NPY_ARRAY_WRITEABLE or not has_shape(&target, call):
        return False
    if target.flags & WARN_ON_WRITE:
        return False
    if not 0 < call.ndim <= MAX_DIMS or call.job.size == 0 or not is_distinct(&target, call):
        return False
    # What overlaps is left to NumPy, work in place included: were an exception raised, the
    # operands would be gone by the time that NumPy repeats the call to report it.
    for slot in range(call.inputs):
        if overlap(&call.input[slot], &target, call.job.item):
            return False
    return True


cdef bint is_distinct(const Operand *operand, const Call *call) noexcept:
    """Whether no two elements share memory: an axis steps over all that the shorter steps reach."""
    cdef Py_ssize_t step, shorter, extent
    cdef int axis, other
    for axis in range(operand.ndim):
        if operand.shape[axis] == 1:
            continue
        step = magnitude(operand.strides[axis])
        extent = call.job.item
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


cdef bint are_apart(object a, object b, const Call *call) noexcept:
    """Whether two outputs, each an array of the call's dtype or None, share no memory."""
    cdef Operand first, second
    if a is None or b is None:
        return True
    return (
        describe(a, call.dtype, &first)
        and describe(b, call.dtype, &second)
        and not overlap(&first, &second, call.job.item)
    )


cdef bint overlap(const Operand *a, const Operand *b, Py_ssize_t item) noexcept:
    """Whether the spans of memory that two operands' elements lie in meet."""
    return first_byte(a) < end_byte(b, item) and first_byte(b) < end_byte(a, item)


cdef char *first_byte(const Operand *operand) noexcept:
    cdef char *byte = operand.data
    cdef int axis
    for axis in range(operand.ndim):
        byte += min(<Py_ssize_t> 0, (operand.shape[axis] - 1) * operand.strides[axis])
    return byte


cdef char *end_byte(const Operand *operand, Py_ssize_t item) noexcept:
    cdef char *byte = operand.data + item
    cdef int axis
    for axis in range(operand.ndim):
        byte += max(<Py_ssize_t> 0, (operand.shape[axis] - 1) * operand.strides[axis])
    return byte


cdef inline bint has_shape(const Operand *operand, const Call *call) noexcept:
    """Whether an operand has the shape of the call, so that nothing of it is repeated."""
    cdef int axis
    if operand.ndim != call.ndim:
        return False
    for axis in range(call.ndim):
        if operand.shape[axis] != call.shape[axis]:
            return False
    return True


cdef void arrange(Job *job, int leader) noexcept:
    """Order a job's axes as the leading operand lies in memory, and merge those that run on."""
    cdef Job sorted = job[0]
    cdef int axes[MAX_DIMS]
    cdef int slot, axis, position
    cdef int ndim = 0
    for axis in range(job.ndim):
        if job.shape[axis] == 1:
            continue
        position = ndim
        while position > 0 and (
            magnitude(job.strides[axes[position - 1]][leader])
            < magnitude(job.strides[axis][leader])
        ):
            axes[position] = axes[position - 1]
            position -= 1
        axes[position] = axis
        ndim += 1
    sorted.ndim = 0
    for position in range(ndim):
        axis = axes[position]
        if sorted.ndim and runs_on(&sorted, job, axis):
            sorted.shape[sorted.ndim - 1] *= job.shape[axis]
        else:
            sorted.shape[sorted.ndim] = job.shape[axis]
            sorted.ndim += 1
        for slot in range(job.operands):
            sorted.strides[sorted.ndim - 1][slot] = job.strides[axis][slot]
    if sorted.ndim == 0:  # a single element
        sorted.ndim = 1
        sorted.shape[0] = 1
        for slot in range(job.operands):
            sorted.strides[0][slot] = job.item
    # The kernels take an operand that an operation does not have for a contiguous one.
    for axis in range(sorted.ndim):
        for slot in range(job.operands, MAX_OPERANDS):
            sorted.strides[axis][slot] = job.item
    job[0] = sorted
    if job.inputs == 2 and job.strides[job.ndim - 1][0] == 0:
        exchange_inputs(job)


# A row of fewer elements costs less when it is run across, with its neighbours. 4 columns of 250k
# float64 rows took 3 times as long row by row (Xeon of the Sapphire Rapids family).
cdef enum:
    SHORT_ROW = 16


cdef inline void choose_blocks(Job *job) noexcept:
    """Let a job be run by blocks where rows are short, or an input lies across the others."""
    cdef int last = job.ndim - 1
    cdef int slot
    cdef Py_ssize_t before
    if last == 0:
        return
    if job.shape[last] < SHORT_ROW and job.shape[last] < job.shape[last - 1]:
        exchange_last_axes(job)
        job.blocked = True
        return
    for slot in range(job.inputs):
        before = magnitude(job.strides[last - 1][slot])
        if before and before < magnitude(job.strides[last][slot]):
            job.blocked = True


cdef void exchange_last_axes(Job *job) noexcept:
    cdef int last = job.ndim - 1
    cdef int slot
    job.shape[last - 1], job.shape[last] = job.shape[last], job.shape[last - 1]
    for slot in range(MAX_OPERANDS):
        job.strides[last - 1][slot], job.strides[last][slot] = (
            job.strides[last][slot], job.strides[last - 1][slot])


cdef inline bint runs_on(const Job *outer, const Job *job, int axis) noexcept:
    """Whether one step along the last axis of ``outer`` is a whole length of the given axis."""
    cdef int slot
    for slot in range(job.operands):
        if outer.strides[outer.ndim - 1][slot] != job.strides[axis][slot] * job.shape[axis]:
            return False
    return True


cdef void exchange_inputs(Job *job) noexcept:
    """Exchange two inputs of a job that is symmetric in them: kernels like to repeat the second."""
    cdef int axis
    job.data[0], job.data[1] = job.data[1], job.data[0]
    for axis in range(job.ndim):
        job.strides[axis][0], job.strides[axis][1] = job.strides[axis][1], job.strides[axis][0]
