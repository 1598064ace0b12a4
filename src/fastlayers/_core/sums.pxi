# Gradients summed to the shapes of operands that were broadcast.

# Such jobs are cut into chunks by their size alone, so that the order of the additions does not
# depend on the number of threads. A chunk of 32k elements takes some 10 us.
cdef enum:
    CHUNK = 1 << 15
    MAX_CHUNKS = 64


cdef object summed_backward(
    Operation operation, object dout, object x, object y, bint *heard
):
    """The pair of gradients, each summed to its operand's shape, or None where it is not served.

    ``heard`` is set where a floating-point exception was raised that the user wants to hear of.
    """
    cdef Call call
    cdef Job *job = &call.job
    cdef Operand operands[2]
    cdef void *workspace
    cdef int raised
    if not begin_sums(&call, operation, dout, x, y, operands):
        return None
    dx = attach_gradient(&call, 0, &operands[0], DOUT | 1 << call.inputs - 1)
    dy = attach_gradient(&call, 1, &operands[1], DOUT | 1 << 1)
    arrange(job, 0)
    choose_blocks(job)
    cut(job)
    workspace = attach_workspace(job)
    share_out(job, job.chunks if job.size * job.item >= load_size(&thresholds.threads) else 1)
    with nogil:
        raised = run_timed(job)
    free_block(workspace)
    heard[0] = raised != 0 and not is_ignored(raised)
    return as_given(x, dx), as_given(y, dy)


cdef bint begin_sums(
    Call *call, Operation operation, object dout, object x, object y, Operand *operands
):
    """Describe the operands; False if the call is not served."""
    if not PyArray_CheckExact(dout):
        return False
    call.dtype = array_dtype(<Array *> dout)
    if call.dtype != FLOAT64 and call.dtype != FLOAT32:
        return False
    if not describe(dout, call.dtype, &call.input[0]):
        return False
    if operation == MULTIPLY_BACKWARD:
        call.inputs = 3
        if not describe(x, call.dtype, &call.input[1]):
            return False
        if not describe(y, call.dtype, &call.input[2]):
            return False
        operands[0] = call.input[1]
        operands[1] = call.input[2]
    else:
        call.inputs = 2
        describe(1, call.dtype, &call.input[1])
        if not describe_shape(x, &operands[0]) or not describe_shape(y, &operands[1]):
            return False
    begin_job(call, operation, call.inputs + 2)
    call.order = 0
    call.copied = 0
    return (
        broadcast(call)
        and has_shape(&call.input[0], call)
        and fits(&operands[0], call)
        and fits(&operands[1], call)
    )


cdef bint describe_shape(object value, Operand *operand):
    """Describe the shape of an operand whose values do not matter; False if it is not plain."""
    if is_array(value):
        operand.ndim = PyArray_NDIM(<Array *> value)
        operand.shape = PyArray_DIMS(<Array *> value)
        return True
    operand.ndim = 0
    return is_number(value) or isinstance(value, np.generic)


cdef bint fits(const Operand *operand, const Call *call) noexcept:
    """Whether an operand broadcasts to the shape of the call."""
    cdef int axis
    cdef int lead = call.ndim - operand.ndim
    if lead < 0:
        return False
    for axis in range(operand.ndim):
        if operand.shape[axis] != 1 and operand.shape[axis] != call.shape[lead + axis]:
            return False
    return True


cdef object attach_gradient(Call *call, int result, const Operand *operand, int sources):
    """A new array for a gradient, of its operand's shape, and in the job its sums' strides."""
    cdef Job *job = &call.job
    cdef int slot = call.inputs + result
    cdef int axis
    cdef int lead = call.ndim - operand.ndim
    cdef Py_ssize_t count = 1
    cdef Call target
    job.sums[result].wanted = not has_shape(operand, call)
    if not job.sums[result].wanted:
        return attach(call, slot, sources, None)
    for axis in range(call.ndim - 1, -1, -1):
        if axis < lead or operand.shape[axis - lead] == 1:
            job.strides[axis][slot] = 0
        else:
            job.strides[axis][slot] = count * sizeof(double)
            count *= operand.shape[axis - lead]
    target.dtype = call.dtype
    target.inputs = 0  # it may begin anywhere in a page: written at the end, when nothing is read
    target.ndim = operand.ndim
    target.shape = operand.shape
    target.job.size = count
    array = allocate(&target, NPY_ARRAY_C_CONTIGUOUS, NULL)
    job.sums[result].count = count
    job.sums[result].errors = count * sizeof(double)
    job.sums[result].result = <char *> PyArray_DATA(<Array *> array)
    return array


cdef void cut(Job *job) noexcept:
    """Cut the job into chunks. A result summed along the axis that is cut has sums in each."""
    cdef int result
    cdef Sum *sum
    cdef const Py_ssize_t *strides
    # The first, unless that is short: the last two have changed places then.
    job.cut_axis = 1 if job.ndim == 2 and job.shape[0] < SHORT_ROW and job.blocked else 0
    strides = job.strides[job.cut_axis]
    job.chunks = <int> max(
        <Py_ssize_t> 1, min(job.size // CHUNK, job.shape[job.cut_axis], MAX_CHUNKS))
    for result in range(2):
        sum = &job.sums[result]
        if sum.wanted and strides[job.inputs + result] == 0:
            # No more sums than an eighth of the elements.
            job.chunks = <int> max(
                <Py_ssize_t> 1, min(<Py_ssize_t> job.chunks, job.size // (8 * sum.count)))
    for result in range(2):
        sum = &job.sums[result]
        sum.next_chunk = 0
        if sum.wanted and strides[job.inputs + result] == 0:
            sum.next_chunk = 2 * sum.errors


cdef void *attach_workspace(Job *job) except NULL:
    """Memory for the sums and their errors, all 0."""
    cdef size_t size = 0
    cdef size_t offset[2]
    cdef int result
    cdef const Sum *sum
    cdef void *workspace
    for result in range(2):
        sum = &job.sums[result]
        offset[result] = size
        if sum.wanted:
            size += 2 * sum.errors * (job.chunks if sum.next_chunk else 1)
    workspace = new_block(size, ANYWHERE)
    if workspace == NULL:
        raise MemoryError(f"no memory for {size} bytes of partial sums")
    memset(workspace, 0, size)
    for result in range(2):
        if job.sums[result].wanted:
            job.data[job.inputs + result] = <char *> workspace + offset[result]
    return workspace


cdef object as_given(object operand, object gradient):
    """A Python number for a Python number, a NumPy scalar for what else has no axes."""
    if gradient.ndim:
        return gradient
    return gradient.item() if is_number(operand) else gradient[()]
