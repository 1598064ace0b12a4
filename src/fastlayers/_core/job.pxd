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

cdef struct Job:
    Operation operation
    DType dtype
    int inputs
    int operands                # how many the operation has: inputs, then outputs
    Py_ssize_t item             # bytes of an element
    int ndim                    # at least 1; the last axis is the innermost
    Py_ssize_t size             # the product of the shape
    Py_ssize_t shape[MAX_DIMS]
    char *data[MAX_OPERANDS]
    Py_ssize_t strides[MAX_DIMS][MAX_OPERANDS]  # in bytes; 0 repeats an element

# Runs a job; returns the floating-point exceptions that it raised, as fpstatus.h numbers them.
ctypedef int (*Run)(const Job *job) noexcept nogil
