"""Passes: parts of a graph that are run in one pass over memory."""

from cpython.object cimport PyObject

from ..program.program cimport MAX_INPUTS, MAX_RESULTS, DType, Program
from .execute cimport Given


cdef class CompiledProgram:
    cdef Program program
    cdef list steps             # whose loops must stay


cdef class Pass:
    cdef Program program
    cdef int sources[MAX_INPUTS]
    cdef int sum_to[MAX_RESULTS]
    cdef bint summing
    cdef bint counting
    cdef int result_count       # more than the program's if there are counts
    cdef int unit[MAX_RESULTS]  # of a count, else 0
    cdef int count_to[MAX_RESULTS]
    cdef bint is_total[MAX_RESULTS]
    cdef tuple constants
    cdef readonly tuple inputs
    cdef readonly tuple names   # of the program's results
    cdef readonly list steps    # whose ufuncs must stay
    cdef readonly dict layouts
    cdef readonly frozenset singles
    cdef bint timed             # whether a compiler waits until it has taken long enough
    cdef double spent           # so far, in seconds
    cdef unsigned int offered   # a bit for each dtype for which a compiler was asked
    cdef list compiled          # the programs
    cdef int constant_count
    cdef public object numbers

    cdef object run_on(self, PyObject **values, outs, list rest)
    cdef object as_tuple(self, results)
    cdef bint reads(self, int slot) noexcept
    cdef int note_call(self, DType dtype, double start) except -1
    cdef int offer(self, DType dtype) except -1
    cdef DType dtype_of(self, PyObject **values) noexcept
    cdef bint take_outs(self, outs, Given *given)
    cdef tuple with_counts(self, results, const Given *given, PyObject **values)
