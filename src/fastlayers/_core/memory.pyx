# The recycler: large arrays own blocks that outlive them.
#
# The operating system hands over fresh memory page by page, zeroed, at the first touch. A layer
# step on 30k to 1M elements spends 70 to 95 % of its time there if every result is a new
# allocation. When an array dies, its block comes back here and goes to the next array of its size,
# still mapped and still warm.
#
# NumPy has an interface for this, NEP 49: an array carries a handler and gives its memory back to
# it. An array that owns a recycled block is like any other: it may be resized, outlive a cleared
# cache, or be freed by any thread.
#
# All mutable state is below, in `cache`. The mutex of os.h guards it, never the GIL: NumPy may free
# an array's memory, and free-threaded Python may run anything here, at any time and on any thread.
# Never create or free a Python object while holding the mutex: that can run the garbage collector,
# which calls back into this module. A block outside the cache belongs to one array; only the code
# that makes or frees the array touches it. The import writes `handler` and what it points to once,
# under its lock.

cimport numpy as cnp
from cpython.object cimport PyObject
from cpython.pycapsule cimport PyCapsule_New
from cpython.ref cimport Py_INCREF, Py_XDECREF
from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcpy, memset, strcpy

cdef extern from "os.h" nogil:
    void os_lock()
    void os_unlock()
    void os_at_fork(void (*before)() noexcept nogil, void (*after)() noexcept nogil)
    void *os_aligned_alloc(size_t alignment, size_t size)
    void os_aligned_free(void *block)
    void *os_map(size_t size)
    void os_unmap(void *block, size_t size)
    void os_discard(void *memory, size_t size)

cdef extern from "sanitizer.h" nogil:
    void sanitizer_allow(void *memory, size_t size)
    void sanitizer_forbid(void *memory, size_t size)

cdef extern from "background.h" nogil:
    void background_prepare()
    void background_lock()
    void background_unlock()
    bint background_start(double (*work)() noexcept nogil, double pause)
    void background_suspend()
    void background_resume()

cdef extern from "numpy/arrayobject.h":
    ctypedef struct ArrayFields "PyArrayObject_fields":
        PyObject *mem_handler
    PyObject *PyDataMem_DefaultHandler
    PyObject *PyDataMem_GetHandler() except NULL
    object PyDataMem_SetHandler(object)
    void PyArray_ENABLEFLAGS(cnp.ndarray, int)
    void *PyArray_DATA(cnp.ndarray)

cdef extern from "Python.h":
    int PyTraceMalloc_Track(unsigned int domain, size_t pointer, size_t size)

import numpy as np

cnp.import_array()


# ---- blocks ----

# The header before an array's memory; in the cache it is at the start of the block.
cdef struct Block:
    Block *next                 # in the cache
    size_t capacity             # bytes for the array
    size_t shift                # bytes of the block before the header
    int bin
    int mapped

cdef extern from *:
    """
    enum { LARGEST_POWER = sizeof(size_t) > 4 ? 46 : 30 };  /* of a capacity, with room to double */
    """
    enum:
        LARGEST_POWER

cdef enum:
    ALIGNMENT = 64              # a cache line, and the widest vector
    HEADER = 64                 # a multiple of that

    # Blocks from this size on come from the operating system: malloc would keep them when they are
    # freed, and could not advise huge pages.
    MAPPED_BYTES = 1 << 20
    MOST_ADDED = 1 << 22        # more than is added to a capacity: os.h maps a huge page more

    # Eight capacities per doubling, so that at most an eighth is unused (and never touched).
    STEPS = 8
    SMALLEST_POWER = 11
    BINS = (LARGEST_POWER - SMALLEST_POWER) * STEPS + 1


cdef inline int bin_of(size_t size) noexcept nogil:
    """The bin of the smallest capacity that holds ``size`` bytes; BINS if none does."""
    cdef int power = SMALLEST_POWER
    if size <= <size_t> 1 << SMALLEST_POWER:
        return 0
    if size > <size_t> 1 << LARGEST_POWER:
        return BINS
    while size > <size_t> 2 << power:
        power += 1
    # 2**power < size <= 2**(power + 1)
    return ((power - SMALLEST_POWER) * STEPS
            + <int> ((size - (<size_t> 1 << power) - 1) >> (power - 3)) + 1)


cdef inline size_t capacity_of(int bin) noexcept nogil:
    cdef int power = SMALLEST_POWER + bin // STEPS
    return (<size_t> 1 << power) + (<size_t> (bin % STEPS) << (power - 3))


cdef inline size_t with_room(size_t capacity) noexcept nogil:
    """The size of a block in bytes: the array, the header, and room to shift both."""
    return capacity + HEADER + (PAGE if capacity >= SHIFTED_BYTES else 0)


cdef inline Block *header_of(void *memory) noexcept nogil:
    return <Block *> (<char *> memory - HEADER)


cdef inline void *place(Block *block, size_t phase) noexcept nogil:
    """A block's memory, ``phase`` bytes after the start of a page if there is room."""
    cdef Block *header = block
    cdef size_t shift = 0
    if block.capacity >= SHIFTED_BYTES:
        shift = (phase - <size_t> block - HEADER) & (PAGE - ALIGNMENT)
        header = <Block *> (<char *> block + shift)
        header[0] = block[0]
    header.shift = shift
    return <char *> header + HEADER


cdef inline void fit(void *memory, size_t size) noexcept nogil:
    """Tell the sanitizer where an array now ends; it may have been longer or shorter."""
    cdef Block *header = header_of(memory)
    cdef size_t most = with_room(header.capacity) - header.shift - HEADER
    sanitizer_allow(memory, size)
    sanitizer_forbid(<char *> memory + size, most - size)


cdef inline Block *displace(void *memory) noexcept nogil:
    """The block that memory belongs to, with the header back at its start."""
    cdef Block *header = header_of(memory)
    cdef Block *block = <Block *> (<char *> header - header.shift)
    if block != header:
        block[0] = header[0]
    return block


cdef Block *obtain(size_t size, int bin) noexcept nogil:
    """A block from the operating system, or NULL."""
    cdef size_t capacity = capacity_of(bin) if bin < BINS else size
    cdef int mapped = capacity >= MAPPED_BYTES
    cdef Block *block = NULL
    if capacity <= <size_t> -1 - MOST_ADDED:
        if mapped:
            block = <Block *> os_map(with_room(capacity))
        else:
            block = <Block *> os_aligned_alloc(ALIGNMENT, with_room(capacity))
    if block != NULL:
        block.next = NULL
        block.capacity = capacity
        block.bin = bin
        block.mapped = mapped
    return block


cdef void release(Block *block, bint idle=False) noexcept nogil:
    """Free a list of blocks; if they were idle, return their pages to the operating system."""
    cdef Block *next
    while block != NULL:
        next = block.next
        sanitizer_allow(block, with_room(block.capacity))
        if block.mapped:
            os_unmap(block, with_room(block.capacity))
        else:
            if idle:
                os_discard(block, with_room(block.capacity))
            os_aligned_free(block)
        block = next


# ---- the cache ----

cdef enum:
    # How many blocks are taken out at a time: the mutex is never held for long.
    PORTION = 64

cdef struct Bin:
    Block *first
    Py_ssize_t count
    Py_ssize_t idle             # lowest count since the last sweep: that many were not needed
    uint64_t last_used          # counted in calls

cdef struct Cache:
    Bin bins[BINS]
    size_t limit
    size_t bytes
    Py_ssize_t blocks
    uint64_t hits
    uint64_t misses
    uint64_t calls
    double idle_seconds         # blocks that were not needed for this long are freed
    bint has_sweeper
    uint64_t next_start         # when to start a sweeper, counted in calls

cdef Cache cache
memset(&cache, 0, sizeof(cache))
cache.idle_seconds = 10.0


cdef inline Block *pop(int bin) noexcept nogil:
    cdef Block *block = cache.bins[bin].first
    cache.bins[bin].first = block.next
    cache.bins[bin].count -= 1
    cache.bins[bin].idle = min(cache.bins[bin].idle, cache.bins[bin].count)
    cache.bytes -= block.capacity
    cache.blocks -= 1
    block.next = NULL
    return block


cdef Block *take(int bin, size_t count) noexcept nogil:
    """Take up to ``count`` blocks out of a bin, at most a portion."""
    cdef Block *taken = NULL
    cdef Block *block
    count = min(count, <size_t> PORTION)
    while count and cache.bins[bin].first != NULL:
        block = pop(bin)
        block.next = taken
        taken = block
        count -= 1
    return taken


cdef Block *take_excess(size_t bytes) noexcept nogil:
    """Take a portion of what exceeds ``bytes``, from the least recently used bin."""
    cdef int bin
    cdef int oldest = -1
    cdef size_t capacity
    if cache.bytes <= bytes:
        return NULL
    for bin in range(BINS):
        if cache.bins[bin].count and (
            oldest < 0 or cache.bins[bin].last_used < cache.bins[oldest].last_used
        ):
            oldest = bin
    capacity = cache.bins[oldest].first.capacity
    return take(oldest, (cache.bytes - bytes - 1) // capacity + 1)


cdef void give_back_excess(size_t bytes) noexcept nogil:
    """Free blocks until at most ``bytes`` are left, least recently used bins first."""
    cdef Block *taken
    while True:
        os_lock()
        taken = take_excess(bytes)
        os_unlock()
        if taken == NULL:
            return
        release(taken)


cdef void give_back_all() noexcept nogil:
    cdef Block *taken[BINS]
    cdef int bin
    os_lock()
    for bin in range(BINS):
        taken[bin] = cache.bins[bin].first
        cache.bins[bin].first = NULL
        cache.bins[bin].count = cache.bins[bin].idle = 0
    cache.bytes = cache.blocks = 0
    os_unlock()
    for bin in range(BINS):
        release(taken[bin], idle=True)


cdef inline void *provide(size_t size, size_t phase, bint zeroed) noexcept nogil:
    """Memory for an array, or NULL; if it is large, it begins ``phase`` bytes into a page."""
    cdef int bin = bin_of(size)
    cdef bint used = False
    cdef Block *block = NULL
    cdef void *memory
    os_lock()
    if bin < BINS:
        cache.bins[bin].last_used = cache.calls
        if cache.bins[bin].first != NULL:
            block = pop(bin)
    if block != NULL:
        used = True
        cache.hits += 1
    else:
        cache.misses += 1
    if phase == ANYWHERE:
        # Of three in a row, no two start within 800 bytes of each other.
        phase = (cache.hits + cache.misses) * 1600
    os_unlock()
    if block == NULL:
        block = obtain(size, bin)
    if block == NULL:
        # The cache may hold the memory in other sizes.
        give_back_all()
        block = obtain(size, bin)
    if block == NULL:
        return NULL
    sanitizer_allow(block, with_room(block.capacity))
    memory = place(block, phase)
    if zeroed and (used or not header_of(memory).mapped):
        memset(memory, 0, size)  # newly mapped memory is zero already
    fit(memory, size)
    return memory


cdef void *new_block(size_t size, size_t phase) noexcept nogil:
    return provide(size, phase, zeroed=False)


cdef void free_block(void *memory) noexcept nogil:
    cdef Block *block = displace(memory)
    cdef Block *excess
    cdef Bin *bin
    cdef bint wants_sweeper = False
    sanitizer_forbid(<char *> block + HEADER, with_room(block.capacity) - HEADER)
    os_lock()
    cache.calls += 1
    if block.bin < BINS:
        bin = &cache.bins[block.bin]
        bin.last_used = cache.calls
        while block.capacity <= cache.limit < cache.bytes + block.capacity:
            excess = take_excess(cache.limit - block.capacity)
            os_unlock()
            release(excess)
            os_lock()
        if block.capacity <= cache.limit:
            block.next = bin.first
            bin.first = block
            bin.count += 1
            cache.bytes += block.capacity
            cache.blocks += 1
            block = NULL
            wants_sweeper = not cache.has_sweeper and cache.calls >= cache.next_start
    os_unlock()
    release(block)
    if wants_sweeper:
        start_sweeper()


# ---- the sweeper ----

# A thread frees what has not been needed for long, so that a program that has moved on, sleeps or
# waits does not hold memory for ever. The thread exists as long as there are blocks in the cache.

cdef enum:
    # If no thread can be started, all blocks are freed; it is tried again after this many calls.
    CALLS_BETWEEN_STARTS = 256


cdef void sweep() noexcept nogil:
    """Free what has not been needed since the last sweep."""
    cdef Block *taken
    cdef int bin
    cdef Py_ssize_t idle
    for bin in range(BINS):
        os_lock()
        idle = cache.bins[bin].idle
        cache.bins[bin].idle = cache.bins[bin].count - idle  # the count after this sweep
        os_unlock()
        while idle > 0:
            os_lock()
            taken = take(bin, idle)
            os_unlock()
            release(taken, idle=True)
            idle -= PORTION


cdef double work_of_sweeper() noexcept nogil:
    cdef double pause = -1.0
    sweep()
    os_lock()
    cache.has_sweeper = cache.blocks > 0
    if cache.has_sweeper:
        pause = cache.idle_seconds
    os_unlock()
    return pause


cdef void start_sweeper() noexcept nogil:
    cdef double pause
    cdef bint is_first, started = True
    background_lock()
    os_lock()
    is_first = not cache.has_sweeper
    cache.has_sweeper = True
    pause = cache.idle_seconds
    os_unlock()
    if is_first:
        started = background_start(work_of_sweeper, pause)
    if not started:
        os_lock()
        cache.has_sweeper = False
        cache.next_start = cache.calls + CALLS_BETWEEN_STARTS
        os_unlock()
    background_unlock()
    if not started:
        give_back_all()


cdef void before_fork() noexcept nogil:
    """Stop the sweeper, which would not exist in the child, and free all that it watches over.

    This may be the parent's last call here, so nothing may be left for later. And in the child,
    writing into a shared page costs more than getting a new one.
    """
    background_suspend()
    os_lock()
    cache.has_sweeper = False
    os_unlock()
    give_back_all()
    os_lock()  # until after the fork: the child would wait for ever for another holder


cdef void after_fork() noexcept nogil:
    os_unlock()
    background_resume()


background_prepare()
os_at_fork(before_fork, after_fork)


# ---- NumPy's side ----

cdef void *handler_malloc(void *context, size_t size) noexcept nogil:
    return new_block(size, ANYWHERE)


cdef void *handler_calloc(void *context, size_t count, size_t item) noexcept nogil:
    if item and count > <size_t> -1 // item:
        return NULL
    return provide(count * item, ANYWHERE, zeroed=True)


cdef void handler_free(void *context, void *memory, size_t size) noexcept nogil:
    # The size does not help: an array with a changed shape or dtype reports another one.
    if memory != NULL:
        free_block(memory)


cdef void *handler_realloc(void *context, void *memory, size_t size) noexcept nogil:
    cdef void *moved
    cdef size_t capacity
    if memory == NULL:
        return new_block(size, ANYWHERE)
    capacity = header_of(memory).capacity
    if bin_of(size) == header_of(memory).bin and size <= capacity:
        fit(memory, size)
        return memory
    moved = new_block(size, ANYWHERE)
    if moved != NULL:
        fit(memory, capacity)  # the array's part of it is unknown
        memcpy(moved, memory, min(size, capacity))
        free_block(memory)
    return moved


cdef extern from "numpy/arrayobject.h":
    ctypedef struct Allocator "PyDataMemAllocator":
        void *ctx
        void *(*malloc)(void *, size_t) noexcept nogil
        void *(*calloc)(void *, size_t, size_t) noexcept nogil
        void *(*realloc)(void *, void *, size_t) noexcept nogil
        void (*free)(void *, void *, size_t) noexcept nogil
    ctypedef struct Handler "PyDataMem_Handler":
        char name[127]
        uint8_t version
        Allocator allocator

cdef Handler handler_struct
memset(&handler_struct, 0, sizeof(handler_struct))
strcpy(handler_struct.name, b"fastlayers")
handler_struct.version = 1
handler_struct.allocator.malloc = handler_malloc
handler_struct.allocator.calloc = handler_calloc
handler_struct.allocator.realloc = handler_realloc
handler_struct.allocator.free = handler_free
handler = PyCapsule_New(&handler_struct, "mem_handler", NULL)


cdef bint is_recycling() except -1:
    """Whether NumPy's own handler or this one is in force: a user's handler is respected."""
    cdef PyObject *current = PyDataMem_GetHandler()
    Py_XDECREF(current)
    return current == PyDataMem_DefaultHandler or current == <PyObject *> handler


cdef void own_block(object array, size_t size) noexcept:
    """Make an array that was created around a new block the owner of the block.

    NumPy does the same when it allocates with a handler. Here it costs nothing; setting the handler
    and restoring it takes some 150 ns. The field is private to NumPy: see `can_own_blocks`.
    """
    Py_INCREF(handler)
    (<ArrayFields *> array).mem_handler = <PyObject *> handler
    PyArray_ENABLEFLAGS(<cnp.ndarray> array, cnp.NPY_ARRAY_OWNDATA)
    PyTraceMalloc_Track(TRACE_DOMAIN, <size_t> PyArray_DATA(<cnp.ndarray> array), size)


cdef enum:
    TRACE_DOMAIN = 389047       # numpy.lib.tracemalloc_domain


cdef bint find_out_whether_blocks_can_be_owned() except -1:
    """Try on two arrays whether this NumPy has the field of `own_block` in the expected place."""
    cdef cnp.npy_intp size = 2048
    cdef void *block
    try:
        from numpy._core.multiarray import get_handler_name as handler_name
    except ImportError:
        return False
    previous = set_handler(handler)
    try:
        array = np.empty(size, np.uint8)
    finally:
        set_handler(previous)
    if (
        handler_name(array) != "fastlayers"
        or np.ndarray.__basicsize__ < <Py_ssize_t> sizeof(ArrayFields)
        or (<ArrayFields *> array).mem_handler != <PyObject *> handler
    ):
        return False
    block = new_block(size, ANYWHERE)
    if block == NULL:
        raise MemoryError
    array = cnp.PyArray_SimpleNewFromData(1, &size, cnp.NPY_UINT8, block)
    own_block(array, size)
    if handler_name(array) != "fastlayers":
        return False
    array.resize(2 * size, refcheck=False)
    return array.flags.owndata and handler_name(array) == "fastlayers"


cpdef object set_handler(object new):
    """Make a handler NumPy's current one in this context; return the previous one."""
    cdef PyObject *current = PyDataMem_GetHandler()
    previous = <object> current
    Py_XDECREF(current)
    try:
        return PyDataMem_SetHandler(new)
    except MemoryError:
        # Restoring a handler must not fail: the other one would stay in force. NumPy has put the
        # new one in force, perhaps, and found no memory to say so.
        give_back_all()
        PyDataMem_SetHandler(new)
        return previous


def recycle():
    """Put the recycler in force for NumPy's results, unless somebody else's handler is.

    Return the previous handler, for `set_handler`; or None.
    """
    return set_handler(handler) if is_recycling() else None


cpdef object recycling_handler():
    """The recycler, for `set_handler`."""
    return handler


def set_owning(bint owning):
    """Set whether results are made around blocks; if not, NumPy makes them, with the handler."""
    global can_own_blocks
    can_own_blocks = owning


def get_owning():
    return can_own_blocks


set_owning(find_out_whether_blocks_can_be_owned())
cache.misses = cache.calls = 0  # the trial does not count


# ---- knobs ----

def cache_state():
    """Return (hits, misses, blocks, bytes, limit)."""
    os_lock()
    cdef uint64_t hits = cache.hits
    cdef uint64_t misses = cache.misses
    cdef Py_ssize_t blocks = cache.blocks
    cdef size_t bytes = cache.bytes
    cdef size_t limit = cache.limit
    os_unlock()  # before creating objects
    return hits, misses, blocks, bytes, limit


def set_limit(size_t limit):
    """Keep at most ``limit`` bytes; free the excess."""
    os_lock()
    cache.limit = limit
    os_unlock()
    give_back_excess(limit)


def set_idle_seconds(double seconds):
    """Set after how long unneeded blocks are freed. A pause under way ends first."""
    os_lock()
    cache.idle_seconds = seconds
    os_unlock()


def empty():
    """Free all blocks that no array owns."""
    give_back_all()
