"""Recycled memory for large arrays."""

cdef bint is_recycling() except -1
cdef object handler
cdef void *new_block(size_t size) noexcept nogil
cdef void free_block(void *memory) noexcept nogil
cdef void own_block(object array, size_t size) noexcept
