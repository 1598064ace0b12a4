"""When a job bypasses the caches, how many threads it uses, and which engine runs it.

All mutable module state of the frontend lives in this file. No variable has to agree with another:
a call that reads one before a change and another after it was made during the change. Variables
that are not accessed through shared.h are written once, by the import, under its lock.
"""

from cpython.pycapsule cimport PyCapsule_GetPointer

from ..memory cimport ANYWHERE, free_block, new_block
from ..program.operations cimport find_dtypes
from ..program.program cimport MAX_SHARES, NUMPYS, SCIPYS, STACK_BYTES, Owner, capsule_name

import sys

cdef extern from "threads.h" nogil:
    const bint HAVE_OPENMP
    int openmp_threads()
    int thread_limit
    int is_forked_child
    void notice_fork()
    bint can_start_threads(int count)

cdef extern from "shared.h" nogil:
    void store_size(Py_ssize_t *variable, Py_ssize_t value)
    double load_double(double *variable)
    void store_double(double *variable, double value)
    void store_pointer(void **variable, void *value)

cdef extern from "clock.h" nogil:
    double clock_seconds()

cdef extern from "cpu.h":
    int c_cpu_level "cpu_level"()

cdef extern from "compiler.h":
    const char *COMPILER

cdef extern from "build_info.h":  # setup.py writes it
    const char *BUILD_INFO

engine = NULL

# A call on fewer elements takes some 5 us, too little for another thread to benefit. Releasing the
# GIL and taking it again costs 0.1 us if nobody waits.
thresholds.gil = 1 << 14

# Waking a second thread costs some 2 us. Steps on float64, one thread against two, us: 8k elements
# 5.6 / 5.6, 10k 6.5 / 6.0, 16k 11.7 / 8.2 (AMD EPYC of the Genoa family, 2 cores, 1 MiB L2 each);
# 10k 7.1 / 7.2, 16k 10.8 / 8.8, 30k 25 / 13 (Xeon of the Sapphire Rapids family, 2 cores, 2 MiB L2
# each).
thresholds.threads = 9 << 13

# Results that will not be in the last-level cache when they are next read. If that cache is larger
# than 32 MiB, many cores share it. Steps on float64, stored against streamed, us: 262k elements
# 330 / 329, 393k 508 / 352, 524k 721 / 477; and where no results are kept, 158 / 333, 236 / 345,
# 395 / 475 (AMD EPYC of the Milan family, 2 cores, 32 MiB of L3). On the machine above, whose
# 480 MiB serve all guests of a host, streaming makes steps on 786k 1.07 times as fast, on 1M 1.3
# times, on 2M 1.6 times, and on 524k no faster.
thresholds.streaming = 1 << 25

# The recycler's blocks cost no more than NumPy's, but are aligned and warm. Below 1 KiB NumPy has
# its own cache.
thresholds.recycling = 1 << 11

# Waking threads takes microseconds, a turn of the operating system's scheduler milliseconds.
thresholds.late = 1e-4


def get_thresholds():
    """Return the thresholds by name."""
    return {
        "gil": load_size(&thresholds.gil),
        "threads": load_size(&thresholds.threads),
        "streaming": load_size(&thresholds.streaming),
        "recycling": load_size(&thresholds.recycling),
        "late": load_double(&thresholds.late),
    }


def set_thresholds(**changed):
    """Change thresholds by name; all earlier calls count as in time."""
    new = get_thresholds() | changed
    store_size(&thresholds.gil, new["gil"])
    store_size(&thresholds.threads, new["threads"])
    store_size(&thresholds.streaming, new["streaming"])
    store_size(&thresholds.recycling, new["recycling"])
    store_double(&thresholds.late, new["late"])
    store_double(&one_thread_until, 0)
    store_double(&penalty, LEAST_PENALTY)


# 0 if nobody has asked for a number: then as many as OpenMP would use, up to the quota.
cdef Py_ssize_t threads_asked = 0
cdef Py_ssize_t threads_quota = 1
cdef int openmp_threads_at_import = openmp_threads()
notice_fork()


cdef inline int thread_count() noexcept nogil:
    """How many threads a large call uses."""
    cdef int openmp = openmp_threads()
    cdef int count = <int> load_size(&threads_asked)
    if is_forked_child or not HAVE_OPENMP:
        return 1
    if count == 0:
        count = min(openmp, <int> load_size(&threads_quota))
    elif openmp < openmp_threads_at_import:
        # It was lowered since, for example by threadpoolctl: that applies here, too.
        count = min(count, openmp)
    return min(count, thread_limit) if thread_limit else count


def get_thread_count():
    """Return how many threads a large call uses."""
    return thread_count()


def openmp_state():
    """Return whether there is OpenMP, its number of threads, and whether this is a forked child."""
    return bool(HAVE_OPENMP), openmp_threads(), bool(is_forked_child)


def limit_threads(int count):
    """Limit how many threads calls of this thread use, 0 to no number; return the limit before."""
    global thread_limit
    cdef int before = thread_limit
    thread_limit = count
    return before


def build_info():
    """Return the compiler's name and version, and what setup.py recorded of the build, as JSON."""
    return COMPILER.decode(), BUILD_INFO.decode()


def set_thread_count(int asked, int quota):
    """Set how many threads a large call uses; 0 means as many as OpenMP and the quota allow."""
    store_size(&threads_asked, asked)
    store_size(&threads_quota, quota)


def cpu_level():
    """The x86-64 microarchitecture level of this CPU, 1 to 4; 0 on other architectures."""
    return c_cpu_level()


def use_engine(capsule):
    """Make all further calls use the ``kernels`` of a kernel module."""
    cdef const Engine *new = <const Engine *> PyCapsule_GetPointer(capsule, capsule_name())
    find_dtypes(new)  # the same in all modules
    store_pointer(&engine, <void *> new)


# If other work keeps the cores busy, a thread may have to wait milliseconds for its turn, and the
# others wait for it: a call that takes 30 us alone then takes 4 ms. After a call that was so late,
# the next ones use one thread, for twice as long as the late call took. If lateness is the rule,
# that grows to 128 times as long, so that trying threads again costs little; a hundred calls in
# time halve it. It is one second at most: a process that was stopped for an hour has learnt nothing
# about its threads.
#
# All threads write these. If two write at once, one value is lost; the next late call restores it.
cdef enum:
    LEAST_PENALTY = 2
    MOST_PENALTY = 128

cdef double MOST_SECONDS = 1.0

# In bytes per second: a call is late if it takes longer than memory needs of which a second thread
# gets more than the first, or its loops if these need longer. A single-board computer's memory
# moves less, and one thread uses all of it. Beside a program that keeps one of two cores busy, a
# layer's call on 2M float32 elements, 1.0 ms on one thread, took 7 ms most of the time as long as
# 12 ms were not late (Xeon of the Sapphire Rapids family). Two threads that multiply 64-bit
# integers without vector instructions read and write about as much in the first cache as stated.
cdef double LEAST_BANDWIDTH = 6e9
cdef double LEAST_BANDWIDTH_OF_STEPS = 24e9

cdef double one_thread_until = 0
cdef double penalty = LEAST_PENALTY


cdef inline void share_out(Job *job, Py_ssize_t most) noexcept nogil:
    """Set how many threads share a job, at most ``most``."""
    job.team = thread_count()
    job.threads = <int> max(<Py_ssize_t> 1, min(<Py_ssize_t> job.team, most))
    if job.threads == 1:
        job.team = 1


cdef inline int run_timed(Job *job) noexcept nogil:
    """Run a job, on one thread while threads are late; note whether they were."""
    cdef int raised
    cdef double start = 0.0
    if job.threads > 1:
        start = clock_seconds()
        if start < load_double(&one_thread_until) or not can_start_threads(job.team):
            job.threads = job.team = 1
    raised = job.engine.run(job)
    if job.threads == 1:
        return raised
    remember(
        clock_seconds() - start,
        <double> job.size * job.item_bytes * max(
            job.operands / LEAST_BANDWIDTH, job.program.weight / LEAST_BANDWIDTH_OF_STEPS))
    return raised


cdef void remember(double taken, double most) noexcept nogil:
    """Note how long a threaded call took, for which any machine needs ``most`` seconds at most."""
    cdef double factor = load_double(&penalty)
    if taken > load_double(&thresholds.late) + most:
        store_double(&one_thread_until, clock_seconds() + min(factor * taken, MOST_SECONDS))
        store_double(&penalty, min(2 * factor, <double> MOST_PENALTY))
    else:
        store_double(&penalty, max(0.993 * factor, <double> LEAST_PENALTY))


def seem_to_have_taken(double seconds):
    """Behave as after a threaded call that took ``seconds``; for tests."""
    remember(seconds, 0)


cdef bint may_be_shared(Owner owner) except -1:
    """Whether several threads may run the loops of ufuncs."""
    if owner == SCIPYS:
        special = sys.modules.get("scipy.special")
        if special is None:
            return True
        # Newer ones raise where there is no memory; those that are known here take none.
        told = {kind for kind, mode in special.geterr().items() if mode != "ignore"}
        return told <= {"memory"}
    return owner == NUMPYS


cdef int run_large(Job *job, Py_ssize_t work) except -1:
    cdef Py_ssize_t threaded = load_size(&thresholds.threads)
    cdef Py_ssize_t bytes = job.engine.workspace_bytes(job)
    cdef int raised
    # Give each thread at least half the work that justifies two. Sums are shared out by chunks.
    if work < threaded or not may_be_shared(job.program.owner):
        job.threads = job.team = 1
    else:
        share_out(job, job.chunks or job.subtrees or 2 * work // max(threaded, 1))
        if job.in_place:
            job.threads = min(job.threads, <int> MAX_SHARES)
    if bytes > STACK_BYTES:
        job.workspace = <char *> new_block(job.team * bytes, ANYWHERE)
        job.workspace_bytes = bytes
        if job.workspace == NULL:
            raise MemoryError(f"no memory for {job.team * bytes} bytes of tiles")
    with nogil:
        raised = run_timed(job)
    if job.workspace != NULL:
        free_block(job.workspace)
    return raised
