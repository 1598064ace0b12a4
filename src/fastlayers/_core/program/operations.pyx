"""The table of operations: the program of each, and that of its gradients.

Written by the import, under its lock. To add an operation, add a row to each table, and a kernel
with its loop in engine/.
"""

from libc.string cimport memset

from .program cimport (
    ADD, ADD_PRODUCTS, ADD_PRODUCTS_BACKWARD, COPY_TWICE, DTYPES, MAX_INPUTS, MAX_RESULTS,
    MAX_STEPS, MAX_TEMPORARIES, MULTIPLY, MULTIPLY_ADD, MULTIPLY_BACKWARD, MULTIPLY_SUBTRACT,
    NEGATIVE, OPERATIONS, PRODUCT_BACKWARD, SUBTRACT, SUBTRACT_PRODUCT, SUBTRACT_PRODUCTS, Engine,
    Program, Step,
)

# What each operation reads and writes, and for each value it writes, what that depends on.
READS = {
    MULTIPLY: (("x", "y"), {"out": ("x", "y")}),
    ADD: (("x", "y"), {"out": ("x", "y")}),
    SUBTRACT: (("x", "y"), {"out": ("x", "y")}),
    NEGATIVE: (("x",), {"out": ("x",)}),
    MULTIPLY_BACKWARD: (("dout", "x", "y"), {"dx": ("dout", "y"), "dy": ("dout", "x")}),
    COPY_TWICE: (("dout", "one"), {"dx": ("dout", "one"), "dy": ("dout", "one")}),
    ADD_PRODUCTS: (("a", "b", "c", "d"), {"out": ("a", "b", "c", "d")}),
    SUBTRACT_PRODUCTS: (("a", "b", "c", "d"), {"out": ("a", "b", "c", "d")}),
    MULTIPLY_ADD: (("x", "y", "z"), {"out": ("x", "y", "z")}),
    MULTIPLY_SUBTRACT: (("x", "y", "z"), {"out": ("x", "y", "z")}),
    SUBTRACT_PRODUCT: (("x", "y", "z"), {"out": ("x", "y", "z")}),
    PRODUCT_BACKWARD: (
        ("a", "b", "x", "y"), {"dx": ("a", "b", "y"), "dy": ("a", "b", "x")}),
    ADD_PRODUCTS_BACKWARD: (
        ("a", "b", "c", "d", "x", "y"),
        {"dx": ("a", "b", "c", "d", "y"), "dy": ("a", "b", "c", "d", "x")}),
}

# By the names that graphs have for them.
NUMBERS = {
    "multiply": MULTIPLY,
    "add": ADD,
    "subtract": SUBTRACT,
    "negative": NEGATIVE,
    "multiply_backward": MULTIPLY_BACKWARD,
    "add_products": ADD_PRODUCTS,
    "subtract_products": SUBTRACT_PRODUCTS,
    "multiply_add": MULTIPLY_ADD,
    "multiply_subtract": MULTIPLY_SUBTRACT,
    "subtract_product": SUBTRACT_PRODUCT,
    "product_backward": PRODUCT_BACKWARD,
    "add_products_backward": ADD_PRODUCTS_BACKWARD,
}

# The gradients, by the chain rule: inputs, results, steps. A number is a constant.
GRADIENTS = {
    MULTIPLY: (
        ("dout", "x", "y"), ("dx", "dy"), [(MULTIPLY_BACKWARD, "dout", "x", "y", "dx", "dy")]),
    ADD: (("dout",), ("dx", "dy"), [(COPY_TWICE, "dout", 1, "dx", "dy")]),
    SUBTRACT: (
        ("dout",), ("dx", "dy"), [(MULTIPLY, "dout", 1, "dx"), (MULTIPLY, "dout", -1, "dy")]),
    NEGATIVE: (("dout",), ("dx",), [(MULTIPLY, "dout", -1, "dx")]),
}


cdef int assemble(Program *program, tuple inputs, tuple results, list steps) except -1:
    """Make a program of steps: each is an operation, then the names of what it reads and writes.

    A number that is read is a constant. A name that is neither an input nor a result is a
    temporary.
    """
    cdef Step *step
    cdef int i, j
    memset(program, 0, sizeof(program[0]))
    read = [name for operation, *names in steps for name in names[:len(READS[operation][0])]]
    constants = list(dict.fromkeys(name for name in read if not isinstance(name, str)))
    names = [*inputs, *constants, *results]
    slot = {name: number for number, name in enumerate(names)}
    temporaries = place_temporaries(slot, steps)
    if (
        len(inputs) + len(constants) > MAX_INPUTS or len(results) > MAX_RESULTS
        or temporaries > MAX_TEMPORARIES or len(steps) > MAX_STEPS
    ):
        raise ValueError("the program is too long for one pass")
    program.inputs = len(inputs)
    program.constants = len(constants)
    program.results = len(results)
    program.temporaries = temporaries
    program.step_count = len(steps)
    program.weight = sum([len(its_names) for _, *its_names in steps])
    for i, value in enumerate(constants):
        program.constant[i] = value
    sources = {name: 1 << number for number, name in enumerate(inputs)}
    for i, (operation, *its_names) in enumerate(steps):
        reads, writes = READS[operation]
        step = &program.steps[i]
        step.operation = operation
        step.slot_count = len(its_names)
        for j, name in enumerate(its_names):
            step.slots[j] = slot[name]
        given = dict(zip(reads, its_names))
        for name, its_sources in zip(its_names[len(reads):], writes.values()):
            sources[name] = 0
            for source in its_sources:
                sources[name] |= sources.get(given[source], 0)
    for i, name in enumerate(results):
        program.read_by[i] = sources[name]
    program.direct = len(steps) == 1 and list(its_names) == names
    return 0


cdef int place_temporaries(dict slot, list steps) except -1:
    """Give each temporary a slot after those of ``slot``, which is free again after its last use.

    Return how many there are. No step writes where it reads: a loop over one and the same memory
    would not be a vector loop.
    """
    operands = len(slot)
    last = {name: number for number, step in enumerate(steps) for name in step[1:]}
    free = []
    count = 0
    for number, step in enumerate(steps):
        for name in step[1:]:
            if name not in slot:
                if not free:
                    free.append(operands + count)
                    count += 1
                slot[name] = free.pop()
        free += [
            slot[name] for name in set(step[1:]) if last[name] == number and slot[name] >= operands]
    return count


cdef const Engine *_engine = NULL


cdef void find_dtypes(const Engine *engine) noexcept:
    """Note in the tables' programs which dtypes an engine has loops for."""
    global _engine
    cdef int operation
    for operation in range(OPERATIONS):
        forward[operation].dtypes = dtypes_of(&forward[operation], engine)
        backward[operation].dtypes = dtypes_of(&backward[operation], engine)
    identity.dtypes = dtypes_of(&identity, engine)
    _engine = engine


cdef void find_dtypes_of(Program *program) noexcept:
    """The same for another program."""
    program.dtypes = dtypes_of(program, _engine)


cdef unsigned int dtypes_of(const Program *program, const Engine *engine) noexcept:
    cdef unsigned int dtypes = (1 << DTYPES) - 1 if program.step_count else 0
    cdef int i, dtype
    for dtype in range(DTYPES):
        for i in range(program.step_count):
            if engine.loops[program.steps[i].operation][dtype] == NULL:
                dtypes &= ~(<unsigned int> 1 << dtype)
    return dtypes


for _operation, (_reads, _writes) in READS.items():
    assemble(
        &forward[<int> _operation], _reads, tuple(_writes), [(_operation, *_reads, *_writes)])
for _operation, (_inputs, _results, _steps) in GRADIENTS.items():
    assemble(&backward[<int> _operation], _inputs, _results, _steps)
assemble(&identity, ("dout",), ("dx",), [(MULTIPLY, "dout", 1, "dx")])
