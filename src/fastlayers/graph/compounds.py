"""Steps of a pass that are quicker together, or needed by nothing."""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Mapping, Sequence

from .tracing import Step


def needed(steps: Sequence[Step], results: set[int], loud: set[tuple[int, ...]]) -> list[Step]:
    """The steps that results depend on, and those that write what is loud."""
    wanted = set(results)
    kept = []
    for step in reversed(steps):
        if step.writes in loud or not wanted.isdisjoint(step.writes):
            wanted.update(step.reads)
            kept.append(step)
    return kept[::-1]


# What a sum or a difference is with products for operands: for both, the first, the second.
COMPOUNDS = {
    "add": ("add_products", "multiply_add", "multiply_add"),
    "subtract": ("subtract_products", "multiply_subtract", "subtract_product"),
}


def joined(steps: Sequence[Step], numbers: set[int], results: set[int]) -> list[Step]:
    """Steps of which several that are quicker together are one; each of them is rounded as before.

    Sums of products that nothing else reads, then products of one gradient: ``(g * y, g * x)``.
    """
    uses = Counter(place for step in steps for place in step.reads)
    products = {
        step.writes[0]: step
        for step in steps
        if step.operation == "multiply"
        and uses[step.writes[0]] == 1
        and step.writes[0] not in results
    }
    absorbed: set[int] = set()
    found = []
    for step in steps:
        if step.operation in COMPOUNDS:
            step = _compound(step, products, absorbed)
        found.append(_in_order(step, numbers))
    found = [step for step in found if step.writes[0] not in absorbed]
    return _paired(found, numbers)


def _compound(step: Step, products: Mapping[int, Step], absorbed: set[int]) -> Step:
    """A sum or difference, with the products that are its operands."""
    both, first, second = COMPOUNDS[step.operation]
    x, y = (products.get(place) for place in step.reads)
    absorbed.update(place for place in step.reads if place in products)
    if x and y:
        return Step(both, (*x.reads, *y.reads), step.writes)
    if x:
        return Step(first, (*x.reads, step.reads[1]), step.writes)
    if y:
        return Step(second, (*y.reads, step.reads[0]), step.writes)
    return step


def _in_order(step: Step, numbers: set[int]) -> Step:
    """Loops are quick where the second factor of a product is a number, not the first."""
    if step.operation == "negative":
        return step
    reads = list(step.reads)
    for i in range(0, len(reads) - 1, 2):
        swaps = i == 0 or len(reads) == 4
        if swaps and step.operation not in ("add", "subtract") and reads[i] in numbers:
            reads[i], reads[i + 1] = reads[i + 1], reads[i]
    return step._replace(reads=tuple(reads))


def _paired(steps: Sequence[Step], numbers: set[int]) -> list[Step]:
    """A product, and the next one of the same gradient with what is known already, become one."""
    known = {place for step in steps for place in step.reads}
    known -= {place for step in steps for place in step.writes}
    products: dict[int, deque[int]] = defaultdict(deque)
    for i, step in enumerate(steps):
        if step.operation == "multiply" and step.reads[0] not in numbers:
            products[step.reads[0]].append(i)
    found: list[Step] = []
    done = set()
    for i, step in enumerate(steps):
        if i in done:
            continue
        same = products[step.reads[0]] if step.operation == "multiply" else deque()
        if same and same[0] == i:
            same.popleft()
        else:
            same = deque()
        partner = next((j for j in same if known.issuperset(steps[j].reads)), None)
        if partner is not None:
            done.add(partner)
            same.remove(partner)
            g, y, x = (*step.reads, steps[partner].reads[1])
            step = Step("multiply_backward", (g, x, y), (step.writes[0], steps[partner].writes[0]))
        known.update(step.writes)
        found.append(step)
    return found
