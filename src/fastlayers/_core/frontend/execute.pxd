"""A program run on what was given: operands described, results placed, a job filled in and run."""

from cpython.exc cimport PyErr_Clear, PyErr_Occurred
from cpython.object cimport PyObject
from cpython.tuple cimport PyTuple_New

from ..memory cimport free_block
from ..program.operations cimport COLUMNS
from ..program.program cimport (
    BY_ROW, DROPPED, MAX_DIMS, MAX_INPUTS, MAX_RESULTS, MAX_SUBTREES, NUMPYS, REPEATED, UNSERVED,
    WHOLE, DType, Job, Layout, Program, Share,
)
from .dtypes cimport (
    Operand, array_dtype, describe, describe_shape, dtypes, has_axes, store_number,
)
from .fp cimport is_ignored
from .layout cimport (
    Call, arrange, begin_job, broadcast, choose_blocks, is_in_order, leader, reaches_all,
)
from .ndarray cimport (
    NPY_ARRAY_ALIGNED, NPY_ARRAY_C_CONTIGUOUS, NPY_ARRAY_F_CONTIGUOUS, Array, PyArray_CheckExact,
    PyArray_DATA, PyArray_DESCR, PyArray_DIMS, PyArray_FLAGS, PyArray_NDIM, have_one_shape,
    set_item,
)
from .results cimport (
    AT_HAND, allocate, are_apart, as_given, count_chunks, cut_sums, fits, is_writable, meet,
    new_workspace, place_result, place_sums,
)
from .schedule cimport run


# What a program is run on, as borrowed pointers.
cdef struct Given:
    PyObject *operands[MAX_INPUTS]
    PyObject *outs[MAX_RESULTS]     # the array to write a result into, or NULL
    PyObject *sum_to[MAX_RESULTS]   # if summing: the operand to whose shape, or NULL
    bint summing
    bint has_outs
    # If outputs may lie where operands do: for what becomes of that, else NULL; and the exceptions
    # that NumPy must warn of.
    Share *shares
    int heeded
    unsigned int copied             # a bit for each operand that is a copy of what was given
    double (*totals)[MAX_SUBTREES]  # of a program that adds up all elements: the first are the sums
    # What `execute` finds, if it serves them.
    DType dtype
    Py_ssize_t elements             # of the shape to which all operands broadcast


cdef inline void begin(Given *given) noexcept:
    """Ask for results in new arrays, none of them summed."""
    given.has_outs = given.summing = False
    given.shares = NULL
    given.copied = 0


cdef inline object execute(const Program *program, Given *given, bint *warned):
    """The result of a program, or a tuple of its results; None if it is not served.

    ``warned`` is set if a floating-point exception was raised that the user does not ignore. If
    an output lies where an operand does, nothing was overwritten from there on: see the shares.
    """
    if program.of_rows:
        return execute_rows(program, given, warned)
    if program.totals:
        return None if given.summing else execute_row(program, given, warned)
    if not given.summing and not given.copied:
        results = execute_row(program, given, warned)
        if results is not None:
            return results
    return execute_axes(program, given, warned)


cdef inline object execute_row(const Program *program, Given *given, bint *warned):
    """`execute` for arrays of one shape, contiguous in one order: a single row.

    Most calls are like this, and small ones have little time to spare.
    """
    cdef Call call
    cdef Job *job = &call.job
    cdef Array *first = NULL
    cdef Array *array
    cdef int flags = NPY_ARRAY_C_CONTIGUOUS | NPY_ARRAY_F_CONTIGUOUS | NPY_ARRAY_ALIGNED
    cdef int slot, result, axis, order
    call.numbers = 0
    for slot in range(program.inputs):
        if not has_axes(given.operands[slot]):
            call.numbers |= <unsigned int> 1 << slot
            continue
        array = <Array *> given.operands[slot]
        if first == NULL:
            first = array
        elif not are_alike(first, array):
            return None
        flags &= PyArray_FLAGS(array)
        job.data[slot] = <char *> PyArray_DATA(array)
    order = flags & NPY_ARRAY_C_CONTIGUOUS or flags & NPY_ARRAY_F_CONTIGUOUS
    if program.ordered:
        order = flags & NPY_ARRAY_C_CONTIGUOUS
    if first == NULL or not order or not flags & NPY_ARRAY_ALIGNED:
        return None
    call.program = program
    call.dtype = array_dtype(first)
    call.ndim = PyArray_NDIM(first)
    call.shape = PyArray_DIMS(first)
    if call.dtype == UNSERVED or not program.dtypes >> call.dtype & 1:
        return None
    call.input_count = program.inputs + program.constants
    begin_job(&call)
    job.single_row = True
    job.size = 1
    for axis in range(call.ndim):
        job.size *= call.shape[axis]
    if job.size == 1 and program.foreign:
        return None  # in one piece, and yet it may go backwards
    job.ndim = 1
    job.shape[0] = job.size
    for slot in range(job.operands):
        job.strides[0][slot] = job.item_bytes
    if (call.numbers or program.constants) and not take_numbers(&call, given):
        return None
    if program.results != 1:
        results = PyTuple_New(program.results)
    for result in range(program.results):
        if not (program.shaped or program.read_by[result] & ~call.numbers):
            return None
        if given.outs[result] == NULL:
            one = allocate(&call, order, NULL)
        elif is_row(&call, given, result, first, order):
            one = <object> given.outs[result]
        else:
            return None
        slot = job.first_result + result
        job.data[slot] = <char *> PyArray_DATA(<Array *> one)
        if program.results > 1:
            set_item(results, result, one)
        else:
            results = one
    if job.in_place:
        job.shares = given.shares
        job.heeded = given.heeded
    job.totals = given.totals
    warned[0] = run_call(&call, given)
    return results


cdef inline object execute_rows(const Program *program, Given *given, bint *warned):
    """`execute` for a pass over whole rows: of operands that are contiguous and in C order.

    Rows must be longer than one element, but so short that tiles stay in the caches, and their sums
    must be those that `execute_axes` makes.
    """
    cdef Call call
    cdef Job *job = &call.job
    cdef Array *first = NULL    # of the whole shape,
    cdef Array *by_row = NULL   # or with an element for each row,
    cdef Array *one_row = NULL  # and one row
    cdef Array *array
    cdef Layout layout
    cdef Py_ssize_t shape[MAX_DIMS]
    cdef int slot, result, axis, last
    if given.has_outs or given.summing:
        return None
    call.numbers = 0
    for slot in range(program.inputs):
        if not has_axes(given.operands[slot]):
            if program.layouts[slot] != REPEATED:
                return None
            call.numbers |= <unsigned int> 1 << slot
            continue
        array = <Array *> given.operands[slot]
        if program.layouts[slot] == BY_ROW:
            by_row = array
        elif program.layouts[slot] == REPEATED:
            one_row = array
        else:
            first = array if first == NULL else first
            if not are_alike(first, array):
                return None
    if first == NULL and (by_row == NULL or one_row == NULL):
        return None
    first = by_row if first == NULL else first
    last = PyArray_NDIM(first) - 1
    call.program = program
    call.dtype = array_dtype(first)
    if call.dtype == UNSERVED or not program.dtypes >> call.dtype & 1:
        return None
    call.input_count = program.inputs + program.constants
    begin_job(&call)
    job.single_row = True
    job.ndim = 1
    job.size = 1
    for axis in range(last + 1):
        shape[axis] = PyArray_DIMS(first)[axis]
        if first == by_row and axis == last:
            shape[axis] = PyArray_DIMS(one_row)[PyArray_NDIM(one_row) - 1]
        job.size *= shape[axis]
    job.columns = shape[last]
    if job.columns < 2 or job.columns > MOST_COLUMNS or job.size == 0 or (
        job.size // job.columns < count_chunks(job)
    ):
        return None
    job.shape[0] = job.size
    for slot in range(job.operands):
        job.strides[0][slot] = job.item_bytes
    for slot in range(program.inputs):
        if call.numbers >> slot & 1:
            continue
        array = <Array *> given.operands[slot]
        layout = program.layouts[slot]
        if (
            ~PyArray_FLAGS(array) & (NPY_ARRAY_C_CONTIGUOUS | NPY_ARRAY_ALIGNED)
            or array_dtype(array) != call.dtype
            or PyArray_NDIM(array) == 0
            or (layout == BY_ROW and not is_by_row(array, first))
            or (layout == REPEATED and not (
                PyArray_NDIM(array) <= last + 1 and is_one_row(array, job.columns)))
        ):
            return None
        job.data[slot] = <char *> PyArray_DATA(array)
    if (call.numbers or program.constants) and not take_numbers(&call, given):
        return None
    for slot in range(program.constants):
        if program.constant[slot] == COLUMNS:
            dtypes[call.dtype].store_integer(job.columns, job.data[program.inputs + slot])
    call.shape = shape
    results = PyTuple_New(program.results) if program.results > 1 else None
    for result in range(program.results):
        slot = job.first_result + result
        layout = program.layouts[slot]
        call.ndim = last + (0 if layout == DROPPED else 1)
        if call.ndim == 0:
            return None
        if layout != WHOLE:
            job.size = job.shape[0] // job.columns
            shape[last] = 1
        one = allocate(&call, NPY_ARRAY_C_CONTIGUOUS, NULL)
        job.size = job.shape[0]
        shape[last] = job.columns
        job.data[slot] = <char *> PyArray_DATA(<Array *> one)
        if program.results > 1:
            set_item(results, result, one)
        else:
            results = one
    warned[0] = run_call(&call, given)
    return results


# In a tile of one row; there is a buffer of that size for each value of a pass.
cdef enum:
    MOST_COLUMNS = 4096


cdef inline bint is_by_row(Array *array, Array *whole) noexcept:
    """Whether an array has one element for each row of another one."""
    cdef int axis
    cdef int last = PyArray_NDIM(whole) - 1
    if PyArray_NDIM(array) != PyArray_NDIM(whole) or PyArray_DIMS(array)[last] != 1:
        return False
    for axis in range(last):
        if PyArray_DIMS(array)[axis] != PyArray_DIMS(whole)[axis]:
            return False
    return True


cdef inline bint is_one_row(Array *array, Py_ssize_t columns) noexcept:
    cdef int axis
    cdef int last = PyArray_NDIM(array) - 1
    for axis in range(last):
        if PyArray_DIMS(array)[axis] != 1:
            return False
    return PyArray_DIMS(array)[last] == columns


cdef inline bint run_call(Call *call, Given *given) except -1:
    """Run the job; whether it raised an exception that the user does not ignore."""
    cdef int raised = run(&call.job)
    given.dtype = call.dtype
    given.elements = call.job.size
    if call.program.owner != NUMPYS and PyErr_Occurred() != NULL:
        if call.job.in_place:  # where operands are no longer what they were
            return -1
        PyErr_Clear()
        return True  # NumPy raises it again, of the node
    return raised != 0 and not is_ignored(raised)


cdef inline bint are_alike(Array *first, Array *other) noexcept:
    """Whether two arrays have the same dtype and shape."""
    if PyArray_DESCR(first) != PyArray_DESCR(other) and array_dtype(first) != array_dtype(other):
        return False
    return have_one_shape(first, other)


cdef inline bint take_numbers(Call *call, const Given *given) noexcept:
    """Give a row its numbers, the constants too; False if they are not served."""
    cdef Job *job = &call.job
    cdef int slot
    for slot in range(call.program.inputs):
        if call.numbers >> slot & 1:
            job.strides[0][slot] = 0
            job.data[slot] = <char *> &call.input[slot].number
            if not store_number(given.operands[slot], call.dtype, job.data[slot]):
                return False
    for slot in range(call.program.inputs, call.input_count):
        set_constant(call, slot)
        job.strides[0][slot] = 0
        job.data[slot] = call.input[slot].data
    return True


cdef inline bint is_row(
    Call *call, const Given *given, int result, Array *first, int order
) noexcept:
    """Whether an output is a row like the inputs, and overlaps neither them nor another output.

    It may lie exactly where inputs do, if that is served.
    """
    cdef Array *array = <Array *> given.outs[result]
    cdef Job *job = &call.job
    cdef Py_ssize_t bytes = job.size * job.item_bytes
    cdef char *data
    cdef int slot
    if not PyArray_CheckExact(given.outs[result]) or not are_alike(first, array):
        return False
    if not is_writable(PyArray_FLAGS(array)) or ~PyArray_FLAGS(array) & (order | NPY_ARRAY_ALIGNED):
        return False
    data = <char *> PyArray_DATA(array)
    for slot in range(call.program.inputs):
        if call.numbers >> slot & 1:
            if PyArray_CheckExact(given.operands[slot]) and meet(
                data, <char *> PyArray_DATA(<Array *> given.operands[slot]), bytes
            ):
                return False  # without axes: its value is here, but not what NumPy might need again
            continue
        if not meet(data, job.data[slot], bytes):
            continue
        if data != job.data[slot] or given.shares == NULL:
            return False
        job.in_place |= <unsigned int> 1 << result
    for slot in range(result):
        if meet(data, job.data[job.first_result + slot], bytes):
            return False
    return True


cdef inline object execute_axes(const Program *program, Given *given, bint *warned):
    """`execute` for operands of any layout that broadcast together."""
    cdef Call call
    cdef Operand summed_to[MAX_RESULTS]
    cdef double at_hand[AT_HAND]
    cdef void *workspace = NULL
    cdef int result
    results = None
    call.program = program
    call.copied = given.copied
    if not take_operands(&call, given):
        return None
    if program.foreign and not (goes_forward(&call) and are_contiguous(given, program.results)):
        return None
    begin_job(&call)
    if not broadcast(&call) or (program.shaped and not is_in_order(&call)):
        return None
    if given.summing:
        for result in range(program.results):
            if given.sum_to[result] != NULL and not (
                describe_shape(given.sum_to[result], &summed_to[result])
                and fits(&summed_to[result], &call)
            ):
                return None
    if given.has_outs and program.results > 1 and not are_apart(given.outs, &call):
        return None
    if program.results > 1:
        results = PyTuple_New(program.results)
    for result in range(program.results):
        if not (program.shaped or reaches_all(&call, program.read_by[result])):
            return None
        array = place(&call, result, given, summed_to)
        if array is None:
            return None
        if program.results > 1:
            set_item(results, result, array)
        else:
            results = array
    if given.summing:
        call.job.chunks = count_chunks(&call.job)
    arrange(&call.job, leader(&call) if given.summing else call.job.first_result)
    choose_blocks(&call.job)
    if given.summing:
        cut_sums(&call.job)
        workspace = new_workspace(&call.job, at_hand)
    try:
        warned[0] = run_call(&call, given)
    finally:
        if given.summing and workspace != at_hand:
            free_block(workspace)
    return as_given(results, given.sum_to, program.results) if given.summing else results


# The bits of some ufuncs' loops depend on how memory lies: where vectors of the processor's widest
# kind are used, what goes backwards or into an array with gaps is computed element by element, and
# rounded otherwise (AVX-512). NumPy turns axes round that go backwards, if all do.
cdef inline bint goes_forward(const Call *call) noexcept:
    """Whether no operand has a negative stride."""
    cdef int slot, axis
    for slot in range(call.program.inputs):
        for axis in range(call.input[slot].ndim):
            if call.input[slot].strides[axis] < 0:
                return False
    return True


cdef inline bint are_contiguous(const Given *given, int results) noexcept:
    """Whether no output has gaps."""
    cdef int result
    cdef int either = NPY_ARRAY_C_CONTIGUOUS | NPY_ARRAY_F_CONTIGUOUS
    if given.has_outs:
        for result in range(results):
            if given.outs[result] != NULL and not (
                PyArray_CheckExact(given.outs[result])
                and PyArray_FLAGS(<Array *> given.outs[result]) & either
            ):
                return False
    return True


cdef inline object place(Call *call, int result, const Given *given, const Operand *summed_to):
    call.job.sums[result].wanted = False
    if given.summing and given.sum_to[result] != NULL:
        return place_sums(call, result, call.program.read_by[result], &summed_to[result])
    return place_result(
        call, call.job.first_result + result, call.program.read_by[result], given.outs[result])


cdef inline bint take_operands(Call *call, const Given *given) noexcept:
    """Describe the inputs and the constants; False if they are not served."""
    cdef const Program *program = call.program
    cdef int slot
    slot = 0
    while not PyArray_CheckExact(given.operands[slot]):
        slot += 1
        if slot == program.inputs:
            return False
    call.dtype = array_dtype(<Array *> given.operands[slot])
    if call.dtype == UNSERVED or not program.dtypes >> call.dtype & 1:
        return False
    call.numbers = 0
    for slot in range(program.inputs):
        if not describe(given.operands[slot], call.dtype, &call.input[slot]):
            return False
        if call.input[slot].ndim == 0:
            call.numbers |= <unsigned int> 1 << slot
    call.input_count = program.inputs + program.constants
    for slot in range(program.inputs, call.input_count):
        set_constant(call, slot)
    return True


cdef inline void set_constant(Call *call, int slot) noexcept:
    cdef Operand *operand = &call.input[slot]
    call.numbers |= <unsigned int> 1 << slot
    operand.ndim = 0
    operand.data = <char *> &operand.number
    dtypes[call.dtype].store_integer(
        call.program.constant[slot - call.program.inputs], operand.data)
