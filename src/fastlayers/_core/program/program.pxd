"""What a call asks of the engine, as data: a program, and the memory that it runs over.

A program is a list of steps over slots. A slot is an operand that was given (an array, or a number
that every element meets), a constant, a result, or a temporary, which never leaves the caches. The
engine runs a program over rows of elements: a single step straight on the operands, several steps
tile by tile. For each result the job says what becomes of its tile: it is stored, streamed past the
caches, or summed.
"""

ctypedef int Operation
cdef enum:
    MULTIPLY           # x, y -> out
    ADD                # x, y -> out
    SUBTRACT           # x, y -> out
    NEGATIVE           # x -> out
    MULTIPLY_BACKWARD  # dout, x, y -> dx, dy
    COPY_TWICE         # dout, one -> dx, dy
    # Compounds, of which each part is rounded as it is alone.
    ADD_PRODUCTS       # a, b, c, d -> a * b + c * d
    SUBTRACT_PRODUCTS  # a, b, c, d -> a * b - c * d
    MULTIPLY_ADD       # x, y, z -> x * y + z
    MULTIPLY_SUBTRACT  # x, y, z -> x * y - z
    SUBTRACT_PRODUCT   # x, y, z -> z - x * y
    OPERATIONS         # how many there are

ctypedef int DType
cdef enum:
    FLOAT32
    FLOAT64
    INT32
    INT64
    DTYPES             # how many there are
    UNSERVED = -1

cdef enum:
    MAX_DIMS = 8
    MAX_INPUTS = 16
    MAX_RESULTS = 16
    MAX_OPERANDS = 32       # inputs, constants and results
    MAX_TEMPORARIES = 16
    MAX_SLOTS = 48
    MAX_STEPS = 64
    STEP_SLOTS = 5          # the most that an operation reads and writes

cdef struct Step:
    Operation operation
    int slot_count
    int slots[STEP_SLOTS]   # what it reads, then what it writes

# Slots are numbered: inputs, constants, results, temporaries.
cdef struct Program:
    int inputs
    int constants
    int results
    int temporaries
    int step_count
    bint direct             # one step, whose slots are the operands in their order
    bint shaped             # all results have the shape of the inputs, be they read or not
    Step steps[MAX_STEPS]
    int constant[MAX_INPUTS]            # their values
    unsigned int read_by[MAX_RESULTS]   # a bit for each input that the result depends on
    unsigned int dtypes                 # a bit for each dtype that all steps have a loop for

# A loop over n elements of one operation and dtype, called as NumPy calls its inner loops.
ctypedef void (*Loop)(
    char **data, const Py_ssize_t *n, const Py_ssize_t *strides, void *unused) noexcept nogil

# A result that is summed over the axes along which its strides are 0. Until the end it is kept as
# two doubles an element, the sum and what rounding took from it; the job's data and strides for
# that operand are those of the sums. There are several sets of these, each for some of the job's
# chunks, if it is summed over the axis that those are cut from.
cdef struct Sum:
    bint wanted
    char *result                # where it goes in the end, in the job's dtype, contiguous
    Py_ssize_t count            # elements
    Py_ssize_t error_offset     # bytes from a sum to its error
    int sets
    Py_ssize_t set_stride       # bytes from a set to the next one

cdef struct Job:
    const Program *program
    const Engine *engine
    Loop loop                   # of a direct program's step
    DType dtype
    int operands                # inputs, constants and results
    int first_result
    Py_ssize_t item_bytes
    int ndim                    # at least 1; the last axis is the innermost
    int team                    # OpenMP's threads for it; always as many, or 1
    int threads                 # how many of them get a share of the work
    bint streaming              # whether results bypass the caches
    bint blocked                # whether an input lies across the last two axes: go by blocks
    Py_ssize_t size             # the product of the shape
    Py_ssize_t shape[MAX_DIMS]
    int chunks                  # 0, or where results are summed, how many parts that is done in
    int chunk_groups            # of which each is done by one thread, in order
    int cut_axis                # the axis that chunks are cut from
    char *data[MAX_OPERANDS]
    Py_ssize_t strides[MAX_DIMS][MAX_OPERANDS]  # in bytes; 0 repeats an element
    Sum sums[MAX_RESULTS]       # where chunks is not 0

# What a module of kernels offers, for one instruction set. A loop that is missing is NULL.
cdef struct Engine:
    # Runs a job; returns the floating-point exceptions that it raised, as fpstatus.h numbers them.
    int (*run)(const Job *job) noexcept nogil
    Loop loops[OPERATIONS][DTYPES]
    # For sums, of values in a dtype: a row added to as many sums; a segment added to one; rounding.
    Loop accumulate[DTYPES]
    Loop accumulate_segment[DTYPES]
    Loop round_sums[DTYPES]

# The name of a kernel module's capsule. Modules of two builds must not meet: the layouts are in it.
cdef inline bytes capsule_name():
    return f"fastlayers engine: {sizeof(Engine)}, {sizeof(Job)}, {sizeof(Program)} bytes".encode()
