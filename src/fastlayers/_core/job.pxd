"""What the dispatcher hands to a kernel module: one elementwise pass over strided operands."""

ctypedef int Operation
cdef enum:
    MULTIPLY           # x, y -> out
    ADD                # x, y -> out
    MULTIPLY_BACKWARD  # dout, x, y -> dx, dy
    ADD_BACKWARD       # dout, one -> dx, dy

ctypedef int DType
cdef enum:
    FLOAT32
    FLOAT64
    INT32
    INT64
    DTYPES             # how many there are
    UNSERVED = -1

cdef enum:
    MAX_OPERANDS = 5
    MAX_DIMS = 8

# A result that is summed over the axes along which its strides are 0. Until the end it is kept as
# two doubles an element, the sum and what rounding took from it; the job's data and strides for
# that operand are those of the sums.
cdef struct Sum:
    bint wanted
    char *result                # where it goes in the end, in the job's dtype, contiguous
    Py_ssize_t count            # elements
    Py_ssize_t errors           # bytes from a sum to its error
    Py_ssize_t next_chunk       # bytes from a chunk's sums to the next one's; 0: chunks share them

cdef struct Job:
    Operation operation
    DType dtype
    int inputs
    int operands                # how many the operation has: inputs, then outputs
    Py_ssize_t item             # bytes of an element
    int ndim                    # at least 1; the last axis is the innermost
    int team                    # OpenMP's threads for it; always as many, or 1
    int threads                 # how many of them get a share of the work
    bint streaming              # whether results bypass the caches
    bint blocked                # whether an input lies across the last two axes: go by blocks
    Py_ssize_t size             # the product of the shape
    Py_ssize_t shape[MAX_DIMS]
    int chunks                  # 0, or where results are summed, how many parts that is done in
    int cut_axis                # the axis that these are cut from
    Sum sums[2]                 # one a result, where chunks is not 0
    char *data[MAX_OPERANDS]
    Py_ssize_t strides[MAX_DIMS][MAX_OPERANDS]  # in bytes; 0 repeats an element

# The name of a kernel module's capsule. Modules of two builds must not meet: the layout is in it.
cdef inline bytes capsule_name():
    return f"fastlayers._core.kernels of jobs of {sizeof(Job)} bytes".encode()

# Runs a job; returns the floating-point exceptions that it raised, as fpstatus.h numbers them.
ctypedef int (*Run)(const Job *job) noexcept nogil
