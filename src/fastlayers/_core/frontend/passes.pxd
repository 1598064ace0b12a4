"""Passes: parts of a graph that are run in one pass over memory."""

from cpython.object cimport PyObject

from ..program.program cimport MAX_INPUTS, MAX_RESULTS, Program
from .execute cimport Given


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
    cdef list steps             # whose ufuncs must stay
    cdef int constant_count
    cdef public object numbers

    cdef object run_on(self, PyObject **values, outs, list rest)
    cdef object as_tuple(self, results)
    cdef bint reads(self, int slot) noexcept
    cdef bint take_outs(self, outs, Given *given)
    cdef tuple with_counts(self, results, const Given *given, PyObject **values)
