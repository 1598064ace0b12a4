"""The table of operations: the program of each, and that of its gradients."""

from .program cimport OPERATIONS, Engine, Program

cdef Program forward[OPERATIONS]
cdef Program backward[OPERATIONS]
cdef Program identity       # dout * 1

cdef enum:
    # A constant: how many columns the rows of a pass over whole rows have.
    COLUMNS = -0x40000000

cdef int assemble(
    Program *program, tuple inputs, tuple results, list steps, dict layouts=*, tuple numbers=*
) except -1
cdef void find_dtypes(const Engine *engine) noexcept
cdef void find_dtypes_of(Program *program) noexcept
