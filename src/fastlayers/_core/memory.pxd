"""Recycled memory for large arrays."""

cdef bint is_recycling() except -1
cdef object handler
cpdef object set_handler(object new)
cpdef object recycling_handler()

# Whether `own_block` works with this NumPy. The import finds out.
cdef bint can_own_blocks

# Each large array gets its own starting point within a page: a load waits for a pending store if
# their addresses agree in the lowest twelve bits. A step on 262k float64 elements took 151 us if
# inputs and results began at the same place, 110 us if not; 10k elements, 80 kB, gained nothing
# (AMD EPYC of the Genoa family).
cdef enum:
    PAGE = 4096
    ANYWHERE = 4096         # if what the array is computed from is unknown
    SHIFTED_BYTES = 1 << 17

cdef void *new_block(size_t size, size_t phase) noexcept nogil
cdef void free_block(void *memory) noexcept nogil
cdef void own_block(object array, size_t size) noexcept
