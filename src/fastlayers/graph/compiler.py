"""Chains of steps as loops that LLVM compiles while the program runs, where llvmlite is installed.

A pass calls a loop for each step, which leaves in the caches what the next one reads. Steps of
which IEEE 754 or a comparison says every bit can be one loop, in which what is between them stays
in the processor's registers: a *chain*. It computes what its steps compute, each rounded by itself,
and raises the floating-point exceptions that they raise. What NumPy's own loops make of zeros and
NaN is asked of them before: an operation that does otherwise is left to them.

A pass has its chains compiled once it has taken as long as that takes, by a thread that nobody
waits for; until then, and if that fails, it runs its steps one by one.
"""

from __future__ import annotations

import atexit
import ctypes
import itertools
import os
import struct
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from .. import config, core

CompiledLoop: Any = getattr(core.operations, "CompiledLoop", None)
UfuncLoops: Any = getattr(core.operations, "UfuncLoops", None)
NAMES = {} if core.operations is None else {n: x for x, n in core.operations.NUMBERS.items()}

# How long it takes to compile a step, until it is known of this process: functions of 10 to 80
# steps took 8 to 60 ms, the first ones, for which operations are held to NumPy's loops, twice as
# long (AMD EPYC of the Milan family, llvmlite 0.47).
SECONDS_A_STEP = 3e-3

# The most that a chain reads and writes, as any step.
MOST_OPERANDS = getattr(core.operations, "STEP_OPERANDS", 0)


# ------------------------------------------------------------------------------- what is compiled


class Writer:
    """LLVM's instructions for several elements at once, as text.

    Those that may raise floating-point exceptions are the constrained ones: nothing is computed
    that is not asked for, nor left out, whatever the rounding mode is.
    """

    def __init__(self, letter: str, lanes: int) -> None:
        self.element, self.integer = ("float", "i32") if letter == "f" else ("double", "i64")
        self.infinity = 0x7F800000 if letter == "f" else 0x7FF0000000000000  # its bits
        self.most = 0x7FFFFFFF if letter == "f" else 0x7FFFFFFFFFFFFFFF  # all but the sign
        self.lanes = lanes
        self.type, self.bools = self.of(self.element), self.of("i1")
        self.suffix = ("" if lanes == 1 else f"v{lanes}") + ("f32" if letter == "f" else "f64")
        self.lines: list[str] = []
        self.declared: set[str] = set()

    def of(self, element: str) -> str:
        return element if self.lanes == 1 else f"<{self.lanes} x {element}>"

    def put(self, text: str) -> str:
        """Write what computes a value; return its name."""
        name = f"%{self.element[0]}{self.lanes}.{len(self.lines)}"
        self.lines.append(f"  {name} = {text}")
        return name

    def call(self, name: str, values: Sequence[str], *metadata: str, made: str = "") -> str:
        if metadata:
            name = f"experimental.constrained.{name}"
        name, made = f"@llvm.{name}.{self.suffix}", made or self.type
        types = [self.type] * len(values) + ["metadata"] * len(metadata)
        self.declared.add(f"declare {made} {name}({', '.join(types)})")
        given = [f"{self.type} {value}" for value in values]
        given += [f'metadata !"{text}"' for text in metadata]
        return self.put(f"call {made} {name}({', '.join(given)}) #0")

    def rounded(self, name: str, *values: str) -> str:
        return self.call(name, values, "round.dynamic", "fpexcept.strict")

    def compare(self, how: str, x: str, y: str) -> str:
        """Without an exception for NaN, as NumPy compares."""
        return self.call("fcmp", (x, y), how, "fpexcept.strict", made=self.bools)

    def choose(self, condition: str, x: str, y: str) -> str:
        return self.put(f"select {self.bools} {condition}, {self.type} {x}, {self.type} {y}")

    def number(self, value: float) -> str:
        return self.constant(self.element, f"0x{struct.pack('>d', value).hex()}")

    def constant(self, element: str, text: str) -> str:
        if self.lanes == 1:
            return text
        return f"<{', '.join([f'{element} {text}'] * self.lanes)}>"

    def bits(self, how: str, x: str, limit: int, absolute: bool = False) -> str:
        """A comparison of the bits of a float as an integer's."""
        integers = self.of(self.integer)
        found = self.put(f"bitcast {self.type} {x} to {integers}")
        if absolute:
            positive = self.constant(self.integer, str(self.most))
            found = self.put(f"and {integers} {found}, {positive}")
        limits = self.constant(self.integer, str(limit))
        return self.put(f"icmp {how} {integers} {found}, {limits}")


Write = Callable[..., str]


class Exact(NamedTuple):
    """An operation that can be part of a chain.

    Attributes
    ----------
    reads, makes : str
        A letter for each value: "x" for floats, "?" for bools.
    ways : tuple of callable
        To compute it; the first one is taken that gives NumPy's bits.
    """

    reads: str
    makes: str
    ways: tuple[Write, ...]


def _row(reads: str, makes: str, *ways: Write) -> Exact:
    return Exact(reads, makes, ways)


def _rounded(name: str) -> Write:
    return lambda w, *values: w.rounded(name, *values)


def _exact(name: str) -> Write:
    return lambda w, x: w.call(name, (x,), "fpexcept.strict")


def _compared(how: str) -> Write:
    return lambda w, x, y: w.compare(how, x, y)


def _of_bools(how: str) -> Write:
    return lambda w, x, y: w.put(f"{how} {w.bools} {x}, {y}")


def _not(w: Writer, x: str) -> str:
    return w.put(f"xor {w.bools} {x}, {w.constant('i1', 'true')}")


def _unless_nan(w: Writer, x: str, other: str) -> str:
    return w.choose(w.compare("uno", x, x), x, other)


def _extremum(how: str) -> Write:
    """Of zeros of different signs the second; NaN if there is one."""
    return lambda w, x, y: _unless_nan(w, x, w.choose(w.compare(how, x, y), x, y))


def _clip(w: Writer, x: str, low: str, high: str) -> str:
    least = _unless_nan(w, x, w.choose(w.compare("ule", x, low), low, x))
    return _unless_nan(w, least, w.choose(w.compare("uge", least, high), high, least))


def _sign(of_zero: Callable[[Writer, str], str]) -> Write:
    def write(w: Writer, x: str) -> str:
        zero = w.number(0.0)
        found = w.choose(w.compare("olt", x, zero), w.number(-1.0), x)
        found = w.choose(w.compare("oeq", x, zero), of_zero(w, x), found)
        return w.choose(w.compare("ogt", x, zero), w.number(1.0), found)

    return write


ROUNDED = {"multiply": "fmul", "add": "fadd", "subtract": "fsub", "divide": "fdiv"}
COMPARED = {"less": "olt", "less_equal": "ole", "greater": "ogt", "greater_equal": "oge"}
COMPARED |= {"equal": "oeq", "not_equal": "une"}
OF_BOOLS = {f"{kind}_{how}": how for kind in ("logical", "bitwise") for how in ("and", "or", "xor")}

# By the names of NumPy's functions.
EXACT: dict[str, Exact] = {
    **{name: _row("xx", "x", _rounded(how)) for name, how in ROUNDED.items()},
    **{name: _row("xx", "?", _compared(how)) for name, how in COMPARED.items()},
    **{name: _row("??", "?", _of_bools(how)) for name, how in OF_BOOLS.items()},
    **{name: _row("x", "x", _exact(name)) for name in ("floor", "ceil", "trunc")},
    **{name: _row("x", "x", lambda w, x: w.call("fabs", (x,))) for name in ("absolute", "fabs")},
    **{name: _row("?", "?", _not) for name in ("logical_not", "invert")},
    "rint": _row("x", "x", _rounded("rint")),
    "sqrt": _row("x", "x", _rounded("sqrt")),
    "square": _row("x", "x", lambda w, x: w.rounded("fmul", x, x)),
    "reciprocal": _row("x", "x", lambda w, x: w.rounded("fdiv", w.number(1.0), x)),
    "negative": _row("x", "x", lambda w, x: w.put(f"fneg {w.type} {x}")),
    "copysign": _row("xx", "x", lambda w, x, y: w.call("copysign", (x, y))),
    "sign": _row("x", "x", _sign(lambda w, x: w.number(0.0)), _sign(lambda w, x: x)),
    "maximum": _row("xx", "x", _extremum("ogt")),
    "minimum": _row("xx", "x", _extremum("olt")),
    "clip": _row("xxx", "x", _clip),
    "isnan": _row("x", "?", lambda w, x: w.compare("uno", x, x)),
    "isinf": _row("x", "?", lambda w, x: w.bits("eq", x, w.infinity, absolute=True)),
    "isfinite": _row("x", "?", lambda w, x: w.bits("slt", x, w.infinity, absolute=True)),
    "signbit": _row("x", "?", lambda w, x: w.bits("slt", x, 0)),
    "select": _row("?xx", "x", lambda w, c, x, y: w.choose(c, x, y)),
    "from_bool": _row("?", "x", lambda w, c: w.choose(c, w.number(1.0), w.number(0.0))),
}

# What is right, where it is no function of NumPy's by that name.
RIGHT: dict[str, Any] = {"select": np.where, "from_bool": lambda bools: bools.astype(float)}

# These take several times as long as a sum.
DEAR = {"divide", "sqrt", "reciprocal"}

# What the engine's compounds are made of: an operation and its operands, which are those of the
# compound, then what was computed before; and which of these the compound writes.
SUM_OF_PRODUCTS = ("multiply", 0, 1), ("multiply", 2, 3)
COMPOUNDS: dict[str, tuple[Sequence[tuple[str, int, int]], Sequence[int]]] = {
    "multiply_backward": ([("multiply", 0, 2), ("multiply", 0, 1)], (3, 4)),
    "add_products": ([*SUM_OF_PRODUCTS, ("add", 4, 5)], (6,)),
    "subtract_products": ([*SUM_OF_PRODUCTS, ("subtract", 4, 5)], (6,)),
    "multiply_add": ([("multiply", 0, 1), ("add", 3, 2)], (4,)),
    "multiply_subtract": ([("multiply", 0, 1), ("subtract", 3, 2)], (4,)),
    "subtract_product": ([("multiply", 0, 1), ("subtract", 2, 3)], (4,)),
    "product_backward": ([("multiply", 0, 1), ("multiply", 4, 3), ("multiply", 4, 2)], (5, 6)),
    "add_products_backward": (
        [*SUM_OF_PRODUCTS, ("add", 6, 7), ("multiply", 8, 5), ("multiply", 8, 4)],
        (9, 10),
    ),
}


class Chain(NamedTuple):
    """Operations on numbered values: those that are read come first, then what is computed.

    Attributes
    ----------
    letter : str
        Of the dtype: "f" or "d".
    reads : str
        A letter for each value that is read: "x" for floats, "n" for one number, "?" for bools.
    steps : tuple
        Operations with the numbers of their operands.
    writes : tuple of int
        The values that are stored.
    """

    letter: str
    reads: str
    steps: tuple[tuple[str, tuple[int, ...]], ...]
    writes: tuple[int, ...]

    def kinds(self) -> list[str]:
        return [*self.reads.replace("n", "x"), *(EXACT[name].makes for name, _ in self.steps)]

    def depends(self) -> list[list[int]]:
        """For each value that is stored, which of those that are read it depends on."""
        found = [{i} for i in range(len(self.reads))]
        for _, operands in self.steps:
            found.append(set().union(*(found[i] for i in operands)))
        return [sorted(found[i]) for i in self.writes]

    def weight(self) -> int:
        """As of a step of the engine's, which reads and writes slots."""
        dear = sum(name in DEAR for name, _ in self.steps)
        return len(self.reads) + len(self.writes) + len(self.steps) // 2 + 5 * dear


def _text_of(
    chain: Chain, name: str, lanes: int, ways: Mapping[str, Write]
) -> tuple[str, set[str]]:
    """A function for a chain, called as NumPy's inner loops are; what it needs declared."""
    size = 4 if chain.letter == "f" else 8
    count, kinds = len(chain.reads), chain.kinds()
    stored = list(chain.writes)
    operands = [*((kind, i) for i, kind in enumerate(chain.reads))]
    operands += [(kinds[i], count + j) for j, i in enumerate(stored)]
    head = [
        f"define void {name}(ptr %data, ptr %count, ptr %strides, ptr %unused) #0 {{",
        "start:",
        "  %n = load i64, ptr %count",
        f"  %last = sub i64 %n, {lanes}",
        "  %wide.0 = icmp sge i64 %last, 0",
    ]
    element = "float" if chain.letter == "f" else "double"
    tests = 0
    for kind, i in operands:
        head += [
            f"  %at{i} = getelementptr ptr, ptr %data, i64 {i}",
            f"  %p{i} = load ptr, ptr %at{i}",
        ]
        if kind == "n":
            head.append(f"  %n{i} = load {element}, ptr %p{i}")
            continue
        head += [
            f"  %sat{i} = getelementptr i64, ptr %strides, i64 {i}",
            f"  %s{i} = load i64, ptr %sat{i}",
        ]
        if kind == "x":
            head += [
                f"  %is{i} = icmp eq i64 %s{i}, {size}",
                f"  %wide.{tests + 1} = and i1 %wide.{tests}, %is{i}",
            ]
            tests += 1
    head.append(f"  br i1 %wide.{tests}, label %begin, label %test")

    def body(w: Writer, index: str, numbers: Mapping[int, str]) -> list[str]:
        def address(kind: str, i: int) -> str:
            if w.lanes > 1:
                return w.put(
                    f"getelementptr {'i8' if kind == '?' else element}, ptr %p{i}, i64 {index}"
                )
            offset = w.put(f"mul i64 {index}, %s{i}")
            return w.put(f"getelementptr i8, ptr %p{i}, i64 {offset}")

        values = []
        for i, kind in enumerate(chain.reads):
            if kind == "n":
                values.append(numbers[i])
            elif kind == "x":
                values.append(w.put(f"load {w.type}, ptr {address(kind, i)}, align {size}"))
            else:
                one = w.put(f"load {w.of('i8')}, ptr {address(kind, i)}, align 1")
                values.append(w.put(f"icmp ne {w.of('i8')} {one}, {w.constant('i8', '0')}"))
        for operation, its_operands in chain.steps:
            values.append(ways[operation](w, *(values[i] for i in its_operands)))
        for j, i in enumerate(stored):
            where, one = address(kinds[i], count + j), values[i]
            if kinds[i] == "x":
                w.lines.append(f"  store {w.type} {one}, ptr {where}, align {size}")
            else:
                one = w.put(f"zext {w.bools} {one} to {w.of('i8')}")
                w.lines.append(f"  store {w.of('i8')} {one}, ptr {where}, align 1")
        return w.lines

    singles = [i for i, kind in enumerate(chain.reads) if kind == "n"]
    wide, one = Writer(chain.letter, lanes), Writer(chain.letter, 1)
    spread = []
    for i in singles:
        spread += [
            f"  %l{i} = insertelement {wide.type} poison, {element} %n{i}, i32 0",
            f"  %v{i} = shufflevector {wide.type} %l{i}, {wide.type} poison, "
            f"<{lanes} x i32> zeroinitializer",
        ]
    # The last vector overlaps the one before: it computes some elements once more.
    text = [
        *head,
        "begin:",
        *spread,
        "  br label %vectors",
        "vectors:",
        "  %i = phi i64 [0, %begin], [%next, %vectors]",
        *body(wide, "%i", {i: f"%v{i}" for i in singles}),
        f"  %ahead = add i64 %i, {lanes}",
        "  %fits = icmp slt i64 %ahead, %last",
        "  %next = select i1 %fits, i64 %ahead, i64 %last",
        "  %done = icmp eq i64 %i, %last",
        "  br i1 %done, label %end, label %vectors",
        "test:",
        "  %some = icmp sgt i64 %n, 0",
        "  br i1 %some, label %elements, label %end",
        "elements:",
        "  %j = phi i64 [0, %test], [%after, %elements]",
        *body(one, "%j", {i: f"%n{i}" for i in singles}),
        "  %after = add i64 %j, 1",
        "  %more = icmp slt i64 %after, %n",
        "  br i1 %more, label %elements, label %end",
        "end:",
        "  ret void",
        "}",
    ]
    return "\n".join(text), wide.declared | one.declared


# ------------------------------------------------------------------------------------ the compiler


class Compiler:
    """LLVM for the processor at hand, and the loops that it has made.

    Raises
    ------
    ImportError
        If llvmlite is not installed, or of a kind that is not known.
    OSError
        If the system lets no new code be run.
    """

    def __init__(self) -> None:
        import llvmlite.binding as llvm  # takes 50 ms

        self._llvm = llvm
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        llvm.check_jit_execution()
        triple = llvm.get_process_triple()
        if not triple.startswith("x86_64"):  # LLVM ends a process for which it has no instruction
            raise OSError(f"on {triple} nothing is compiled: it has not been tried")
        features = llvm.get_host_cpu_features()
        self._target = llvm.Target.from_triple(triple), features.flatten()
        width = 64 if features.get("avx512f") else 32 if features.get("avx") else 16  # bytes
        self._lanes = {"f": width // 4, "d": width // 8}
        self._ways: dict[tuple[str, str], Write | None] = {}
        self._loops: Any = weakref.WeakValueDictionary()

    def loops(self, chains: Sequence[Chain]) -> list[Any]:
        """The loops of chains, compiled together if there are none."""
        found = {one: self._loops.get(one) for one in chains}
        missing = [one for one, loop in found.items() if loop is None]
        ways = {name: self.way(name, one.letter) for one in missing for name, _ in one.steps}
        if missing:
            found.update(zip(missing, self._compile([(c, ways) for c in missing]), strict=True))
        self._loops.update(found)
        return [found[one] for one in chains]

    def _compile(self, chains: Sequence[tuple[Chain, Mapping[str, Any]]]) -> list[Any]:
        parts, declared = [], set()
        for number, (chain, ways) in enumerate(chains):
            text, its = _text_of(chain, f"@chain{number}", self._lanes[chain.letter], ways)
            parts.append(text)
            declared |= its
        parts += [*sorted(declared), "attributes #0 = { strictfp nounwind }"]
        llvm, (triple, features) = self._llvm, self._target
        module = llvm.parse_assembly("\n".join(parts))
        module.verify()
        machine = triple.create_target_machine(
            cpu=llvm.get_host_cpu_name(), features=features, opt=2, jit=True
        )
        engine = llvm.create_mcjit_compiler(module, machine)
        engine.finalize_object()
        return [
            CompiledLoop(
                engine.get_function_address(f"chain{number}"),
                chain.letter,
                self._lanes[chain.letter],
                len(chain.reads),
                chain.depends(),
                [j for j, i in enumerate(chain.writes) if chain.kinds()[i] == "?"],
                chain.weight(),
                engine,
            )
            for number, (chain, _) in enumerate(chains)
        ]

    def way(self, name: str, letter: str) -> Write | None:
        """The way to compute an operation that gives NumPy's bits, or None."""
        key = name, letter
        if key not in self._ways:
            self._ways[key] = self._find_way(name, letter)
        return self._ways[key]

    def _find_way(self, name: str, letter: str) -> Write | None:
        row, function = EXACT[name], RIGHT.get(name) or getattr(np, name)
        count = len(row.reads)
        chain = Chain(letter, row.reads, ((name, tuple(range(count))),), (count,))
        loops = self._compile([(chain, {name: way}) for way in row.ways])
        every = np.array(SPECIAL, letter)
        given = [*itertools.product(*[(0, 1) if kind == "?" else every for kind in row.reads])]
        operands = [
            np.array(column, "?" if kind == "?" else letter)
            for column, kind in zip(zip(*given, strict=True), row.reads, strict=True)
        ]
        with np.errstate(all="ignore"):
            right = np.asarray(function(*operands), "?" if row.makes == "?" else letter)
            if not _is_consistent(function, operands, right):
                return None
        for loop, way in zip(loops, row.ways, strict=True):
            found = np.empty_like(right)
            _run(loop.address, [*operands, found])
            if _bits(found) == _bits(right):
                return way
        return None


def _is_consistent(function: Any, operands: Sequence[np.ndarray], right: np.ndarray) -> bool:
    """Whether NumPy makes the same of an element wherever it is, and of numbers."""
    for start, step in (0, 1), (1, 2), (2, 7), (3, 400):
        parts = [one[start::step] for one in operands]
        if _bits(np.asarray(function(*parts), right.dtype)) != _bits(right[start::step]):
            return False
    for i, one in enumerate(operands if len(operands) > 1 else ()):
        for j in np.unique(one, return_index=True)[1]:
            same = one.view(f"u{one.itemsize}") == one[j : j + 1].view(f"u{one.itemsize}")
            parts = [one[j] if k == i else other[same] for k, other in enumerate(operands)]
            if _bits(np.asarray(function(*parts), right.dtype)) != _bits(right[same]):
                return False
    return True


# What operations must make the same of: zeros, NaN, limits, what is rounded up and down, ties.
SPECIAL = [
    *(0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 1.5, 2.5, -2.5, 3.3, -0.1, 8388609.0, 4503599627370497.5),
    *(np.inf, -np.inf, np.nan, -np.nan, 1e-40, -1e-310, 1e-30, 3e38, -1.7e38),
]


def _bits(array: np.ndarray) -> bytes:
    """Those of all elements; NaN counts as one value."""
    return (array if array.dtype == bool else np.where(array != array, np.nan, array)).tobytes()


def _run(address: int, arrays: Sequence[np.ndarray]) -> None:
    """Run a loop on arrays of one axis."""
    pointer = ctypes.c_void_p
    function = ctypes.CFUNCTYPE(None, pointer, pointer, pointer, pointer)(address)
    data = (pointer * len(arrays))(*[one.ctypes.data for one in arrays])
    count = ctypes.c_ssize_t(arrays[0].size)
    strides = (ctypes.c_ssize_t * len(arrays))(*[one.itemsize for one in arrays])
    function(data, ctypes.byref(count), strides, None)


# ---------------------------------------------------------------------------- from steps to chains

Steps = Sequence[tuple[Any, ...]]
Basic = tuple[str, tuple[Any, ...], Any]  # an operation, the names that it reads, what it writes


def _basic(step: tuple[Any, ...]) -> list[Basic] | None:
    """What a step of a pass is made of, if all of it can be part of a chain."""
    code, *names = step
    if isinstance(code, UfuncLoops):
        ufunc = code.ufunc
        known = ufunc is getattr(getattr(np, "_core").umath, code.name, None)  # noqa: B009
        if not known or code.name not in EXACT:
            return None
        return [(code.name, tuple(names[:-1]), names[-1])]
    name = NAMES.get(code) if isinstance(code, int) else None
    if name in EXACT:
        return [(name, tuple(names[:-1]), names[-1])]
    if name not in COMPOUNDS:
        return None
    parts, writes = COMPOUNDS[name]
    count = len(names) - len(writes)
    values: list[Any] = names[:count]
    written = dict(zip(writes, names[count:], strict=True))
    found: list[Basic] = []
    for operation, *operands in parts:
        # What stays within the step is named by who writes it.
        one = written.get(len(values), (names[-1], len(values)))
        found.append((operation, tuple(values[i] for i in operands), one))
        values.append(one)
    return found


def _chain_of(
    basics: Sequence[Basic], letter: str, singles: Iterable[Any], bools: set[Any], wanted: set[Any]
) -> tuple[Chain, list[Any]]:
    """A chain of operations, and the names of what it reads and writes."""
    written = {one for _, _, one in basics}
    reads = [
        name
        for name in dict.fromkeys(n for _, names, _ in basics for n in names)
        if name not in written
    ]
    number = {name: i for i, name in enumerate(reads)}
    steps: dict[Any, int] = {}
    for operation, names, one in basics:
        key = operation, tuple(number[name] for name in names)
        number[one] = steps.setdefault(key, len(reads) + len(steps))
    writes = [one for _, _, one in basics if one in wanted]
    kinds = "".join(
        "n" if not isinstance(name, str) or name in singles else "?" if name in bools else "x"
        for name in reads
    )
    chain = Chain(letter, kinds, tuple(steps), tuple(number[name] for name in writes))
    return chain, [*reads, *writes]


def rewritten(fused: Any, letter: str, compiler: Compiler) -> list[Any] | None:
    """The steps of a pass with chains of them as one, compiled; None if there are none."""
    layouts = fused.layouts or {}
    whole = core.operations.LAYOUTS["whole"] if layouts else None
    bools: set[Any] = set()
    basics: list[list[Basic] | None] = []
    for code, *names in fused.steps:
        if isinstance(code, UfuncLoops) and code.makes_bools:
            bools.add(names[-1])
        basics.append(_basic((code, *names)))
    for i, found in enumerate(basics):
        if found and not _is_served(found, letter, compiler, bools):
            basics[i] = None
        elif found and layouts and layouts.get(found[-1][2]) != whole:
            basics[i] = None  # for each row
    steps: list[Any] = []
    chains: list[tuple[int, Chain]] = []
    results = set(fused.names)
    for group in _groups(fused.steps, basics, fused.inputs, results):
        if len(group) == 1:
            steps.append(fused.steps[group[0]])
            continue
        flat = [basic for i in group for basic in basics[i] or ()]
        inside = set(group)
        outside = {n for i, step in enumerate(fused.steps) if i not in inside for n in step[1:]}
        chain, names = _chain_of(flat, letter, fused.singles, bools, results | outside)
        chains.append((len(steps), chain))
        steps.append((chain, *names))
    if not chains:
        return None
    for (i, _), loop in zip(chains, compiler.loops([one for _, one in chains]), strict=True):
        steps[i] = (loop, *steps[i][1:])
    return steps


def _is_served(basics: Sequence[Basic], letter: str, compiler: Compiler, bools: set[Any]) -> bool:
    for name, reads, _ in basics:
        kinds = "".join("?" if one in bools else "x" for one in reads)
        if EXACT[name].reads != kinds or compiler.way(name, letter) is None:
            return False
    return True


def _groups(
    steps: Steps, basics: Sequence[Any], inputs: Sequence[str], results: set[Any]
) -> list[list[int]]:
    """The steps in an order in which as many as possible that can be chained are one group."""
    first: dict[Any, int] = {}  # the step that a value is first in, which computes it
    for i, step in enumerate(steps):
        for name in step[1:]:
            if isinstance(name, str) and name not in inputs:
                first.setdefault(name, i)
    needs = [
        {first[name] for name in step[1:] if name in first} - {i} for i, step in enumerate(steps)
    ]
    done: set[int] = set()
    pending = list(range(len(steps)))
    groups = []
    while pending:
        group: list[int] = []
        for i in pending:
            if basics[i] is not None and needs[i] <= done.union(group):
                group.append(i)
        while len(group) > 1 and _operands(steps, group, first, results) > MOST_OPERANDS:
            group.pop()
        if group:
            groups.append(group)
        else:
            waits = False
            for i in pending:
                # Sums of all elements are told apart by their order.
                total = isinstance(steps[i][0], tuple)
                if basics[i] is None and needs[i] <= done.union(group) and not (total and waits):
                    group.append(i)
                elif total:
                    waits = True
            groups += [[i] for i in group]
        done.update(group)
        pending = [i for i in pending if i not in done]
    return groups


def _operands(
    steps: Steps, group: Sequence[int], first: Mapping[Any, int], results: set[Any]
) -> int:
    """How many values a group reads and writes."""
    inside = set(group)
    others = {name for i, step in enumerate(steps) if i not in inside for name in step[1:]}
    return sum(
        first.get(name, -1) not in inside or name in others or name in results
        for name in {name for i in group for name in steps[i][1:]}
    )


# ------------------------------------------------------------------------------- when, and by whom


class Info(NamedTuple):
    """What became of compiling.

    Attributes
    ----------
    passes : int
        For how many there are compiled loops.
    reason : str or None
        Why nothing is compiled, if so.
    """

    passes: int
    reason: str | None


_info = Info(0, None)
_compiler: Compiler | None = None
_compiling = threading.RLock()  # held while LLVM is at work
_pending: deque[tuple[Any, str]] = deque()
_worker: threading.Thread | None = None
_hiring = threading.RLock()  # held while that is changed; the collector may call graphs meanwhile
_ended = False  # with the process
_seconds = [0.0, 0]  # that compiling took, and of how many steps


def info() -> Info:
    return _info


def compile_now(fused: Any, letter: str) -> None:
    """Compile what a pass computes of a dtype."""
    global _compiler, _info
    with _compiling:
        if _ended:
            return
        if _compiler is None:
            _compiler = Compiler()
        start = time.perf_counter()
        steps = rewritten(fused, letter, _compiler)
        if steps is None:
            return
        fused.take_compiled(letter, steps)
        _seconds[0] += time.perf_counter() - start
        _seconds[1] += len(fused.steps)
        core.passes.set_compile_seconds(_seconds[0] / _seconds[1])
        _info = _info._replace(passes=_info.passes + 1)


def compile_later(fused: Any, letter: str) -> None:
    """The same by a thread that nobody waits for."""
    global _worker
    _pending.append((fused, letter))
    with _hiring:
        if _worker is None and not _ended:
            _worker = threading.Thread(target=_work, name="fastlayers compiler", daemon=True)
            try:
                _worker.start()
            except RuntimeError as error:  # as in a subinterpreter, or where there are too many
                _worker = None
                _give_up(error)


def _work() -> None:
    global _worker
    while True:
        with _hiring:
            if not _pending or _ended:
                _worker = None
                return
            fused, letter = _pending.popleft()
        try:
            compile_now(fused, letter)
        except Exception as error:  # without its loops a pass computes the same
            _give_up(error)


def _give_up(error: Exception) -> None:
    global _info
    _info = _info._replace(reason=f"{type(error).__name__}: {error}")
    core.passes.set_compiler(None)
    with _hiring:
        _pending.clear()


# LLVM is neither at work while the process forks, nor as it ends.


def _end() -> None:
    global _ended
    with _compiling:
        _ended = True


def _begin_child() -> None:
    global _worker, _hiring
    _compiling.release()
    _hiring, _worker = threading.RLock(), None


def _start() -> None:
    global _compiler
    atexit.register(_end)
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(
            before=_compiling.acquire,
            after_in_parent=_compiling.release,
            after_in_child=_begin_child,
        )
    core.passes.set_compile_seconds(SECONDS_A_STEP)
    if config.compile_mode == "1":
        core.passes.set_compiler(compile_later)
        return
    try:
        _compiler = Compiler()
    except (ImportError, OSError) as error:
        raise ImportError(
            f"FASTLAYERS_COMPILE=always, but nothing can be compiled: {error}. To have what that "
            "takes, pip install 'fastlayers[compile]'; to do without, unset FASTLAYERS_COMPILE."
        ) from error
    core.passes.set_compiler(compile_now, True)


if core.passes is not None and config.compile_mode != "0":
    _start()
