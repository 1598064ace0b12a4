"""The table of operations: the program of each, and that of its gradients.

Written by the import, under its lock. To add an operation, add a row to each table, and a kernel
with its loop in engine/.
"""

cimport numpy  # no-cython-lint: the header below needs its own before it
from libc.string cimport memset

from .program cimport (
    ADD, ADD_PRODUCTS, ADD_PRODUCTS_BACKWARD, ANYBODYS, BY_ROW, COMPILED, COPY_TWICE, DROPPED,
    DTYPES, ELEMENTWISE, EXPAND, FLOAT32, FLOAT64, FOREIGN, FROM_BOOL, FROM_FIRST, FROM_ZERO,
    MAX_INPUTS, MAX_RESULTS, MAX_STEPS, MAX_TEMPORARIES, MAX_TOTALS, MULTIPLY, MULTIPLY_ADD,
    MULTIPLY_BACKWARD, MULTIPLY_SUBTRACT, NEGATIVE, NUMPYS, OPERATIONS, PRODUCT_BACKWARD, REPEATED,
    ROW_SUM, SCIPYS, SELECT, STEP_SLOTS, SUBTRACT, SUBTRACT_PRODUCT, SUBTRACT_PRODUCTS, TOTAL,
    WHOLE, DType, Engine, Foreign, Form, Layout, Loop, Owner, Program, Step,
)

import numpy as np

cdef extern from "numpy/ufuncobject.h":
    ctypedef struct UFunc "PyUFuncObject":
        int nin
        int nout
        int nargs
        void **functions
        void **data
        int ntypes

# What each operation reads and writes, and for each value it writes, what that depends on.
READS = {
    MULTIPLY: (("x", "y"), {"out": ("x", "y")}),
    ADD: (("x", "y"), {"out": ("x", "y")}),
    SUBTRACT: (("x", "y"), {"out": ("x", "y")}),
    NEGATIVE: (("x",), {"out": ("x",)}),
    SELECT: (("condition", "x", "y"), {"out": ("condition", "x", "y")}),
    FROM_BOOL: (("condition",), {"out": ("condition",)}),
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
    "select": SELECT,
    "from_bool": FROM_BOOL,
    "multiply_backward": MULTIPLY_BACKWARD,
    "add_products": ADD_PRODUCTS,
    "subtract_products": SUBTRACT_PRODUCTS,
    "multiply_add": MULTIPLY_ADD,
    "multiply_subtract": MULTIPLY_SUBTRACT,
    "subtract_product": SUBTRACT_PRODUCT,
    "product_backward": PRODUCT_BACKWARD,
    "add_products_backward": ADD_PRODUCTS_BACKWARD,
}

# Steps of passes over whole rows, by the names that graphs have for them: reductions by a ufunc's
# loops, and those of the engine's own.
REDUCING = {"add": FROM_ZERO, "maximum": FROM_FIRST, "minimum": FROM_FIRST}
OF_ROWS = {"row_sum": ROW_SUM, "expand": EXPAND}
TOTAL_FORM = TOTAL
LENGTH_OF_ROWS = COLUMNS  # as a number that is read
LAYOUTS = {"whole": WHOLE, "by_row": BY_ROW, "dropped": DROPPED, "repeated": REPEATED}

# The gradients, by the chain rule: inputs, results, steps. A number is a constant.
GRADIENTS = {
    MULTIPLY: (
        ("dout", "x", "y"), ("dx", "dy"), [(MULTIPLY_BACKWARD, "dout", "x", "y", "dx", "dy")]),
    ADD: (("dout",), ("dx", "dy"), [(COPY_TWICE, "dout", 1, "dx", "dy")]),
    SUBTRACT: (
        ("dout",), ("dx", "dy"), [(MULTIPLY, "dout", 1, "dx"), (MULTIPLY, "dout", -1, "dy")]),
    NEGATIVE: (("dout",), ("dx",), [(MULTIPLY, "dout", -1, "dx")]),
}


# Functions that NumPy does not look at the flags after, or whose loops clear them at their end.
# What they leave there would be a warning that NumPy does not give.
SILENT = {
    "absolute", "fabs", "positive", "sign", "signbit", "copysign", "isnan", "isinf", "isfinite",
    "maximum", "minimum", "fmax", "fmin", "logical_and", "logical_or", "logical_not", "logical_xor",
    "less", "less_equal", "greater", "greater_equal", "equal", "not_equal", "bitwise_and",
    "bitwise_or", "bitwise_xor", "invert",
}


OWNERS = {"numpy": NUMPYS, "scipy": SCIPYS, "anybody": ANYBODYS}


cdef class UfuncLoops:
    """NumPy's inner loops of a ufunc, for operands of one dtype, or bools.

    Parameters
    ----------
    ufunc : numpy.ufunc
        With one output.
    kinds : str
        A letter for each operand: "x" for an array, "?" for bools, "n" for a Python number.
    weight : int
        How much work an element is; a slot of the engine's own steps is 1.
    owner : str
        Whose it is: "numpy", "scipy" or "anybody".

    Attributes
    ----------
    makes_bools : bool

    Raises
    ------
    LookupError
        If there are none for float32 and float64 that need no Python, and that NumPy would take.
    """

    cdef Foreign foreign
    cdef readonly int reads
    cdef readonly int weight
    cdef readonly bint makes_bools
    cdef readonly str name
    cdef readonly object ufunc      # which has the loops

    def __init__(self, object ufunc, str kinds, int weight, str owner):
        cdef UFunc *struct = <UFunc *> ufunc
        cdef int row
        memset(&self.foreign, 0, sizeof(self.foreign))
        self.ufunc = ufunc
        self.foreign.owner = <Owner> <int> OWNERS[owner]
        self.reads = ufunc.nin
        self.name = ufunc.__name__
        self.weight = weight
        self.foreign.silent = ufunc is getattr(np, ufunc.__name__, None) and (
            ufunc.__name__ in SILENT)
        types = ufunc.types
        if struct.nargs > STEP_SLOTS:
            raise LookupError(f"{ufunc.__name__}: it has too many operands for a step")
        if struct.ntypes != len(types) or struct.nin != len(kinds) or struct.nout != 1:
            raise LookupError(f"{ufunc.__name__}: its loops are not where they are looked for")
        found = set()
        for dtype, letter, numpys in ((FLOAT32, "f", np.float32), (FLOAT64, "d", np.float64)):
            given = "".join("?" if kind == "?" else letter for kind in kinds)
            rows = [i for i, one in enumerate(types) if one.startswith(f"{given}->")]
            if not rows:
                continue
            row = rows[0]
            made = np.dtype(types[row].partition("->")[2])
            operands = [np.dtype(bool if kind == "?" else numpys) for kind in kinds]
            for number in (int, float) if "n" in kinds else (None,):
                weak = [number if kind == "n" else one for kind, one in zip(kinds, operands)]
                if ufunc.resolve_dtypes((*weak, None)) != (*operands, made):
                    raise LookupError(f"{ufunc.__name__}: NumPy takes other loops for {given}")
            if made not in (np.dtype(bool), np.dtype(numpys)):
                raise LookupError(f"{ufunc.__name__}: of {given} it makes {made}")
            found.add(made == np.dtype(bool))
            self.foreign.loops[<int> dtype] = <Loop *> &struct.functions[row]
            self.foreign.its_own[<int> dtype] = struct.data[row] if struct.data != NULL else NULL
            if struct.functions[row] == NULL:
                raise LookupError(f"{ufunc.__name__}: no loop for {given}")
        if not found:
            raise LookupError(f"{ufunc.__name__}: no loop for one dtype")
        if len(found) > 1:
            raise LookupError(f"{ufunc.__name__}: of one dtype it makes bools, of another none")
        self.makes_bools = True in found


# The most that a step reads and writes.
STEP_OPERANDS = <int> STEP_SLOTS

# By the letters that NumPy has for them.
FLOATS = {"f": FLOAT32, "d": FLOAT64}


cdef class CompiledLoop:
    """A loop that was compiled while the program runs, for one dtype.

    Parameters
    ----------
    address : int
        Of the machine code.
    dtype : str
        "f" or "d".
    lanes : int
        How many elements it computes at once; of an end that is shorter it computes some twice.
    reads : int
        How many operands it reads; it writes one for each of ``depends``.
    depends : sequence of sequence of int
        Which of the operands that it reads what it writes depends on.
    bools : sequence of int
        Which of what it writes are bools.
    weight : int
        As that of `UfuncLoops`.
    code : object
        What must stay as long as the loop is called.
    """

    cdef Loop loop
    cdef Foreign foreign
    cdef readonly int reads
    cdef readonly int weight
    cdef readonly tuple depends
    cdef readonly tuple bools
    cdef readonly size_t address
    cdef readonly object code
    cdef object __weakref__

    def __init__(
        self, size_t address, str dtype, int lanes, int reads, depends, bools, int weight, code,
    ):
        memset(&self.foreign, 0, sizeof(self.foreign))
        self.loop = <Loop> address
        self.foreign.loops[<int> FLOATS[dtype]] = &self.loop
        self.foreign.lanes = lanes
        self.reads = reads
        self.depends = tuple(depends)
        self.bools = tuple(bools)
        self.weight = weight
        self.address = address
        self.code = code


cdef int assemble(
    Program *program, tuple inputs, tuple results, list steps, dict layouts=None,
    tuple numbers=None,
) except -1:
    """Make a program of steps: each is an operation, or the loops of a ufunc, or a compiled one,
    then the names of what it reads and writes.

    A number that is read is a constant; ``numbers`` has them in their order, if that is given. A
    name that is neither an input nor a result is a temporary. In a pass over whole rows ``layouts``
    has those of all names but the numbers', and an operation may be a pair: loops and the form in
    which they reduce rows.
    """
    cdef Step *step
    cdef int i, j
    cdef Form form
    memset(program, 0, sizeof(program[0]))
    read = [name for operation, *names in steps for name in names[:count_reads(operation)]]
    constants = [*dict.fromkeys(name for name in read if not isinstance(name, str))]
    constants = constants if numbers is None else [*numbers]
    names = [*inputs, *constants, *results]
    slot = {name: number for number, name in enumerate(names)}
    temporaries = place_temporaries(slot, steps)
    if (
        len(inputs) + len(constants) > MAX_INPUTS or len(results) > MAX_RESULTS
        or temporaries > MAX_TEMPORARIES or len(steps) > MAX_STEPS
        or sum([type(one[0]) is tuple and one[0][1] == TOTAL for one in steps]) > MAX_TOTALS
    ):
        raise ValueError("the program is too long for one pass")
    program.inputs = len(inputs)
    program.constants = len(constants)
    program.results = len(results)
    program.temporaries = temporaries
    program.step_count = len(steps)
    program.weight = sum([
        one.weight if isinstance(one, (UfuncLoops, CompiledLoop)) else len(its_names)
        for one, *its_names in steps])
    program.of_rows = layouts is not None
    layouts = layouts or {}
    for i, name in enumerate(names):
        program.layouts[i] = <Layout> <int> layouts.get(name, WHOLE)
    for i, value in enumerate(constants):
        program.constant[i] = value
    bools = set()
    sources = {name: 1 << number for number, name in enumerate(inputs)}
    for i, (operation, *its_names) in enumerate(steps):
        step = &program.steps[i]
        step.slot_count = len(its_names)
        program.slot_count += step.slot_count
        form = ELEMENTWISE
        if isinstance(operation, tuple):
            operation, form = operation[0], <Form> <int> operation[1]
            step.its_sign = 1 if (<UfuncLoops> operation).name == "maximum" else -1
        elif operation in OF_ROWS:
            form = <Form> <int> OF_ROWS[operation]
            operation = NEGATIVE  # which reads and writes as many, and has loops for floats
        step.form = form
        if form == TOTAL:  # it writes to no slot
            step.slot_count = 1
            step.total = program.totals
            program.totals += 1
        step.once = form == ELEMENTWISE and (
            layouts.get(its_names[len(its_names) - 1]) in (BY_ROW, DROPPED))
        if isinstance(operation, UfuncLoops) and operation.makes_bools:
            bools.update(its_names[operation.reads:])
        if isinstance(operation, CompiledLoop):
            bools.update([its_names[operation.reads + j] for j in operation.bools])
        for j, name in enumerate(its_names):
            step.slots[j] = slot[name]
            if name in bools:
                step.bools |= <unsigned int> 1 << j
            if layouts.get(name) in (BY_ROW, DROPPED):
                step.by_row |= <unsigned int> 1 << j
        if isinstance(operation, UfuncLoops):
            step.operation = FOREIGN
            program.foreign = True
            program.foreigns[i] = (<UfuncLoops> operation).foreign
            program.owner = max(program.owner, program.foreigns[i].owner)
            *reads, out = its_names if form != TOTAL else (*its_names, "")
            sources[out] = 0
            for name in reads:
                sources[out] |= sources.get(name, 0)
            continue
        if isinstance(operation, CompiledLoop):
            step.operation = COMPILED
            program.foreigns[i] = (<CompiledLoop> operation).foreign
            for name, its_sources in zip(its_names[operation.reads:], operation.depends):
                sources[name] = 0
                for j in its_sources:
                    sources[name] |= sources.get(its_names[j], 0)
            continue
        step.operation = operation
        reads, writes = READS[operation]
        given = dict(zip(reads, its_names))
        for name, its_sources in zip(its_names[len(reads):], writes.values()):
            sources[name] = 0
            for source in its_sources:
                sources[name] |= sources.get(given[source], 0)
    if not bools.isdisjoint(results):
        raise ValueError("a result of bools")
    for i, name in enumerate(results):
        program.read_by[i] = sources[name]
    program.direct = (
        len(steps) == 1 and list(its_names) == names and step.operation < OPERATIONS)
    return 0


cdef int count_reads(object operation) except -1:
    """How many of a step's names it reads."""
    if isinstance(operation, tuple) or operation in OF_ROWS:
        return 1
    if isinstance(operation, (UfuncLoops, CompiledLoop)):
        return operation.reads
    return len(READS[operation][0])


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


cdef Loop loop_of(const Program *program, const Engine *engine, int step, DType dtype) noexcept:
    if program.steps[step].operation >= OPERATIONS:
        if program.foreigns[step].loops[dtype] == NULL:
            return NULL
        return program.foreigns[step].loops[dtype][0]
    return engine.loops[program.steps[step].operation][dtype]


cdef unsigned int dtypes_of(const Program *program, const Engine *engine) noexcept:
    cdef unsigned int dtypes = (1 << DTYPES) - 1 if program.step_count else 0
    cdef int i, dtype
    for dtype in range(DTYPES):
        for i in range(program.step_count):
            if loop_of(program, engine, i, dtype) == NULL:
                dtypes &= ~(<unsigned int> 1 << dtype)
    return dtypes


for _operation, (_reads, _writes) in READS.items():
    assemble(
        &forward[<int> _operation], _reads, tuple(_writes), [(_operation, *_reads, *_writes)])
for _operation, (_inputs, _results, _steps) in GRADIENTS.items():
    assemble(&backward[<int> _operation], _inputs, _results, _steps)
assemble(&identity, ("dout",), ("dx",), [(MULTIPLY, "dout", 1, "dx")])
