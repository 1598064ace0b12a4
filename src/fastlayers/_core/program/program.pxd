"""What a call asks of the engine, as data: a program, and the memory that it runs over.

A program is a list of steps over slots. A slot is an input (an array, or a number that is used at
every element), a constant, a result, or a temporary, which never leaves the caches. The engine runs
a program over rows of elements: a single step straight on the operands, several steps tile by tile.
For each result the job says what happens to its tile: it is stored, streamed past the caches, or
summed.
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
    # As MULTIPLY_BACKWARD, with the step that computes its gradient.
    PRODUCT_BACKWARD       # a, b, x, y -> (a * b) * y, (a * b) * x
    ADD_PRODUCTS_BACKWARD  # a, b, c, d, x, y -> (a * b + c * d) * y, (a * b + c * d) * x
    # With bools, of one byte.
    SELECT             # condition, x, y -> out
    FROM_BOOL          # condition -> out, 1 or 0
    OPERATIONS         # how many there are
    FOREIGN = OPERATIONS    # a ufunc's loop
    COMPILED                # a loop that was compiled while the program runs

ctypedef int DType
cdef enum:
    FLOAT32
    FLOAT64
    INT32
    INT64
    DTYPES             # their number
    UNSERVED = -1

cdef enum:
    MAX_DIMS = 8
    MAX_INPUTS = 31         # a bit for each fits an int
    MAX_RESULTS = 16
    MAX_OPERANDS = 48       # inputs, constants and results
    MAX_TEMPORARIES = 32
    MAX_SLOTS = 80
    MAX_STEPS = 128
    STEP_SLOTS = 32         # the most that a step reads and writes: a bit for each fits an int
    MAX_SHARES = 64         # of a job that works in place
    MAX_TOTALS = 4
    MAX_SUBTREES = 64       # of what a total adds up
    # Bytes of tiles that a thread has on its stack, which may have 128 KiB in all: musl's default.
    # They are enough for a dozen steps with 14 buffers, of temporaries and of results that go
    # through one.
    STACK_BYTES = 1 << 15

# What a step of a pass over whole rows does: one that works element by element does so for all
# elements of several rows, or for one element of each.
cdef enum Form:
    ELEMENTWISE
    FROM_ZERO       # x -> out: each row is reduced by a ufunc's loop that begins with 0,
    FROM_FIRST      # ... or with the row's first element, for the largest or the smallest one
    ROW_SUM         # x -> out: the sum of each row, as a gradient is summed
    EXPAND          # x -> out: an element for each row, at every element of the row
    TOTAL           # x -> a sum of all elements, as NumPy adds those of an array

# How an operand of a pass over whole rows lies: all of it is contiguous.
cdef enum Layout:
    WHOLE
    BY_ROW          # an element for each row: with a last axis of length 1,
    DROPPED         # ... or of results without that axis
    REPEATED        # a row for all of them

# A loop over n elements for one operation and dtype, called like NumPy's inner loops: what NumPy's
# are given with them comes last.
ctypedef void (*Loop)(
    char **data, const Py_ssize_t *n, const Py_ssize_t *strides, void *its_own) noexcept nogil

# A step is one of the engine's loops, or one from elsewhere.
cdef struct Step:
    Operation operation
    int slot_count
    int slots[STEP_SLOTS]   # those it reads, then those it writes
    unsigned int bools      # a bit for each of these that has one byte; only temporaries have
    Form form
    int its_sign            # 1 of a largest element, -1 of a smallest one
    int total               # of a step that adds up all elements: its number
    unsigned int by_row     # a bit for each of the slots that has an element for each row
    bint once               # for each row, not for each element

# Who may run a ufunc's loops: a Python error is set for the thread that they run on, and found
# there alone.
cdef enum Owner:
    NUMPYS          # which set none
    SCIPYS          # which set one if scipy.special.errstate says so
    ANYBODYS        # which may, and may keep a state that no two threads should change

# Loops from elsewhere. A ufunc's are where it has them, for they may be replaced; and what they are
# given.
cdef struct Foreign:
    Loop *loops[DTYPES]
    void *its_own[DTYPES]
    int lanes               # of a compiled one: how many elements a vector has
    bint silent             # whatever flags they leave, NumPy does not warn
    Owner owner

# Slots are numbered: inputs, constants, results, temporaries.
cdef struct Program:
    int inputs
    int constants
    int results
    int temporaries
    int step_count
    int slot_count          # of all steps
    int weight              # of all steps: of the engine's, how many slots they read and write
    bint foreign            # whether there are steps of ufuncs
    Owner owner             # the strangest of these
    bint direct             # one step, whose slots are the operands in their order
    bint shaped             # all results have the shape of the inputs, be they read or not
    bint ordered            # serve C order alone: what is computed has it, whatever it is read from
    int totals              # how many steps add up all elements
    bint of_rows            # reduce rows: a pass over whole rows
    Layout layouts[MAX_OPERANDS]        # if so
    Step steps[MAX_STEPS]
    int constant[MAX_INPUTS]            # the constants' values
    unsigned int read_by[MAX_RESULTS]   # a bit for each input that the result depends on
    unsigned int dtypes                 # a bit for each dtype that all steps have a loop for
    Foreign foreigns[MAX_STEPS]
    const Program *compiled[DTYPES]     # NULL, or the same with compiled loops, of this dtype alone

# A result that is summed over the axes along which its strides are 0. Until the end, each element
# is kept as two doubles: the sum, and what rounding took from it; of integers as an int64 in
# place of the first. The job's data and strides for that operand are those of the sums. If the
# result is summed over an axis that chunks are cut from, there are several sets of sums, each for
# some of the chunks.
cdef struct Sum:
    bint wanted
    Py_ssize_t run              # how many elements in a row, in the job's order, have one sum
    char *result                # where it goes at the end, in the job's dtype, contiguous
    Py_ssize_t count            # of elements
    Py_ssize_t error_offset     # bytes from a sum to its error
    int sets
    Py_ssize_t set_stride       # bytes from a set to the next one

# A thread's part of a job, as elements in its order.
cdef struct Share:
    Py_ssize_t reached          # where it stopped
    Py_ssize_t stop             # where it ends

cdef struct Job:
    const Program *program
    const Engine *engine
    Loop loop                   # the step's, if the program is direct
    DType dtype
    int operands                # inputs, constants and results
    int first_result
    Py_ssize_t item_bytes
    int ndim                    # at least 1; the last axis is the innermost
    int team                    # OpenMP's threads for it: 1, or always the same number
    int threads                 # how many of them get a share of the work
    bint streaming              # whether results bypass the caches
    bint blocked                # go by blocks: an input lies across the last two axes
    bint grouped                # rows are short: a tile has several of them
    bint single_row             # all operands but numbers are contiguous, one row of elements
    char *workspace             # for each thread of the team; NULL: on their stacks
    Py_ssize_t workspace_bytes  # of one thread
    unsigned int in_place       # a bit for each result that lies where an input does
    int heeded                  # if in place: the exceptions before which a share stops
    Share *shares               # if in place: what became of each share
    Py_ssize_t columns          # 0, or of a pass over whole rows how long they are
    Py_ssize_t size             # the product of the shape
    Py_ssize_t shape[MAX_DIMS]
    int subtrees                # 0, or if all elements are added up, in how many parts
    int subtree                 # of a part: which it is
    double (*totals)[MAX_SUBTREES]      # of each total, for each subtree
    int chunks                  # 0, or if results are summed, in how many parts
    int chunk_groups            # in how many groups; one thread runs a group, in order
    Py_ssize_t chunk_unit       # a part is a multiple of so many elements
    char *data[MAX_OPERANDS]
    Py_ssize_t strides[MAX_DIMS][MAX_OPERANDS]  # in bytes; 0 repeats an element
    Sum sums[MAX_RESULTS]       # if chunks is not 0

# What a kernel module offers, for one instruction set. A missing loop is NULL.
cdef struct Engine:
    # Runs a job; returns the floating-point exceptions that it raised, as flags of fpstatus.h.
    int (*run)(const Job *job) noexcept nogil
    # How much memory a thread needs beside the operands, to run a job tile by tile.
    Py_ssize_t (*workspace_bytes)(const Job *job) noexcept nogil
    # Parts of it that stay functions: inlined, they would come several times, and a call that needs
    # no tiles would use a stack of 32 KiB.
    Py_ssize_t (*walk)(
        const Job *job, int thread, Py_ssize_t start, Py_ssize_t stop) noexcept nogil
    Py_ssize_t (*run_tiles)(
        const Job *job, void *tiles, char **data, Py_ssize_t n, bint streaming) noexcept nogil
    void (*add_to_sums)(
        const Job *job, void *tiles, int slot, char *values, Py_ssize_t n, char *sums
    ) noexcept nogil
    Loop loops[OPERATIONS][DTYPES]
    # From an operand that is not contiguous to a tile, and back.
    Loop copy[DTYPES]
    # For sums of values of a dtype: add a row to as many sums; add n[0] values, which are rows of
    # n[1], to as many sums as a row has; add a segment to one sum; add other sums; round.
    Loop accumulate[DTYPES]
    Loop accumulate_rows[DTYPES]
    Loop accumulate_segment[DTYPES]
    Loop merge[DTYPES]
    Loop round_sums[DTYPES]

# The name of a kernel module's capsule. It names the layouts: modules of two builds must not mix.
cdef inline bytes capsule_name():
    return f"fastlayers engine: {sizeof(Engine)}, {sizeof(Job)}, {sizeof(Program)} bytes".encode()
