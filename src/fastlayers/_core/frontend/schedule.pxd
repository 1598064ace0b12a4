"""When a job bypasses the caches, how many threads it uses, and which engine runs it."""

from ..program.program cimport MAX_SUBTREES, STACK_BYTES, Engine, Job

# The sizes from which each of these is done. Tests lower them with `set_thresholds`, so that small
# arrays take the paths of large ones.
cdef struct Thresholds:
    Py_ssize_t gil              # work, as elements of a layer's result
    Py_ssize_t threads          # work, as bytes of a layer's result
    Py_ssize_t streaming        # bytes, of a step
    Py_ssize_t recycling        # bytes, of a result
    double late                 # seconds, of a threaded call beyond what its memory needs

# Any thread may write these at any time while others run calls: use only shared.h to access them.
cdef Thresholds thresholds
cdef void *engine

cdef extern from "shared.h" nogil:
    Py_ssize_t load_size(Py_ssize_t *variable)
    void *load_pointer(void **variable)

# The number of arrays in a step, all of one size: x, y, dout, and the out, dx, dy of two steps: a
# loop keeps the last ones until it has new ones.
cdef enum:
    STEP_ARRAYS = 9


cdef inline Py_ssize_t recycled_bytes() noexcept nogil:
    """The size in bytes from which results own recycled memory."""
    return load_size(&thresholds.recycling)


cdef inline bint is_streamed(Py_ssize_t traffic) noexcept nogil:
    """Whether so many bytes of results, or as much traffic, are streamed."""
    return traffic * STEP_ARRAYS >= load_size(&thresholds.streaming)


cdef inline bint is_job_streamed(const Job *job) noexcept nogil:
    """Whether its results are. Sums are not, nor what lies in place, which has just been read: an
    update of two of three float32 arrays of 1M elements takes 756 us streamed, 292 us stored, of 4M
    3.9 and 3.1 ms (AMD EPYC of the Milan family, 2 cores).
    """
    return (
        job.chunks == 0 and job.in_place == 0 and job.columns == 0
        and is_streamed(traffic_of(job)))


# A pass of several steps does more for a byte of a result than a layer does. A graph's value and
# gradients, 12 arrays in all, take 1,575 us stored and 1,122 us streamed on 262k float64 elements,
# 654 and 451 us on 163k, 380 and 329 us on 131k; and where no results are kept, 1,630 / 1,020,
# 414 / 468, 183 / 345 (AMD EPYC of the Milan family, 2 cores, 32 MiB of L3).
cdef enum:
    PASS_ARRAYS = 4         # as many of a pass's arrays count as a layer's result


cdef inline Py_ssize_t traffic_of(const Job *job) noexcept nogil:
    """How much memory a job reads and writes, as bytes of a layer's result."""
    cdef Py_ssize_t size = job.size * job.item_bytes
    if job.program.direct:
        return size
    return max(size, size // PASS_ARRAYS * job.operands)


# What the steps of a pass do in the caches, against that. One thread against two, us: 24 steps on
# float64, 1.2k elements 2.3 / 2.7, 1.8k 3.4 / 3.2, 4k 7.0 / 5.2; 60 on float32, 1.2k 2.8 / 3.1,
# 2.4k 5.1 / 4.2 (Xeon of the Sapphire Rapids family, 2 cores).
cdef enum:
    PASS_WEIGHT = 24        # as much of a pass's weight counts as a layer's result


cdef inline Py_ssize_t work_of(const Job *job) noexcept nogil:
    """How much work a job is, as bytes of a layer's result."""
    cdef Py_ssize_t traffic = traffic_of(job)
    if job.program.direct:
        return traffic
    return max(traffic, job.size * job.item_bytes // PASS_WEIGHT * job.program.weight)


# As chunks of sums are: subtrees that threads can share out.
cdef inline int count_subtrees(const Job *job) noexcept nogil:
    cdef int count = 1
    while 2 * count <= MAX_SUBTREES and job.size // (2 * count) >= LEAST_SUBTREE:
        count *= 2
    return count


cdef enum:
    LEAST_SUBTREE = 1 << 15     # elements


cdef inline int run(Job *job) except -1:
    """Run a job that is laid out; return the floating-point exceptions that it raised."""
    job.engine = <const Engine *> load_pointer(&engine)
    job.loop = NULL
    if job.program.direct:
        job.loop = job.engine.loops[job.program.steps[0].operation][job.dtype]
    job.streaming = is_job_streamed(job)
    cdef Py_ssize_t work = work_of(job)
    if job.program.totals:
        job.subtree = 0
        job.subtrees = count_subtrees(job)
    cdef bint small = (
        work < load_size(&thresholds.threads)
        and work < load_size(&thresholds.gil) * job.item_bytes)
    # A direct program's tiles are few: of its operands, at most.
    if small and (job.program.direct or job.engine.workspace_bytes(job) <= STACK_BYTES):
        job.threads = job.team = 1
        return job.engine.run(job)
    return run_large(job, work)


cdef int run_large(Job *job, Py_ssize_t work) except -1
