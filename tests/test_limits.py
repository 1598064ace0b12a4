"""What the process may use of its machine, and what the machine is: as other systems tell it."""

from __future__ import annotations

import os
import platform
import sys

import pytest

from fastlayers import config, limits

CGROUPS = "/sys/fs/cgroup"
GIB = 1 << 30
V1 = "12:cpu,cpuacct:/docker/1a2b\n7:memory:/docker/1a2b\n1:name=systemd:/docker/1a2b\n0::/\n"


@pytest.fixture
def machine(monkeypatch):
    """A machine of 8 CPUs and 64 GiB; the text of its files is to be filled in."""
    files = {}
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    monkeypatch.setattr(limits, "_physical_memory", lambda: 64 * GIB)
    monkeypatch.setattr(limits, "_lines", lambda path: files.get(path, "").splitlines())
    if sys.platform != "win32":
        import resource

        no_limit = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
        monkeypatch.setattr(resource, "getrlimit", lambda what: no_limit)
    return files


@pytest.mark.parametrize(
    ("groups", "files", "cpus"),
    [
        ("", {}, 8),
        ("0::/\n", {"cpu.max": "max 100000"}, 8),
        ("0::/\n", {"cpu.max": "250000 100000"}, 2),
        ("0::/\n", {"cpu.max": "50000 100000"}, 1),
        ("0::/\n", {"cpu.max": "1600000 100000"}, 8),
        ("0::/a/b/c\n", {"a/b/c/cpu.max": "max 100000", "a/b/cpu.max": "500000 100000"}, 5),
        ("0::/a/b\n", {"a/b/cpu.max": "600000 100000", "a/cpu.max": "400000 100000"}, 4),
        ("0::/a/b\n", {"a/b/cpu.max": "400000 100000", "cpu.max": "150000 50000"}, 3),
        ("0::/of:the:host\n", {"of:the:host/cpu.max": "200000 100000"}, 2),
        ("0::/of/the/host\n", {"cpu.max": "200000 100000"}, 2),
        ("0::/app\n", {"another/cpu.max": "100000 100000"}, 8),
        (V1, {"cpu,cpuacct/docker/1a2b/cpu.cfs_quota_us": "-1"}, 8),
        (V1, {"cpu,cpuacct/docker/1a2b/cpu.cfs_quota_us": "350000"}, 3),
        (V1, {"cpu,cpuacct/cpu.cfs_quota_us": "200000"}, 2),
        (V1, {"memory/docker/1a2b/cpu.cfs_quota_us": "100000"}, 8),
    ],
)
def test_cpu_quota(machine, groups, files, cpus):
    machine["/proc/self/cgroup"] = groups
    for name, text in files.items():
        machine[f"{CGROUPS}/{name}"] = text
        if name.endswith("cpu.cfs_quota_us"):
            machine[f"{CGROUPS}/{name}".replace("quota", "period")] = "100000"
    assert limits.cpu_quota() == cpus


def test_affinity(machine, monkeypatch):
    machine["/proc/self/cgroup"] = "0::/\n"
    machine[f"{CGROUPS}/cpu.max"] = "400000 100000\n"
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 5}, raising=False)
    assert limits.cpu_quota() == 2
    monkeypatch.delattr(os, "sched_getaffinity")  # as on macOS and Windows
    for count, quota in ((6, 4), (None, 1)):
        monkeypatch.setattr(os, "cpu_count", lambda count=count: count)
        assert limits.cpu_quota() == quota


@pytest.mark.parametrize(
    ("groups", "files", "memory"),
    [
        ("", {}, 64 * GIB),
        ("0::/\n", {"memory.max": "max", "memory.high": "max"}, 64 * GIB),
        ("0::/\n", {"memory.max": str(4 * GIB), "memory.high": str(3 * GIB)}, 3 * GIB),
        ("0::/\n", {"memory.max": str(128 * GIB)}, 64 * GIB),
        ("0::/a/b\n", {"a/b/memory.max": "max", "a/memory.max": str(GIB)}, GIB),
        (V1, {"memory/docker/1a2b/memory.limit_in_bytes": "9223372036854771712"}, 64 * GIB),
        (V1, {"memory/memory.limit_in_bytes": str(GIB)}, GIB),
        (V1, {"cpu,cpuacct/docker/1a2b/memory.limit_in_bytes": "1"}, 64 * GIB),
    ],
)
def test_memory(machine, groups, files, memory):
    machine["/proc/self/cgroup"] = groups
    machine |= {f"{CGROUPS}/{name}": text for name, text in files.items()}
    assert limits.memory_bytes() == memory
    assert config._default_cache_limit() == min(memory // 8, GIB)


def test_memory_that_the_shell_limits(machine, monkeypatch):
    resource = pytest.importorskip("resource")
    monkeypatch.setattr(resource, "getrlimit", lambda what: (2 * GIB, 4 * GIB))
    assert limits.memory_bytes() == 2 * GIB


def test_limits_where_there_are_no_files(monkeypatch):
    # As in a process that may not read them, and on other systems.
    machine = limits.cpu_quota(), limits.memory_bytes()
    monkeypatch.setattr(limits, "CGROUPS", "/no/such/folder")
    assert limits.cpu_quota() >= machine[0]
    assert limits.memory_bytes() >= machine[1]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("processor\t: 0\nmodel name\t: Z80", "Z80"),
        (
            "cpu family\t: 25\nmodel name\t: AMD EPYC\nstepping\t: 1",
            "AMD EPYC (cpu family 25, stepping 1)",
        ),
        ("model name\t: first\n\nmodel name\t: second", "first"),
        (
            "CPU implementer\t: 0x41\nCPU part\t: 0xd0c",
            "aarch64 (CPU implementer 0x41, CPU part 0xd0c)",
        ),
        ("", "aarch64"),
    ],
)
def test_name_of_the_processor(machine, monkeypatch, text, name):
    machine["/proc/cpuinfo"] = text
    monkeypatch.setattr(platform, "processor", lambda: "")
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert limits.cpu_name() == name
