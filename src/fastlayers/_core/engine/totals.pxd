"""Sums of all elements of a pass, in the order in which NumPy adds the elements of an array.

NumPy halves an array, at a multiple of eight, until at most 128 elements are left, and adds the
sums of the halves (pairwise summation; numpy/_core/src/umath/loops_utils.h.src). How it is cut
depends on the length alone: so threads add up subtrees, and tiles those that lie in them.
"""

from libc.string cimport memcpy

from ..program.program cimport Job, Loop

cdef enum:
    LEAF = 128          # elements
    DEPTH = 64          # of any tree

# A subtree whose left half is added up, or is about to be.
cdef struct Half:
    Py_ssize_t right    # the length of the other half, 0 once that is at hand
    double left         # the sum of the left one

cdef struct Total:
    Loop loop                   # NumPy's, which adds up what is given to it in this order
    void *its_own
    Py_ssize_t length           # of the subtree that comes next
    int depth
    Half halves[DEPTH]
    Py_ssize_t held             # elements of a leaf that lies in several tiles
    char leaf[LEAF * 8]         # of the widest dtype
    double sum                  # at the end; a float32 is one exactly


cdef inline void begin_total(
    Total *total, Loop loop, void *its_own, Py_ssize_t length
) noexcept nogil:
    total.loop = loop
    total.its_own = its_own
    total.length = length
    total.depth = 0
    total.held = 0
    total.sum = 0


cdef inline Py_ssize_t left_half(Py_ssize_t length) noexcept nogil:
    return length // 2 - length // 2 % 8


cdef inline double added(const Job *job, double x, double y) noexcept nogil:
    """The sum of two numbers of the job's dtype, in that dtype."""
    return <float> x + <float> y if job.item_bytes == sizeof(float) else x + y


cdef inline void add_to_total(
    const Job *job, Total *total, char *values, Py_ssize_t n
) noexcept nogil:
    """Add the next n elements."""
    cdef Py_ssize_t item = job.item_bytes
    cdef Py_ssize_t count
    while n:
        if total.held == 0 and total.length <= n:
            count = total.length
            end_subtree(job, total, values, count)
        elif total.length > LEAF:
            total.halves[total.depth].right = total.length - left_half(total.length)
            total.length = left_half(total.length)
            total.depth += 1
            continue
        else:
            count = min(n, total.length - total.held)
            memcpy(&total.leaf[total.held * item], values, count * item)
            total.held += count
            if total.held == total.length:
                total.held = 0
                end_subtree(job, total, total.leaf, total.length)
        values += count * item
        n -= count


cdef inline void end_subtree(
    const Job *job, Total *total, char *values, Py_ssize_t n
) noexcept nogil:
    """Add up a subtree, and all that end with it; note the length of the next one."""
    cdef double double_sum = 0
    cdef float float_sum = 0
    cdef bint is_float = job.item_bytes == sizeof(float)
    cdef char *data[3]
    cdef Py_ssize_t strides[3]
    data[0] = data[2] = <char *> &float_sum if is_float else <char *> &double_sum
    data[1] = values
    strides[0] = strides[2] = 0
    strides[1] = job.item_bytes
    total.loop(data, &n, strides, total.its_own)
    if is_float:
        double_sum = float_sum
    while total.depth:
        if total.halves[total.depth - 1].right:
            total.halves[total.depth - 1].left = double_sum
            total.length = total.halves[total.depth - 1].right
            total.halves[total.depth - 1].right = 0
            return
        total.depth -= 1
        double_sum = added(job, total.halves[total.depth].left, double_sum)
    total.sum = double_sum


cdef inline void find_subtree(
    const Job *job, int number, Py_ssize_t *start, Py_ssize_t *length
) noexcept nogil:
    """Where a thread's subtree lies among the elements."""
    cdef int level = job.subtrees // 2
    start[0] = 0
    length[0] = job.size
    while level:
        if number & level:
            start[0] += left_half(length[0])
            length[0] -= left_half(length[0])
        else:
            length[0] = left_half(length[0])
        level //= 2


cdef inline void end_totals(const Job *job) noexcept nogil:
    """Add up the sums of the subtrees; the first one of each total is then that of all."""
    cdef int number, each, pair
    cdef double *sums
    for number in range(job.program.totals):
        sums = job.totals[number]
        each = job.subtrees
        while each > 1:
            each //= 2
            for pair in range(each):
                sums[pair] = added(job, sums[2 * pair], sums[2 * pair + 1])
