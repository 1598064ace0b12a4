# What a kernel module offers. Each includes this file and compiles it for its instruction set.

from libc.stdint cimport int32_t, int64_t
from libc.string cimport memset

from cpython.pycapsule cimport PyCapsule_New

from ..program.program cimport (
    ADD, ADD_PRODUCTS, ADD_PRODUCTS_BACKWARD, COPY_TWICE, FLOAT32, FLOAT64, FROM_BOOL, INT32, INT64,
    MULTIPLY, MULTIPLY_ADD, MULTIPLY_BACKWARD, MULTIPLY_SUBTRACT, NEGATIVE, PRODUCT_BACKWARD,
    SELECT, SUBTRACT, SUBTRACT_PRODUCT, SUBTRACT_PRODUCTS, DType, Engine, Job, Loop, capsule_name,
)
from .kernels cimport Integer, Real, T
from .loops cimport (
    accumulate_integers_loop, accumulate_loop, accumulate_rows_loop,
    accumulate_rows_of_integers_loop, accumulate_segment_loop,
    accumulate_segment_of_integers_loop, add_loop, add_products_backward_loop, add_products_loop,
    copy_loop, copy_twice_loop, cut_sums_loop, from_bool_loop, merge_integers_loop, merge_loop,
    multiply_add_loop, multiply_backward_loop, multiply_loop, multiply_subtract_loop, negative_loop,
    product_backward_loop, round_sums_loop, select_loop, subtract_loop, subtract_product_loop,
    subtract_products_loop,
)
from .tiles cimport Tiles, add_to_sums, count_workspace_bytes, tile_by_tile
from .walk cimport run_job, walk_job

cdef Engine engine
memset(&engine, 0, sizeof(engine))


cdef int run(const Job *job) noexcept nogil:
    return run_job(job)


cdef Py_ssize_t workspace_bytes(const Job *job) noexcept nogil:
    return count_workspace_bytes(job)


cdef Py_ssize_t walk(
    const Job *job, int thread, Py_ssize_t start, Py_ssize_t stop
) noexcept nogil:
    return walk_job(job, thread, start, stop)


cdef Py_ssize_t run_tiles(
    const Job *job, void *tiles, char **data, Py_ssize_t n, bint streaming
) noexcept nogil:
    return tile_by_tile(job, <Tiles *> tiles, data, n, streaming)


cdef void add_tile(
    const Job *job, void *tiles, int slot, char *values, Py_ssize_t n, char *sums
) noexcept nogil:
    add_to_sums(job, <Tiles *> tiles, slot, values, n, sums)


# Where NumPy's loops have an unused argument, these have a pointer of the dtype.
cdef void fill(DType dtype, T *unused) noexcept:
    engine.loops[MULTIPLY][dtype] = <Loop> multiply_loop[T]
    engine.loops[ADD][dtype] = <Loop> add_loop[T]
    engine.loops[SUBTRACT][dtype] = <Loop> subtract_loop[T]
    engine.loops[NEGATIVE][dtype] = <Loop> negative_loop[T]
    engine.loops[SELECT][dtype] = <Loop> select_loop[T]
    engine.loops[FROM_BOOL][dtype] = <Loop> from_bool_loop[T]
    engine.loops[MULTIPLY_BACKWARD][dtype] = <Loop> multiply_backward_loop[T]
    engine.loops[COPY_TWICE][dtype] = <Loop> copy_twice_loop[T]
    engine.loops[ADD_PRODUCTS][dtype] = <Loop> add_products_loop[T]
    engine.loops[SUBTRACT_PRODUCTS][dtype] = <Loop> subtract_products_loop[T]
    engine.loops[MULTIPLY_ADD][dtype] = <Loop> multiply_add_loop[T]
    engine.loops[MULTIPLY_SUBTRACT][dtype] = <Loop> multiply_subtract_loop[T]
    engine.loops[SUBTRACT_PRODUCT][dtype] = <Loop> subtract_product_loop[T]
    engine.loops[PRODUCT_BACKWARD][dtype] = <Loop> product_backward_loop[T]
    engine.loops[ADD_PRODUCTS_BACKWARD][dtype] = <Loop> add_products_backward_loop[T]
    engine.copy[dtype] = <Loop> copy_loop[T]


cdef void fill_sums(DType dtype, Real *unused) noexcept:
    engine.accumulate[dtype] = <Loop> accumulate_loop[Real]
    engine.accumulate_rows[dtype] = <Loop> accumulate_rows_loop[Real]
    engine.accumulate_segment[dtype] = <Loop> accumulate_segment_loop[Real]
    engine.merge[dtype] = <Loop> merge_loop[Real]
    engine.round_sums[dtype] = <Loop> round_sums_loop[Real]


cdef void fill_sums_of_integers(DType dtype, Integer *unused) noexcept:
    engine.accumulate[dtype] = <Loop> accumulate_integers_loop[Integer]
    engine.accumulate_rows[dtype] = <Loop> accumulate_rows_of_integers_loop[Integer]
    engine.accumulate_segment[dtype] = <Loop> accumulate_segment_of_integers_loop[Integer]
    engine.merge[dtype] = <Loop> merge_integers_loop[Integer]
    engine.round_sums[dtype] = <Loop> cut_sums_loop[Integer]


engine.run = run
engine.workspace_bytes = workspace_bytes
engine.walk = walk
engine.run_tiles = run_tiles
engine.add_to_sums = add_tile
fill(FLOAT32, <float *> NULL)
fill(FLOAT64, <double *> NULL)
fill(INT32, <int32_t *> NULL)
fill(INT64, <int64_t *> NULL)
fill_sums(FLOAT32, <float *> NULL)
fill_sums(FLOAT64, <double *> NULL)
fill_sums_of_integers(INT32, <int32_t *> NULL)
fill_sums_of_integers(INT64, <int64_t *> NULL)

cdef bytes _name = capsule_name()  # which the capsule does not keep
kernels = PyCapsule_New(&engine, _name, NULL)
