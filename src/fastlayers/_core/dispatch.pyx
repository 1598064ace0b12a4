# The four functions: which calls the kernels serve, and where their results go.
#
# A call is served when its operands are plain arrays (and numbers) of one kernel dtype that NumPy
# would not convert; the result is allocated here, a job is filled in and run, and that is all.
# Every other call, and every call that raises a floating-point exception which the user wants to
# hear of, goes to the plain expression of fastlayers.reference, which also words all errors.

cimport numpy as cnp
from cpython.float cimport PyFloat_AS_DOUBLE, PyFloat_CheckExact
from cpython.long cimport PyLong_CheckExact
from cpython.object cimport PyObject, PyTypeObject
from cpython.pycapsule cimport PyCapsule_GetPointer
from cpython.ref cimport Py_INCREF
from libc.float cimport FLT_MAX, FLT_MIN
from libc.math cimport fabs, isfinite
from libc.string cimport memset
from libc.stdint cimport INT32_MAX, INT32_MIN, int32_t, int64_t

from .job cimport (
    ADD, ADD_BACKWARD, DTYPES, FLOAT32, FLOAT64, INT32, INT64, MAX_DIMS, MAX_OPERANDS, MULTIPLY,
    MULTIPLY_BACKWARD, UNSERVED, DType, Job, Operation, Run,
)
from .memory cimport free_block, is_recycling, new_block, own_block
from .ndarray cimport (
    NPY_ARRAY_ALIGNED, NPY_ARRAY_C_CONTIGUOUS, NPY_ARRAY_F_CONTIGUOUS, NPY_ARRAY_WRITEABLE,
    NPY_FLOAT32, NPY_FLOAT64, NPY_INT32, NPY_INT64, Array, Descr, PyArray_CheckExact, PyArray_DATA,
    PyArray_DESCR, PyArray_DIMS, PyArray_DescrFromType, PyArray_FLAGS, PyArray_ISNBO, PyArray_NDIM,
    PyArray_NewFromDescr, PyArray_STRIDES, PyArray_ScalarAsCtype, PyArray_Type,
    PyDataType_METADATA,
)

import numpy as np

from .. import reference
from . import memory

cdef extern from "Python.h":
    const Py_ssize_t PY_SSIZE_T_MAX
    PyTypeObject *Py_TYPE(object)
    long long PyLong_AsLongLongAndOverflow(object, int *overflow) except? -1

cdef extern from "fpstatus.h":
    enum:
        FP_OVERFLOW
        FP_UNDERFLOW
        FP_INVALID

cdef extern from "threads.h" nogil:
    const bint HAVE_OPENMP
    int openmp_threads()
    int is_forked_child
    void notice_fork()

cdef extern from "clock.h" nogil:
    double clock_seconds()

cdef extern from "cpu.h":
    int c_cpu_level "cpu_level"()

cnp.import_array()


# ---- dtypes: a new one is a line here and an entry in job.pxd and in the kernels' T ----

cdef int type_number[DTYPES]
type_number[FLOAT32] = NPY_FLOAT32
type_number[FLOAT64] = NPY_FLOAT64
type_number[INT32] = NPY_INT32
type_number[INT64] = NPY_INT64

cdef Py_ssize_t item_size[DTYPES]
item_size[FLOAT32] = sizeof(float)
item_size[FLOAT64] = sizeof(double)
item_size[INT32] = sizeof(int32_t)
item_size[INT64] = sizeof(int64_t)

# The scalar types, whose exact instances NumPy takes as 0-d arrays of the dtype.
cdef PyObject *scalar_type[DTYPES]
cdef tuple _scalar_types = (np.float32, np.float64, np.int32, np.int64)  # keeps them alive

# NumPy's own descriptors: native byte order and no metadata, without a look.
cdef Descr *canonical[DTYPES]

cdef DType dtype_of_number[cnp.NPY_NTYPES_LEGACY]
cdef int _number
for _number in range(cnp.NPY_NTYPES_LEGACY):
    dtype_of_number[_number] = UNSERVED
for _number in range(DTYPES):
    dtype_of_number[type_number[_number]] = <DType> _number
    canonical[_number] = PyArray_DescrFromType(type_number[_number])
    scalar_type[_number] = <PyObject *> _scalar_types[_number]


# ---- operands ----

cdef struct Operand:
    int ndim                # 0 for a number, which every axis repeats
    int flags
    char *data
    Py_ssize_t *shape
    Py_ssize_t *strides
    int64_t number          # storage for a number of any kernel dtype


cdef inline DType array_dtype(Array *array) noexcept:
    """The kernel dtype of an aligned array in native byte order, or UNSERVED."""
    cdef Descr *descr = PyArray_DESCR(array)
    cdef int number = descr.type_num
    cdef DType dtype
    if number < 0 or number >= cnp.NPY_NTYPES_LEGACY:
        return UNSERVED
    dtype = dtype_of_number[number]
    if dtype == UNSERVED or not PyArray_FLAGS(array) & NPY_ARRAY_ALIGNED:
        return UNSERVED
    if descr != canonical[dtype] and (
        not PyArray_ISNBO(descr.byteorder) or PyDataType_METADATA(descr) != NULL
    ):
        return UNSERVED
    return dtype


cdef inline bint describe(object value, DType dtype, Operand *operand) noexcept:
    """Describe an operand of the given dtype; False if NumPy would convert it, or the array."""
    cdef Array *array
    if PyArray_CheckExact(value):
        array = <Array *> value
        operand.ndim = PyArray_NDIM(array)
        operand.flags = PyArray_FLAGS(array)
        operand.data = <char *> PyArray_DATA(array)
        operand.shape = PyArray_DIMS(array)
        operand.strides = PyArray_STRIDES(array)
        return array_dtype(array) == dtype
    operand.ndim = 0
    operand.data = <char *> &operand.number
    return describe_number(value, dtype, <char *> &operand.number)


cdef bint describe_number(object value, DType dtype, char *number) noexcept:
    """Store a number as the dtype; False if NumPy would convert it otherwise, warn or raise."""
    cdef double real
    cdef long long integer
    cdef int overflow = 0
    if <PyObject *> Py_TYPE(value) == scalar_type[dtype]:
        PyArray_ScalarAsCtype(value, number)
        return True
    if PyFloat_CheckExact(value):
        real = PyFloat_AS_DOUBLE(value)
        if dtype == FLOAT64:
            (<double *> number)[0] = real
            return True
        if dtype == FLOAT32:
            # NumPy warns when the conversion overflows or underflows.
            if isfinite(real) and real != 0 and not FLT_MIN <= fabs(real) <= FLT_MAX:
                return False
            (<float *> number)[0] = <float> real
            return True
        return False
    if not PyLong_CheckExact(value):
        return False
    integer = PyLong_AsLongLongAndOverflow(value, &overflow)
    if overflow:
        return False
    if dtype == INT64:
        (<int64_t *> number)[0] = integer
        return True
    if dtype == INT32:
        (<int32_t *> number)[0] = <int32_t> integer
        return INT32_MIN <= integer <= INT32_MAX
    # Integers that the dtype holds exactly: there is one way only to convert them.
    if dtype == FLOAT64:
        (<double *> number)[0] = <double> integer
        return -(1LL << 53) <= integer <= 1LL << 53
    (<float *> number)[0] = <float> integer
    return -(1LL << 24) <= integer <= 1LL << 24


# ---- calls ----

# A call on its way to the kernels: what it was given, and the job that this becomes.
cdef struct Call:
    DType dtype
    int inputs
    Operand input[3]
    int order                   # C or Fortran: the call is one contiguous row. 0: it has axes
    int ndim                    # of the results
    const Py_ssize_t *shape
    Py_ssize_t broadcast_shape[MAX_DIMS]
    Job job


# Sets of inputs, a bit for each.
cdef enum:
    DOUT = 1
    ALL_INPUTS = 7


cdef bint begin(Call *call, Operation operation, int operands) noexcept:
    """Find the shape of the results and lay the inputs along it; False if the call is not served."""
    cdef Job *job = &call.job
    cdef const Operand *shaped
    cdef int slot
    cdef Py_ssize_t item = item_size[call.dtype]
    job.operation = operation
    job.dtype = call.dtype
    job.inputs = call.inputs
    job.operands = operands
    job.item = item
    job.chunks = 0
    job.blocked = False
    call.order = shared_order(call, ALL_INPUTS, &shaped)
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
            job.strides[0][slot] = item if call.input[slot].ndim else 0
        for slot in range(operands, MAX_OPERANDS):
            job.strides[0][slot] = item
        return True
    return broadcast(call)


cdef inline int shared_order(
    const Call *call, int sources, const Operand **shaped
) noexcept:
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
    return NPY_ARRAY_C_CONTIGUOUS if flags & NPY_ARRAY_C_CONTIGUOUS else flags & NPY_ARRAY_F_CONTIGUOUS


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


cdef object attach(Call *call, int slot, int sources, object out):
    """The array that a result goes into: ``out``, or where this is None a new one.

    ``sources`` has a bit for each input that the result is computed from: as in NumPy their memory
    order decides the new array's. None if the kernels may not write into ``out``.
    """
    cdef Job *job = &call.job
    cdef const Operand *shaped
    cdef Py_ssize_t strides[MAX_DIMS]
    cdef int axis, order
    if out is None:
        order = call.order or shared_order(call, sources, &shaped)
        if order:
            out = allocate(call, order, NULL)
        else:
            keep_order(call, sources, strides)
            out = allocate(call, 0, strides)
    elif not is_served_out(call, slot, out):
        return None
    job.data[slot] = <char *> PyArray_DATA(<Array *> out)
    if call.order:
        job.strides[0][slot] = item_size[call.dtype]
    else:
        for axis in range(call.ndim):
            job.strides[axis][slot] = PyArray_STRIDES(<Array *> out)[axis]
    return out


cdef inline object allocate(const Call *call, int order, const Py_ssize_t *strides):
    """A new array, in a memory order or by its strides."""
    cdef Descr *descr = canonical[call.dtype]
    cdef int flags = NPY_ARRAY_F_CONTIGUOUS if order == NPY_ARRAY_F_CONTIGUOUS else 0
    cdef size_t size = call.job.size * item_size[call.dtype]
    cdef void *block = NULL
    if size >= thresholds.recycling and is_recycling():
        # Where there is no memory NumPy tries, and says so.
        block = new_block(size)
    if block != NULL:
        flags |= NPY_ARRAY_WRITEABLE
    Py_INCREF(<object> descr)  # PyArray_NewFromDescr steals it
    try:
        array = PyArray_NewFromDescr(
            &PyArray_Type, descr, call.ndim, call.shape, strides, block, flags, NULL)
    except:
        if block != NULL:
            free_block(block)
        raise
    if block != NULL:
        own_block(array, size)
    return array


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


cdef inline int compare_axes(const Call *call, int axis, int other, int sources) noexcept:
    """-1 if ``axis`` belongs inside ``other``, 1 if outside, 0 if no input can tell."""
    cdef int slot
    cdef int result = 0
    cdef Py_ssize_t a, b
    for slot in range(call.inputs):
        a = abs(call.job.strides[axis][slot])
        b = abs(call.job.strides[other][slot])
        if a == 0 or b == 0 or not sources >> slot & 1:
            continue
        if b <= a:
            return 1
        result = -1
    return result


cdef bint is_served_out(const Call *call, int slot, object out) noexcept:
    """Whether the kernels may write into ``out``, the array for the given slot."""
    cdef Array *array = <Array *> out
    cdef Operand target
    cdef char *start
    cdef char *end
    cdef int i
    if not describe(out, call.dtype, &target):
        return False
    if not PyArray_CheckExact(out) or not target.flags & NPY_ARRAY_WRITEABLE:
        return False
    if target.ndim != call.ndim:
        return False
    for i in range(call.ndim):
        if target.shape[i] != call.shape[i]:
            return False
    if call.order:
        if not target.flags & call.order:
            return False
    elif not target.flags & (NPY_ARRAY_C_CONTIGUOUS | NPY_ARRAY_F_CONTIGUOUS):
        return False
    # What overlaps is left to NumPy, work in place included: were an exception raised, the
    # operands would be gone by the time that NumPy repeats the call to report it.
    start = target.data
    end = start + call.job.size * item_size[call.dtype]
    for i in range(call.inputs):
        if overlaps(&call.input[i], item_size[call.dtype], start, end):
            return False
    # So is one result that overlaps another.
    for i in range(call.inputs, slot):
        if start < call.job.data[i] + (end - start) and call.job.data[i] < end:
            return False
    return True


cdef bint overlaps(const Operand *operand, Py_ssize_t item, char *start, char *end) noexcept:
    """Whether memory from ``start`` to ``end`` meets the span of an operand's elements."""
    cdef char *low = operand.data
    cdef char *high = operand.data + item
    cdef int axis
    for axis in range(operand.ndim):
        if operand.shape[axis] == 0:
            return False
        if operand.strides[axis] < 0:
            low += (operand.shape[axis] - 1) * operand.strides[axis]
        else:
            high += (operand.shape[axis] - 1) * operand.strides[axis]
    return low < end and start < high


# ---- running ----

cdef Run run_kernels = NULL

# From what size on things are done. Tests lower these, by `set_thresholds`, to see small arrays
# take the paths of large ones.
cdef struct Thresholds:
    Py_ssize_t gil              # elements
    Py_ssize_t threads          # elements
    Py_ssize_t streaming        # bytes, of all operands
    Py_ssize_t recycling        # bytes, of a result

cdef Thresholds thresholds

# A call on fewer elements takes some 5 us, too little for another thread to gain from it; to
# release the GIL and take it again costs 0.1 us when nobody waits.
thresholds.gil = 1 << 14

# Waking a second thread costs some 2 us. Steps on float64, one thread against two, us: 10k elements
# 7.1 / 7.2, 16k 10.8 / 8.8, 30k 25 / 13, 65k 99 / 33 (Xeon of the Sapphire Rapids family, 2 cores,
# 2 MiB L2 each).
thresholds.threads = 1 << 14

# Results that will not be in the last-level cache when they are next read. Where that is larger than
# 32 MiB it is shared by many cores: on the machine above, whose 480 MiB serve all guests of a host,
# steps on 1M float64 elements gain 1.1 times from streaming, on 2M 1.5 times, on 524k they lose.
thresholds.streaming = 1 << 25

# Blocks from the recycler cost no more than NumPy's, but are aligned and warm; below 1 KiB NumPy
# keeps a cache of its own.
thresholds.recycling = 1 << 11


def get_thresholds():
    """Return the sizes from which on things are done, by name."""
    return thresholds


def set_thresholds(*, gil=None, threads=None, streaming=None, recycling=None):
    """Change sizes from which on things are done; None leaves one as it is."""
    if gil is not None:
        thresholds.gil = gil
    if threads is not None:
        thresholds.threads = threads
    if streaming is not None:
        thresholds.streaming = streaming
    if recycling is not None:
        thresholds.recycling = recycling


# 0 where nobody has asked: then as many as OpenMP would use, but no more than the quota.
cdef int threads_asked = 0
cdef int threads_quota = 1
cdef int openmp_threads_at_import = openmp_threads()
notice_fork()


cdef inline int thread_count() noexcept nogil:
    """How many threads a large call uses."""
    cdef int openmp = openmp_threads()
    if is_forked_child or not HAVE_OPENMP:
        return 1
    if threads_asked == 0:
        return min(openmp, threads_quota)
    # Lowered since, as by threadpoolctl: that goes for everybody.
    return min(threads_asked, openmp) if openmp < openmp_threads_at_import else threads_asked


def get_thread_count():
    """Return how many threads a large call uses."""
    return thread_count()


def set_thread_count(int asked, int quota):
    """Set how many threads a large call uses; 0 asks for as many as OpenMP and the quota allow."""
    global threads_asked, threads_quota
    threads_asked = asked
    threads_quota = quota


def cpu_level():
    """The x86-64 microarchitecture level of this CPU, 1 to 4; 0 on other architectures."""
    return c_cpu_level()


def use_kernels(capsule):
    """Hand all further calls to the ``kernels`` of a kernel module."""
    global run_kernels
    run_kernels = <Run> PyCapsule_GetPointer(capsule, "fastlayers._core.kernels")


# Where other work keeps the cores busy, a thread may have to wait some milliseconds for its turn,
# and the others wait for it: a call that takes 30 us alone then takes 4 ms. After a call that was so
# late, the next ones use one thread, for some twenty times as long as it took.
#
# Late is what takes longer than any memory needs: DDR3 moves more than 8 GB/s.
#
# The variable is a hint that any thread may change at any time; it is written and read whole.
cdef volatile double one_thread_until = 0


cdef inline void share_out(Job *job, Py_ssize_t most) noexcept nogil:
    """Set how many threads run a job, at most so many."""
    job.threads = <int> max(<Py_ssize_t> 1, min(<Py_ssize_t> thread_count(), most))
    if job.threads > 1 and clock_seconds() < one_thread_until:
        job.threads = 1


cdef inline int run_timed(const Job *job) noexcept nogil:
    """Run a job; remember if its threads were late."""
    global one_thread_until
    cdef int raised
    cdef double start, taken
    if job.threads == 1:
        return run_kernels(job)
    start = clock_seconds()
    raised = run_kernels(job)
    taken = clock_seconds() - start
    if taken > 1e-4 + <double> (job.size * job.item * job.operands) / 8e9:
        one_thread_until = start + 20 * taken
    return raised


cdef inline bint run(Call *call) except -1:
    """Run the job; False if it raised a floating-point exception that the user wants to hear of."""
    cdef int raised
    cdef Job *job = &call.job
    if not call.order:
        arrange(job, job.inputs)
    job.streaming = job.size * job.item * job.operands >= thresholds.streaming
    if job.size < thresholds.threads:
        job.threads = 1
    else:
        # Each gets no less than half of what is worth two threads.
        share_out(job, 2 * job.size // max(thresholds.threads, 1))
    if job.size < thresholds.gil:
        raised = run_kernels(job)
    else:
        with nogil:
            raised = run_timed(job)
    return raised == 0 or is_ignored(raised)


cdef bint is_ignored(int raised) except -1:
    handling = np.geterr()
    return not (
        (raised & FP_OVERFLOW and handling["over"] != "ignore")
        or (raised & FP_UNDERFLOW and handling["under"] != "ignore")
        or (raised & FP_INVALID and handling["invalid"] != "ignore")
    )


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
            abs(job.strides[axes[position - 1]][leader]) < abs(job.strides[axis][leader])
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
    for slot in range(job.operands, MAX_OPERANDS):
        sorted.strides[sorted.ndim - 1][slot] = job.item
    job[0] = sorted
    job.blocked = is_across(job)
    if job.inputs == 2 and job.strides[job.ndim - 1][0] == 0:
        exchange_inputs(job)


cdef inline bint is_across(const Job *job) noexcept:
    """Whether an input runs faster along the axis before the last than along the last."""
    cdef int slot
    cdef Py_ssize_t before
    if job.ndim < 2 or job.chunks:
        return False
    for slot in range(job.inputs):
        before = abs(job.strides[job.ndim - 2][slot])
        if before and before < abs(job.strides[job.ndim - 1][slot]):
            return True
    return False


cdef inline bint runs_on(const Job *outer, const Job *job, int axis) noexcept:
    """Whether one step along the last axis of ``outer`` is a whole length of the given axis."""
    cdef int slot
    for slot in range(job.operands):
        if outer.strides[outer.ndim - 1][slot] != job.strides[axis][slot] * job.shape[axis]:
            return False
    return True


cdef void exchange_inputs(Job *job) noexcept:
    """Exchange two inputs, whose order is of no consequence: the kernels like to repeat the second."""
    cdef int axis
    job.data[0], job.data[1] = job.data[1], job.data[0]
    for axis in range(job.ndim):
        job.strides[axis][0], job.strides[axis][1] = job.strides[axis][1], job.strides[axis][0]


# ---- operations ----

cdef inline object binary(Operation operation, object x, object y, object out):
    """The result of a binary operation, or None where it is not served."""
    cdef Call call
    if PyArray_CheckExact(x):
        call.dtype = array_dtype(<Array *> x)
    elif PyArray_CheckExact(y):
        call.dtype = array_dtype(<Array *> y)
    else:
        return None
    call.inputs = 2
    if (
        call.dtype == UNSERVED
        or not describe(x, call.dtype, &call.input[0])
        or not describe(y, call.dtype, &call.input[1])
        or not begin(&call, operation, 3)
    ):
        return None
    if call.order and call.input[0].ndim == 0:
        exchange_inputs(&call.job)
    result = attach(&call, 2, ALL_INPUTS, out)
    return result if result is not None and run(&call) else None


cdef inline object binary_backward(
    Operation operation, object dout, object x, object y, object out
):
    """The pair of gradients in one pass over ``dout``, or None where it is not served."""
    cdef Call call
    cdef int inputs = 3 if operation == MULTIPLY_BACKWARD else 2
    if not PyArray_CheckExact(dout):
        return None
    call.dtype = array_dtype(<Array *> dout)
    call.inputs = inputs
    if (
        call.dtype == UNSERVED
        or not describe(dout, call.dtype, &call.input[0])
        or not describe(x, call.dtype, &call.input[1])
        or (inputs == 3 and not describe(y, call.dtype, &call.input[2]))
        or not begin(&call, operation, inputs + 2)
        or not has_shape(&call.input[0], &call)
    ):
        return None
    if out is None:
        dx_out = dy_out = None
    elif type(out) is tuple and len(out) == 2:
        dx_out, dy_out = out
    else:
        return None
    dx = attach(&call, inputs, DOUT | 1 << inputs - 1, dx_out)
    if dx is None:
        return None
    dy = attach(&call, inputs + 1, DOUT | 1 << 1, dy_out)
    if dy is None or not run(&call):
        return None
    return dx, dy


# Jobs whose results are summed are cut into chunks by their size alone, so that the order of the
# additions does not depend on the number of threads. A chunk of 32k elements takes some 10 us.
cdef enum:
    CHUNK = 1 << 15
    MAX_CHUNKS = 64


cdef object summed_backward(Operation operation, object dout, object x, object y):
    """The pair of gradients, each summed to its operand's shape, or None where it is not served."""
    cdef Call call
    cdef Job *job = &call.job
    cdef int inputs = 3 if operation == MULTIPLY_BACKWARD else 2
    cdef int result, slot
    cdef size_t size
    cdef Operand operands[2]
    cdef char *workspace
    if not PyArray_CheckExact(dout):
        return None
    call.dtype = array_dtype(<Array *> dout)
    if call.dtype != FLOAT64 and call.dtype != FLOAT32:
        return None
    if not describe(x, call.dtype, &operands[0]) or not describe(y, call.dtype, &operands[1]):
        return None
    call.order = 0
    call.inputs = inputs
    describe(dout, call.dtype, &call.input[0])
    if operation == MULTIPLY_BACKWARD:
        call.input[1], call.input[2] = operands[0], operands[1]
        for slot in range(2):
            if operands[slot].ndim == 0:  # a number lies in the struct that was copied
                describe((x, y)[slot], call.dtype, &call.input[slot + 1])
    else:
        describe(1, call.dtype, &call.input[1])
    job.operation = operation
    job.dtype = call.dtype
    job.inputs = inputs
    job.operands = inputs + 2
    job.item = item_size[call.dtype]
    if not broadcast(&call) or not has_shape(&call.input[0], &call):
        return None
    job.chunks = max(1, min(job.size // CHUNK, <Py_ssize_t> MAX_CHUNKS))
    results = []
    for result in range(2):
        if not fits(&operands[result], &call):
            return None
        job.sums[result].wanted = not has_shape(&operands[result], &call)
        if job.sums[result].wanted:
            results.append(attach_sum(&call, result, &operands[result]))
        else:
            results.append(attach(
                &call, inputs + result, DOUT | 1 << (2 if result == 0 and inputs == 3 else 1), None))
    # Axis 0 after this is the one that is cut. Where a result keeps it, each chunk has sums of its
    # own there; where it is summed over, each needs a set of all.
    arrange(job, 0)
    job.chunks = min(<Py_ssize_t> job.chunks, job.shape[0])
    for result in range(2):
        if job.sums[result].wanted and job.strides[0][inputs + result] == 0:
            # No more than an eighth of what the operands take.
            job.chunks = max(1, min(<Py_ssize_t> job.chunks, job.size // (8 * job.sums[result].count)))
    size = 0
    for result in range(2):
        if job.sums[result].wanted:
            job.sums[result].errors = job.sums[result].count * sizeof(double)
            job.sums[result].next_chunk = 0
            if job.strides[0][inputs + result] == 0:
                job.sums[result].next_chunk = 2 * job.sums[result].errors
            size += 2 * job.sums[result].errors * (
                job.chunks if job.sums[result].next_chunk else 1)
    workspace = <char *> new_block(size)
    if workspace == NULL:
        raise MemoryError(f"no memory for {size} bytes of partial sums")
    memset(workspace, 0, size)
    size = 0
    for result in range(2):
        if job.sums[result].wanted:
            job.data[inputs + result] = workspace + size
            size += 2 * job.sums[result].errors * (
                job.chunks if job.sums[result].next_chunk else 1)
    job.streaming = False
    job.threads = 1
    if job.size >= thresholds.threads:
        share_out(job, job.chunks)
    cdef int raised
    with nogil:
        raised = run_timed(job)
    free_block(workspace)
    # The exact sums of overflowing products raise more than plain sums do: NumPy is to say what.
    if raised:
        return None
    for result in range(2):
        if operands[result].ndim == 0:
            # A Python number for a Python number, a NumPy scalar for what else has no axes.
            array = results[result]
            results[result] = array.item() if is_number((x, y)[result]) else array[()]
    return tuple(results)


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


cdef object attach_sum(Call *call, int result, const Operand *operand):
    """A new array of the operand's shape, for the gradient summed to it."""
    cdef Job *job = &call.job
    cdef int slot = call.inputs + result
    cdef int axis
    cdef int lead = call.ndim - operand.ndim
    cdef Py_ssize_t count = 1
    cdef Call target
    for axis in range(call.ndim - 1, -1, -1):
        if axis < lead or operand.shape[axis - lead] == 1:
            job.strides[axis][slot] = 0
        else:
            job.strides[axis][slot] = count * sizeof(double)
            count *= operand.shape[axis - lead]
    target.dtype = call.dtype
    target.ndim = operand.ndim
    target.shape = operand.shape
    target.job.size = count
    array = allocate(&target, NPY_ARRAY_C_CONTIGUOUS, NULL)
    job.sums[result].count = count
    job.sums[result].result = <char *> PyArray_DATA(<Array *> array)
    return array


cdef inline bint has_shape(const Operand *operand, const Call *call) noexcept:
    """Whether an operand has the shape of the call, so that nothing of it is repeated."""
    cdef int axis
    if operand.ndim != call.ndim:
        return False
    for axis in range(call.ndim):
        if operand.shape[axis] != call.shape[axis]:
            return False
    return True


# ---- what the kernels do not serve ----

cdef object fall_back(function, tuple operands, tuple options):
    """Call the plain expression; its results are recycled too."""
    if not is_large(operands) or not is_recycling():
        return function(*operands, *options)
    previous = memory.set_handler(memory.recycling_handler())
    try:
        return function(*operands, *options)
    finally:
        memory.set_handler(previous)


cdef bint is_large(tuple operands) except -1:
    """Whether a result may be large enough to be recycled, by the operands that are arrays."""
    cdef Py_ssize_t largest = 0
    cdef Py_ssize_t product = 1
    cdef Py_ssize_t item = 1
    cdef bint alike = True
    shape = None
    for operand in operands:
        if not isinstance(operand, np.ndarray) or operand.size <= 1:
            continue
        alike = alike and (shape is None or shape == operand.shape)
        shape = operand.shape
        item = max(item, operand.itemsize)
        largest = max(largest, operand.size)
        product = min(product, PY_SSIZE_T_MAX // operand.size) * operand.size
    return (largest if alike else product) >= thresholds.recycling // item


# ---- the functions ----

def multiply(x, y, out=None):
    result = binary(MULTIPLY, x, y, out)
    if result is not None:
        return result
    if out is None and is_number(x) and is_number(y):
        return x * y
    return fall_back(reference.multiply, (x, y), (out,))


def add(x, y, out=None):
    result = binary(ADD, x, y, out)
    if result is not None:
        return result
    if out is None and is_number(x) and is_number(y):
        return x + y
    return fall_back(reference.add, (x, y), (out,))


def multiply_backward(dout, x, y, out=None, sum_to_shape=False):
    result = None
    if not sum_to_shape:
        result = binary_backward(MULTIPLY_BACKWARD, dout, x, y, out)
    elif out is None:
        result = summed_backward(MULTIPLY_BACKWARD, dout, x, y)
    if result is not None:
        return result
    if out is None and not sum_to_shape:
        return product(dout, y), product(dout, x)
    return fall_back(reference.multiply_backward, (dout, x, y), (out, sum_to_shape))


def add_backward(dout, x=None, y=None, out=None, sum_to_shape=False):
    result = None
    if not sum_to_shape:
        result = binary_backward(ADD_BACKWARD, dout, 1, None, out)
    elif out is None:
        result = summed_backward(ADD_BACKWARD, dout, x, y)
    if result is not None:
        return result
    if out is None and not sum_to_shape and is_number(dout):
        return dout * 1, dout * 1
    return fall_back(reference.add_backward, (dout, x, y), (out, sum_to_shape))


cdef inline bint is_number(object value) noexcept:
    return PyFloat_CheckExact(value) or PyLong_CheckExact(value)


cdef inline object product(object x, object y):
    """``x * y``, from the kernels if they serve it."""
    if is_number(x) and is_number(y):
        return x * y
    result = binary(MULTIPLY, x, y, None)
    return fall_back(reference.multiply, (x, y), ()) if result is None else result


# One text for both implementations.
for function in (multiply, add, multiply_backward, add_backward):
    function.__doc__ = getattr(reference, function.__name__).__doc__
