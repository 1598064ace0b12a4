"""How much of the machine this process may use: containers often get less than all of it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

CGROUPS = "/sys/fs/cgroup"


def cpu_quota() -> int:
    """Return how many CPUs the process may keep busy, by its affinity and its container."""
    try:
        cpus = len(os.sched_getaffinity(0))  # not on macOS and Windows
    except AttributeError:
        cpus = os.cpu_count() or 1
    for group in _cgroups("cpu"):
        words = _words(group, "cpu.max") or [
            *_words(group, "cpu.cfs_quota_us"),
            *_words(group, "cpu.cfs_period_us"),
        ]
        if len(words) == 2 and words[0].isdecimal():  # not "max", not -1: no quota
            cpus = min(cpus, int(words[0]) // int(words[1]))
    return max(cpus, 1)


def memory_bytes() -> int:
    """Return how many bytes of memory the process may use, of the machine's or the container's."""
    limits = [_physical_memory()]
    for group in _cgroups("memory"):
        for name in ("memory.max", "memory.high", "memory.limit_in_bytes"):
            limits += [int(word) for word in _words(group, name) if word.isdecimal()]
    if sys.platform != "win32":
        import resource

        limit, _ = resource.getrlimit(resource.RLIMIT_AS)
        if limit != resource.RLIM_INFINITY:
            limits.append(limit)
    return min(limits)


# From /proc/cpuinfo: a name such as "AMD EPYC" is not specific, and on ARM there is no name.
CPU_NUMBERS = ("cpu family", "model", "stepping", "CPU implementer", "CPU part")


def cpu_name() -> str:
    """Name the processor, as far as the operating system tells."""
    told: dict[str, str] = {}
    for line in _lines("/proc/cpuinfo"):
        name, _, value = line.partition(":")
        told.setdefault(name.strip(), value.strip())  # of the first processor
    name = told.get("model name", "")
    if not name:
        import platform  # rarely needed, and slow to import

        name = platform.processor() or platform.machine()
    numbers = [f"{number} {told[number]}" for number in CPU_NUMBERS if number in told]
    return f"{name} ({', '.join(numbers)})" if numbers else name


def _physical_memory() -> int:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # Windows
        return 4 << 30  # nearly every machine has this much


def _cgroups(controller: str) -> Iterator[str]:
    """Yield the control groups that limit the process, and their parents (v1 and v2)."""
    for line in _lines("/proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            root = CGROUPS
        elif controller in controllers.split(","):
            root = f"{CGROUPS}/{controllers}"
        else:
            continue
        # Inside a container the path may be the host's and not exist; the root always exists.
        parts = path.strip("/").split("/")
        for depth in range(len(parts), 0, -1):
            yield "/".join([root, *parts[:depth]])
        yield root


def _words(group: str, name: str) -> list[str]:
    return [word for line in _lines(f"{group}/{name}") for word in line.split()]


def _lines(path: str) -> list[str]:
    try:
        with open(path, encoding="utf-8") as file:  # noqa: PTH123, importing pathlib takes 3 ms
            return file.read().splitlines()
    except OSError:
        return []
