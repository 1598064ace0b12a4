"""The table of operations: the program of each, and that of its gradients."""

from .program cimport OPERATIONS, Engine, Program

cdef Program forward[OPERATIONS]
cdef Program backward[OPERATIONS]
cdef Program identity       # dout * 1

cdef int assemble(Program *program, tuple inputs, tuple results, list steps) except -1
cdef void find_dtypes(const Engine *engine) noexcept
cdef void find_dtypes_of(Program *program) noexcept
