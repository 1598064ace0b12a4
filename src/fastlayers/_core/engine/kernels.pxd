"""The kernels: all arithmetic of the package.

They loop over strided memoryviews and know nothing about layouts: loops.pxd calls them with
constant strides where that matters, and the C compiler makes vector loops of them. This is all
compiled once for each instruction set (see kernels_*.pyx).
"""

from libc.stdint cimport int32_t, int64_t

cdef extern from "compiler.h":
    pass

# A row becomes a vector loop only if the compiler sees its constant strides inside the kernel. Left
# to itself, GCC shares one strided copy between rows of different strides: three times slower.
cdef extern from *:
    """
    #undef CYTHON_INLINE
    #if defined(__GNUC__) || defined(__clang__)
    #define CYTHON_INLINE inline __attribute__((always_inline))
    #elif defined(_MSC_VER)
    #define CYTHON_INLINE __forceinline
    #else
    #define CYTHON_INLINE inline
    #endif

    /* Round each product and each sum; for GCC a flag does this. */
    #if defined(_MSC_VER)
    #pragma fp_contract (off)
    #elif defined(__clang__)
    #pragma STDC FP_CONTRACT OFF
    #endif
    """

ctypedef fused T:
    float
    double
    int32_t
    int64_t

ctypedef fused Real:
    float
    double

ctypedef fused Integer:
    int32_t
    int64_t


# ---- arithmetic ----

cdef inline void multiply(
    const T[:] x,           # IN
    const T[:] y,           # IN
    T[:] out,               # OUT
) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(out.shape[0]):
        out[i] = x[i] * y[i]


cdef inline void add(
    const T[:] x,           # IN
    const T[:] y,           # IN
    T[:] out,               # OUT
) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(out.shape[0]):
        out[i] = x[i] + y[i]


cdef inline void select(
    const unsigned char[:] condition,   # IN
    const T[:] x,                       # IN
    const T[:] y,                       # IN
    T[:] out,                           # OUT
) noexcept nogil:
    cdef Py_ssize_t i
    cdef T a, b
    for i in range(out.shape[0]):
        # Both are read whatever the condition is: else this is no vector loop.
        a = x[i]
        b = y[i]
        out[i] = a if condition[i] else b


cdef inline void from_bool(
    const unsigned char[:] condition,   # IN
    T[:] out,                           # OUT
) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(out.shape[0]):
        out[i] = <T> condition[i]


cdef inline void subtract(
    const T[:] x,           # IN
    const T[:] y,           # IN
    T[:] out,               # OUT
) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(out.shape[0]):
        out[i] = x[i] - y[i]


cdef inline void negative(
    const T[:] x,           # IN
    T[:] out,               # OUT
) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(out.shape[0]):
        out[i] = -x[i]


cdef inline void copy(
    const T[:] x,           # IN
    T[:] out,               # OUT
) noexcept nogil:
    # By four, which takes half the time: the compiler makes no vector loop of a copy across rows,
    # but fills a vector (AMD EPYC of the Milan family).
    cdef Py_ssize_t n = out.shape[0]
    cdef Py_ssize_t i = 0
    cdef T first, second, third, fourth
    while i + 4 <= n:
        first, second, third, fourth = x[i], x[i + 1], x[i + 2], x[i + 3]
        out[i] = first
        out[i + 1] = second
        out[i + 2] = third
        out[i + 3] = fourth
        i += 4
    while i < n:
        out[i] = x[i]
        i += 1


cdef inline void multiply_backward(
    const T[:] dout,        # IN
    const T[:] x,           # IN
    const T[:] y,           # IN
    T[:] dx,                # OUT
    T[:] dy,                # OUT
) noexcept nogil:
    cdef Py_ssize_t i
    cdef T gradient
    for i in range(dout.shape[0]):
        gradient = dout[i]
        dx[i] = gradient * y[i]
        dy[i] = gradient * x[i]


cdef inline void copy_twice(
    const T[:] dout,        # IN
    const T[:] one,         # IN   multiplied by, since dout * 1 quiets a signalling NaN
    T[:] dx,                # OUT
    T[:] dy,                # OUT
) noexcept nogil:
    cdef Py_ssize_t i
    cdef T gradient
    for i in range(dout.shape[0]):
        gradient = dout[i] * one[i]
        dx[i] = gradient
        dy[i] = gradient


cdef inline void add_products(
    const T[:] a,           # IN
    const T[:] b,           # IN
    const T[:] c,           # IN
    const T[:] d,           # IN
    T[:] out,               # OUT
) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(out.shape[0]):
        out[i] = a[i] * b[i] + c[i] * d[i]


cdef inline void subtract_products(
    const T[:] a,           # IN
    const T[:] b,           # IN
    const T[:] c,           # IN
    const T[:] d,           # IN
    T[:] out,               # OUT
) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(out.shape[0]):
        out[i] = a[i] * b[i] - c[i] * d[i]


cdef inline void multiply_add(
    const T[:] x,           # IN
    const T[:] y,           # IN
    const T[:] z,           # IN
    T[:] out,               # OUT
) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(out.shape[0]):
        out[i] = x[i] * y[i] + z[i]


cdef inline void multiply_subtract(
    const T[:] x,           # IN
    const T[:] y,           # IN
    const T[:] z,           # IN
    T[:] out,               # OUT
) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(out.shape[0]):
        out[i] = x[i] * y[i] - z[i]


cdef inline void subtract_product(
    const T[:] x,           # IN
    const T[:] y,           # IN
    const T[:] z,           # IN
    T[:] out,               # OUT
) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(out.shape[0]):
        out[i] = z[i] - x[i] * y[i]


cdef inline void product_backward(
    const T[:] a,           # IN
    const T[:] b,           # IN
    const T[:] x,           # IN
    const T[:] y,           # IN
    T[:] dx,                # OUT
    T[:] dy,                # OUT
) noexcept nogil:
    cdef Py_ssize_t i
    cdef T gradient
    for i in range(dx.shape[0]):
        gradient = a[i] * b[i]
        dx[i] = gradient * y[i]
        dy[i] = gradient * x[i]


cdef inline void add_products_backward(
    const T[:] a,           # IN
    const T[:] b,           # IN
    const T[:] c,           # IN
    const T[:] d,           # IN
    const T[:] x,           # IN
    const T[:] y,           # IN
    T[:] dx,                # OUT
    T[:] dy,                # OUT
) noexcept nogil:
    cdef Py_ssize_t i
    cdef T gradient
    for i in range(dx.shape[0]):
        gradient = a[i] * b[i] + c[i] * d[i]
        dx[i] = gradient * y[i]
        dy[i] = gradient * x[i]


# ---- sums ----
#
# Sums are kept to twice the precision of a double: for each addition, the part that rounding took
# is computed exactly (Knuth, The Art of Computer Programming vol. 2, 4.2.2, theorem B) and summed
# too. Whole rows of results are added this way, element by element. Of a run of elements with one
# sum, 256 at a time are summed in 32 lanes. Neither depends on the vector width or on which thread
# computes it, so all instruction sets and thread counts give the same bits. Integers are summed
# modulo 2^64, of which int32 keeps the lower half: in any order, and without errors.

cdef enum:
    SEGMENT = 256
    LANES = 32
    SHORT_ROW = 16  # shorter ones are summed in registers


cdef inline void accumulate(
    const Real[:] values,   # IN
    double[:] sums,         # IN/OUT
    double[:] errors,       # IN/OUT
) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(values.shape[0]):
        add_exactly(values[i], &sums[i], &errors[i])


cdef inline void add_exactly(double value, double *sum, double *error) noexcept nogil:
    cdef double before = sum[0]
    cdef double after = before + value
    cdef double added = after - before
    error[0] += (before - (after - added)) + (value - added)
    sum[0] = after


cdef inline void accumulate_rows(
    const Real[:] values,   # IN     with room for `most` more
    double[:] sums,         # IN/OUT
    double[:] errors,       # IN/OUT
    Py_ssize_t most,        # as many elements as a row has, or more; the compiler knows the number
) noexcept nogil:
    # All sums stay in registers. Those beyond the row are of no use: of what comes next, then of 0.
    cdef double its_sums[SHORT_ROW]
    cdef double its_errors[SHORT_ROW]
    cdef Py_ssize_t columns = sums.shape[0]
    cdef Py_ssize_t i, lane
    for lane in range(most):
        its_sums[lane] = sums[lane] if lane < columns else 0
        its_errors[lane] = errors[lane] if lane < columns else 0
    i = 0
    while i < values.shape[0]:
        for lane in range(most):
            add_exactly(values[i + lane], &its_sums[lane], &its_errors[lane])
        i += columns
    for lane in range(columns):
        sums[lane] = its_sums[lane]
        errors[lane] = its_errors[lane]


cdef inline void accumulate_segment(
    const Real[:] values,   # IN     at most SEGMENT, whole LANES
    double[:] sum,          # IN/OUT one element
    double[:] error,        # IN/OUT one element
) noexcept nogil:
    cdef double sums[LANES]
    cdef double errors[LANES]
    cdef Py_ssize_t i, lane
    for lane in range(LANES):
        sums[lane] = values[lane]
        errors[lane] = 0
    i = LANES
    while i < values.shape[0]:
        for lane in range(LANES):
            add_exactly(values[i + lane], &sums[lane], &errors[lane])
        i += LANES
    # Written out, so that the compiler sees the number of lanes in each step.
    fold(sums, errors, 16)
    fold(sums, errors, 8)
    fold(sums, errors, 4)
    fold(sums, errors, 2)
    fold(sums, errors, 1)
    add_exactly(sums[0], &sum[0], &error[0])
    error[0] += errors[0]


cdef inline void fold(double *sums, double *errors, Py_ssize_t half) noexcept nogil:
    cdef Py_ssize_t lane
    for lane in range(half):
        add_exactly(sums[lane + half], &sums[lane], &errors[lane])
        errors[lane] += errors[lane + half]


cdef inline void merge(
    const double[:] others,         # IN
    const double[:] their_errors,   # IN
    double[:] sums,                 # IN/OUT
    double[:] errors,               # IN/OUT
) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(sums.shape[0]):
        add_exactly(others[i], &sums[i], &errors[i])
        errors[i] += their_errors[i]


cdef inline void round_sums(
    const double[:] sums,    # IN
    const double[:] errors,  # IN
    Real[:] out,             # OUT
) noexcept nogil:
    cdef Py_ssize_t i
    cdef double error
    for i in range(out.shape[0]):
        error = errors[i]
        # The error of an infinite sum is NaN.
        out[i] = <Real> (sums[i] + error if error == error else sums[i])


cdef inline void accumulate_integers(
    const Integer[:] values,    # IN
    int64_t[:] sums,            # IN/OUT
) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(values.shape[0]):
        sums[i] += values[i]


cdef inline void accumulate_segment_of_integers(
    const Integer[:] values,    # IN
    int64_t[:] sum,             # IN/OUT one element
) noexcept nogil:
    cdef int64_t total = 0
    cdef Py_ssize_t i
    for i in range(values.shape[0]):
        total += values[i]
    sum[0] += total


cdef inline void cut_sums(
    const int64_t[:] sums,      # IN
    Integer[:] out,             # OUT
) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(out.shape[0]):
        out[i] = <Integer> sums[i]
