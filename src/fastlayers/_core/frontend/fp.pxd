"""Which floating-point exceptions the user wants to hear of: `np.errstate`."""

cdef bint is_ignored(int raised) except -1
cdef int exceptions_to_stop_before() except -1

cdef enum:
    UNSTOPPABLE = 1 << 8
