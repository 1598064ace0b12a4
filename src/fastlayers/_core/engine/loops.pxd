"""Loops: each is a kernel for one dtype, called like NumPy's inner loops.

For common strides a loop calls its kernel with constants, so that the compiler makes a vector loop
of it; all others it passes on as they are.
"""

from libc.stdint cimport int64_t

from .kernels cimport (
    LANES, SHORT_ROW, Integer, Real, T, accumulate, accumulate_integers, accumulate_rows,
    accumulate_segment, accumulate_segment_of_integers, add, add_products, add_products_backward,
    copy, copy_twice, cut_sums, from_bool, merge, multiply, multiply_add, multiply_backward,
    multiply_subtract, negative, product_backward, round_sums, select, subtract, subtract_product,
    subtract_products,
)

# ---- memoryviews without acquisition ----
#
# Acquiring a typed memoryview takes some 70 ns, as long as NumPy needs for a whole small product. A
# kernel only borrows its operands, so the slice struct that Cython passes for a memoryview is
# filled in here by hand: without an owner (memview NULL) nothing is counted, locked or released. In
# C a kernel takes this struct whatever the dtype; the casts below only tell Cython so.

cdef extern from *:
    """
    /* If Cython's struct has other fields than these, this does not compile. */
    struct fastlayers_slice {
        void *memview;
        char *data;
        Py_ssize_t shape[8], strides[8], suboffsets[8];
    };
    #define FASTLAYERS_SAME_PLACE(field) \\
        (offsetof(__Pyx_memviewslice, field) == offsetof(struct fastlayers_slice, field))
    #define CHECK_SLICE() \\
        ((void)sizeof(char[sizeof(__Pyx_memviewslice) == sizeof(struct fastlayers_slice) \\
            && FASTLAYERS_SAME_PLACE(memview) && FASTLAYERS_SAME_PLACE(data) \\
            && FASTLAYERS_SAME_PLACE(shape) && FASTLAYERS_SAME_PLACE(strides) \\
            && FASTLAYERS_SAME_PLACE(suboffsets) ? 1 : -1]))
    """
    ctypedef struct Slice "__Pyx_memviewslice":
        void *memview
        char *data
        Py_ssize_t shape[8]
        Py_ssize_t strides[8]
        Py_ssize_t suboffsets[8]
    void CHECK_SLICE() noexcept nogil

ctypedef void (*Kernel2)(Slice, Slice) noexcept nogil
ctypedef void (*Kernel3)(Slice, Slice, Slice) noexcept nogil
ctypedef void (*Kernel4)(Slice, Slice, Slice, Slice) noexcept nogil
ctypedef void (*Kernel5)(Slice, Slice, Slice, Slice, Slice) noexcept nogil
ctypedef void (*Kernel6)(Slice, Slice, Slice, Slice, Slice, Slice) noexcept nogil
ctypedef void (*Kernel8)(Slice, Slice, Slice, Slice, Slice, Slice, Slice, Slice) noexcept nogil
ctypedef void (*OfRows)(Slice, Slice, Slice, Py_ssize_t) noexcept nogil

ctypedef fused Kernel:
    Kernel2
    Kernel3
    Kernel4
    Kernel5
    Kernel6
    Kernel8


cdef inline Slice borrow(char *data, Py_ssize_t n, Py_ssize_t stride) noexcept nogil:
    cdef Slice view
    CHECK_SLICE()
    view.memview = NULL
    view.data = data
    view.shape[0] = n
    view.strides[0] = stride
    view.suboffsets[0] = -1
    return view


# ---- strides that the compiler knows ----
#
# Each line of `call_kernel` is a loop of its own, in which the strides that it names are constants:
# 0, or `unit`, the size of an element in bytes. The others are those of the operands.
#
# If one input alone has another stride, since it lies across the others, there is a vector loop,
# too: it reads several elements that lie far apart at once. With y transposed, steps take, us
# against without: 100 x 100 float64 elements 26 / 39, float32 21 / 32, 300 x 300 154 / 301 and
# 125 / 249. But elements at whole multiples of 2 KiB compete for a few lines of the first cache:
# 512 x 512 float64 elements took 1.24 times as long, float32 1.45 times (AMD EPYC of the Milan
# family).


cdef inline bint spreads(Py_ssize_t stride) noexcept nogil:
    """Whether elements at this stride do not compete for a few lines of the cache."""
    return stride & 2047 != 0


cdef inline void call_kernel(
    Kernel kernel, char **d, Py_ssize_t n, const Py_ssize_t *s, Py_ssize_t unit
) noexcept nogil:
    """Call the kernel with the first of these strides that the operands have."""
    if Kernel is Kernel2:
        (
            call_at(kernel, d, n, s, unit, unit)
            or call_at(kernel, d, n, s, 0, unit)
            or call_at(kernel, d, n, s, s[0], unit)
            or call_at(kernel, d, n, s, unit, s[1])
            or call_at(kernel, d, n, s, s[0], s[1])
        )
    elif Kernel is Kernel3:
        (
            call_at(kernel, d, n, s, unit, unit, unit)
            or call_at(kernel, d, n, s, unit, 0, unit)
            or call_at(kernel, d, n, s, 0, unit, unit)
            or spreads(s[1]) and call_at(kernel, d, n, s, unit, s[1], unit)
            or spreads(s[0]) and call_at(kernel, d, n, s, s[0], unit, unit)
            or call_at(kernel, d, n, s, s[0], s[1], s[2])
        )
    elif Kernel is Kernel4:
        (
            call_at(kernel, d, n, s, unit, unit, unit, unit)
            or call_at(kernel, d, n, s, unit, 0, unit, unit)
            or call_at(kernel, d, n, s, unit, unit, 0, unit)
            or call_at(kernel, d, n, s, unit, 0, 0, unit)
            or spreads(s[0]) and call_at(kernel, d, n, s, s[0], 0, unit, unit)
            or call_at(kernel, d, n, s, s[0], s[1], s[2], s[3])
        )
    elif Kernel is Kernel5:
        (
            call_at(kernel, d, n, s, unit, unit, unit, unit, unit)
            or call_at(kernel, d, n, s, unit, 0, unit, unit, unit)
            or call_at(kernel, d, n, s, unit, unit, 0, unit, unit)
            or call_at(kernel, d, n, s, unit, 0, unit, 0, unit)
            or spreads(s[2]) and call_at(kernel, d, n, s, unit, unit, s[2], unit, unit)
            or spreads(s[1]) and call_at(kernel, d, n, s, unit, s[1], unit, unit, unit)
            or spreads(s[0]) and call_at(kernel, d, n, s, s[0], unit, unit, unit, unit)
            or call_at(kernel, d, n, s, s[0], s[1], s[2], s[3], s[4])
        )
    elif Kernel is Kernel6:
        (
            call_at(kernel, d, n, s, unit, unit, unit, unit, unit, unit)
            or call_at(kernel, d, n, s, s[0], s[1], s[2], s[3], s[4], s[5])
        )
    else:
        (
            call_at(kernel, d, n, s, unit, unit, unit, unit, unit, unit, unit, unit)
            or call_at(kernel, d, n, s, s[0], s[1], s[2], s[3], s[4], s[5], s[6], s[7])
        )


cdef inline bint call_at(
    Kernel kernel, char **d, Py_ssize_t n, const Py_ssize_t *s, Py_ssize_t s0, Py_ssize_t s1,
    Py_ssize_t s2=0, Py_ssize_t s3=0, Py_ssize_t s4=0, Py_ssize_t s5=0, Py_ssize_t s6=0,
    Py_ssize_t s7=0,
) noexcept nogil:
    """Call the kernel if its operands have these strides; return whether they do."""
    if s[0] != s0 or s[1] != s1:
        return False
    if Kernel is Kernel2:
        kernel(borrow(d[0], n, s0), borrow(d[1], n, s1))
    elif Kernel is Kernel3:
        if s[2] != s2:
            return False
        kernel(borrow(d[0], n, s0), borrow(d[1], n, s1), borrow(d[2], n, s2))
    elif Kernel is Kernel4:
        if s[2] != s2 or s[3] != s3:
            return False
        kernel(
            borrow(d[0], n, s0), borrow(d[1], n, s1), borrow(d[2], n, s2), borrow(d[3], n, s3))
    elif Kernel is Kernel5:
        if s[2] != s2 or s[3] != s3 or s[4] != s4:
            return False
        kernel(
            borrow(d[0], n, s0), borrow(d[1], n, s1), borrow(d[2], n, s2), borrow(d[3], n, s3),
            borrow(d[4], n, s4))
    elif Kernel is Kernel6:
        if s[2] != s2 or s[3] != s3 or s[4] != s4 or s[5] != s5:
            return False
        kernel(
            borrow(d[0], n, s0), borrow(d[1], n, s1), borrow(d[2], n, s2), borrow(d[3], n, s3),
            borrow(d[4], n, s4), borrow(d[5], n, s5))
    else:
        if s[2] != s2 or s[3] != s3 or s[4] != s4 or s[5] != s5 or s[6] != s6 or s[7] != s7:
            return False
        kernel(
            borrow(d[0], n, s0), borrow(d[1], n, s1), borrow(d[2], n, s2), borrow(d[3], n, s3),
            borrow(d[4], n, s4), borrow(d[5], n, s5), borrow(d[6], n, s6), borrow(d[7], n, s7))
    return True


# ---- one loop for each kernel ----

cdef inline void multiply_loop(
    char **data, const Py_ssize_t *n, const Py_ssize_t *strides, T *dtype
) noexcept nogil:
    call_kernel(<Kernel3> <void *> multiply[T], data, n[0], strides, sizeof(T))


cdef inline void add_loop(
    char **data, const Py_ssize_t *n, const Py_ssize_t *strides, T *dtype
) noexcept nogil:
    call_kernel(<Kernel3> <void *> add[T], data, n[0], strides, sizeof(T))


cdef inline void subtract_loop(
    char **data, const Py_ssize_t *n, const Py_ssize_t *strides, T *dtype
) noexcept nogil:
    call_kernel(<Kernel3> <void *> subtract[T], data, n[0], strides, sizeof(T))


cdef inline void negative_loop(
    char **data, const Py_ssize_t *n, const Py_ssize_t *strides, T *dtype
) noexcept nogil:
    call_kernel(<Kernel2> <void *> negative[T], data, n[0], strides, sizeof(T))


cdef inline void multiply_backward_loop(
    char **data, const Py_ssize_t *n, const Py_ssize_t *strides, T *dtype
) noexcept nogil:
    call_kernel(<Kernel5> <void *> multiply_backward[T], data, n[0], strides, sizeof(T))


cdef inline void copy_twice_loop(
    char **data, const Py_ssize_t *n, const Py_ssize_t *strides, T *dtype
) noexcept nogil:
    call_kernel(<Kernel4> <void *> copy_twice[T], data, n[0], strides, sizeof(T))


cdef inline void add_products_loop(
    char **data, const Py_ssize_t *n, const Py_ssize_t *strides, T *dtype
) noexcept nogil:
    call_kernel(<Kernel5> <void *> add_products[T], data, n[0], strides, sizeof(T))


cdef inline void subtract_products_loop(
    char **data, const Py_ssize_t *n, const Py_ssize_t *strides, T *dtype
) noexcept nogil:
    call_kernel(<Kernel5> <void *> subtract_products[T], data, n[0], strides, sizeof(T))


cdef inline void multiply_add_loop(
    char **data, const Py_ssize_t *n, const Py_ssize_t *strides, T *dtype
) noexcept nogil:
    call_kernel(<Kernel4> <void *> multiply_add[T], data, n[0], strides, sizeof(T))


cdef inline void multiply_subtract_loop(
    char **data, const Py_ssize_t *n, const Py_ssize_t *strides, T *dtype
) noexcept nogil:
    call_kernel(<Kernel4> <void *> multiply_subtract[T], data, n[0], strides, sizeof(T))


cdef inline void subtract_product_loop(
    char **data, const Py_ssize_t *n, const Py_ssize_t *strides, T *dtype
) noexcept nogil:
    call_kernel(<Kernel4> <void *> subtract_product[T], data, n[0], strides, sizeof(T))


cdef inline void product_backward_loop(
    char **data, const Py_ssize_t *n, const Py_ssize_t *strides, T *dtype
) noexcept nogil:
    call_kernel(<Kernel6> <void *> product_backward[T], data, n[0], strides, sizeof(T))


cdef inline void add_products_backward_loop(
    char **data, const Py_ssize_t *n, const Py_ssize_t *strides, T *dtype
) noexcept nogil:
    call_kernel(<Kernel8> <void *> add_products_backward[T], data, n[0], strides, sizeof(T))


# Bools are in tiles alone, one after the other.
cdef inline void select_loop(
    char **data, const Py_ssize_t *n, const Py_ssize_t *strides, T *dtype
) noexcept nogil:
    cdef Py_ssize_t x = strides[1]
    cdef Py_ssize_t y = strides[2]
    if strides[3] == sizeof(T) and x == sizeof(T) and y == sizeof(T):
        select_items(<Kernel4> <void *> select[T], data, n[0], sizeof(T), sizeof(T), sizeof(T))
    elif strides[3] == sizeof(T) and x == sizeof(T) and y == 0:
        select_items(<Kernel4> <void *> select[T], data, n[0], sizeof(T), 0, sizeof(T))
    elif strides[3] == sizeof(T) and x == 0 and y == sizeof(T):
        select_items(<Kernel4> <void *> select[T], data, n[0], 0, sizeof(T), sizeof(T))
    else:
        select_items(<Kernel4> <void *> select[T], data, n[0], x, y, strides[3])


cdef inline void select_items(
    Kernel4 kernel, char **data, Py_ssize_t n, Py_ssize_t x, Py_ssize_t y, Py_ssize_t out
) noexcept nogil:
    kernel(
        borrow(data[0], n, 1), borrow(data[1], n, x), borrow(data[2], n, y),
        borrow(data[3], n, out))


cdef inline void from_bool_loop(
    char **data, const Py_ssize_t *n, const Py_ssize_t *strides, T *dtype
) noexcept nogil:
    if strides[1] == sizeof(T):
        (<Kernel2> <void *> from_bool[T])(
            borrow(data[0], n[0], 1), borrow(data[1], n[0], sizeof(T)))
    else:
        (<Kernel2> <void *> from_bool[T])(
            borrow(data[0], n[0], 1), borrow(data[1], n[0], strides[1]))


cdef inline void copy_loop(
    char **data, const Py_ssize_t *n, const Py_ssize_t *strides, T *dtype
) noexcept nogil:
    call_kernel(<Kernel2> <void *> copy[T], data, n[0], strides, sizeof(T))


cdef inline void accumulate_loop(
    char **data, const Py_ssize_t *n, const Py_ssize_t *strides, Real *dtype
) noexcept nogil:
    cdef Slice values = borrow(data[0], n[0], sizeof(Real))
    if strides[1] == sizeof(double):
        (<Kernel3> <void *> accumulate[Real])(
            values, borrow(data[1], n[0], sizeof(double)), borrow(data[2], n[0], sizeof(double)))
    else:
        (<Kernel3> <void *> accumulate[Real])(
            values, borrow(data[1], n[0], strides[1]), borrow(data[2], n[0], strides[1]))


cdef inline void accumulate_segment_loop(
    char **data, const Py_ssize_t *n, const Py_ssize_t *strides, Real *dtype
) noexcept nogil:
    cdef Py_ssize_t count = n[0]
    while count % LANES:  # sums start at 0.0: adding 0.0 changes none
        (<Real *> data[0])[count] = 0
        count += 1
    (<Kernel3> <void *> accumulate_segment[Real])(
        borrow(data[0], count, sizeof(Real)), borrow(data[1], 1, 0), borrow(data[2], 1, 0))


cdef inline void accumulate_rows_loop(
    char **data, const Py_ssize_t *n, const Py_ssize_t *strides, Real *dtype
) noexcept nogil:
    cdef Py_ssize_t columns = n[1]
    cdef Py_ssize_t i
    cdef Slice values = borrow(data[0], n[0], sizeof(Real))
    cdef Slice sums = borrow(data[1], columns, sizeof(double))
    cdef Slice errors = borrow(data[2], columns, sizeof(double))
    for i in range(n[0], n[0] + SHORT_ROW):
        (<Real *> data[0])[i] = 0
    if columns <= 4:
        (<OfRows> <void *> accumulate_rows[Real])(values, sums, errors, 4)
    elif columns <= 8:
        (<OfRows> <void *> accumulate_rows[Real])(values, sums, errors, 8)
    else:
        (<OfRows> <void *> accumulate_rows[Real])(values, sums, errors, SHORT_ROW)


cdef inline void round_sums_loop(
    char **data, const Py_ssize_t *n, const Py_ssize_t *strides, Real *dtype
) noexcept nogil:
    (<Kernel3> <void *> round_sums[Real])(
        borrow(data[0], n[0], sizeof(double)), borrow(data[1], n[0], sizeof(double)),
        borrow(data[2], n[0], sizeof(Real)))


cdef inline void merge_loop(
    char **data, const Py_ssize_t *n, const Py_ssize_t *strides, Real *dtype
) noexcept nogil:
    (<Kernel4> <void *> merge)(
        borrow(data[0], n[0], sizeof(double)), borrow(data[1], n[0], sizeof(double)),
        borrow(data[2], n[0], sizeof(double)), borrow(data[3], n[0], sizeof(double)))


cdef inline void accumulate_integers_loop(
    char **data, const Py_ssize_t *n, const Py_ssize_t *strides, Integer *dtype
) noexcept nogil:
    cdef Slice values = borrow(data[0], n[0], sizeof(Integer))
    if strides[1] == sizeof(int64_t):
        (<Kernel2> <void *> accumulate_integers[Integer])(
            values, borrow(data[1], n[0], sizeof(int64_t)))
    else:
        (<Kernel2> <void *> accumulate_integers[Integer])(
            values, borrow(data[1], n[0], strides[1]))


cdef inline void accumulate_rows_of_integers_loop(
    char **data, const Py_ssize_t *n, const Py_ssize_t *strides, Integer *dtype
) noexcept nogil:
    cdef Py_ssize_t i = 0
    while i < n[0]:
        (<Kernel2> <void *> accumulate_integers[Integer])(
            borrow(data[0] + i * <Py_ssize_t> sizeof(Integer), n[1], sizeof(Integer)),
            borrow(data[1], n[1], sizeof(int64_t)))
        i += n[1]


cdef inline void accumulate_segment_of_integers_loop(
    char **data, const Py_ssize_t *n, const Py_ssize_t *strides, Integer *dtype
) noexcept nogil:
    (<Kernel2> <void *> accumulate_segment_of_integers[Integer])(
        borrow(data[0], n[0], sizeof(Integer)), borrow(data[1], 1, 0))


cdef inline void cut_sums_loop(
    char **data, const Py_ssize_t *n, const Py_ssize_t *strides, Integer *dtype
) noexcept nogil:
    (<Kernel2> <void *> cut_sums[Integer])(
        borrow(data[0], n[0], sizeof(int64_t)), borrow(data[2], n[0], sizeof(Integer)))


cdef inline void merge_integers_loop(
    char **data, const Py_ssize_t *n, const Py_ssize_t *strides, Integer *dtype
) noexcept nogil:
    (<Kernel2> <void *> accumulate_integers[int64_t])(
        borrow(data[0], n[0], sizeof(int64_t)), borrow(data[2], n[0], sizeof(int64_t)))
