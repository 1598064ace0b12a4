"""Recycled memory for large arrays."""

cdef bint is_recycling() except -1
cdef object handler
cpdef object set_handler(object new)
cpdef object recycling_handler()

# Whether `own_block` does what it was written for, with this NumPy: found out by the import.
cdef bint can_own_blocks

# Where in a page a large array begins is chosen for each: a load whose address agrees with that of
# a store under way in the lowest twelve bits waits for it. A step on 262k float64 elements took
# 151 us where inputs and results began at the same place, 110 us where not; 10k elements, 80 kB,
# gained nothing (AMD EPYC of the Genoa family).
cdef enum:
    PAGE = 4096
    ANYWHERE = 4096         # for who does not know what the array is computed from
    SHIFTED_BYTES = 1 << 17

cdef void *new_block(size_t size, size_t phase) noexcept nogil
cdef void free_block(void *memory) noexcept nogil
cdef void own_block(object array, size_t size) noexcept
