"""The modes and flags of the floating-point unit, as the fenv_t of the GNU C library holds them."""

from __future__ import annotations

import ctypes
import platform
from contextlib import contextmanager


class X86(ctypes.Structure):
    _fields_ = (
        ("x87", ctypes.c_uint32 * 7),
        # MXCSR
        ("flags", ctypes.c_uint32, 6),
        ("modes", ctypes.c_uint32, 26),
    )


class ARM(ctypes.Structure):
    _fields_ = (("modes", ctypes.c_uint32), ("flags", ctypes.c_uint32))  # FPCR and FPSR


class S390(ctypes.Structure):
    _fields_ = (
        # FPC
        ("masks", ctypes.c_uint8),
        ("flags", ctypes.c_uint8),
        ("code", ctypes.c_uint8),
        ("modes", ctypes.c_uint8),
        ("unused", ctypes.c_void_p),
    )


# The structure, all flags, and the modes by name: rounding, and what becomes of subnormals.
# Source: the registers' description in Intel's Software Developer's Manual (MXCSR), Arm's
# Architecture Reference Manual (FPCR) and IBM's Principles of Operation (FPC).
MACHINES = {
    "x86_64": (
        X86,
        0x3F,
        {
            "to nearest": 0x07E,
            "down": 0x0FE,
            "up": 0x17E,
            "to zero": 0x1FE,
            "subnormal results flushed": 0x27E,
            "subnormals taken for zeros": 0x07F,
            "both, and up": 0x37F,
        },
    ),
    "aarch64": (
        ARM,
        0x9F,
        {
            "to nearest": 0,
            "down": 2 << 22,
            "up": 1 << 22,
            "to zero": 3 << 22,
            "subnormals flushed": 4 << 22,
            "subnormals flushed, and up": 5 << 22,
        },
    ),
    "s390x": (S390, 0xF8, {"to nearest": 0, "down": 3, "up": 2, "to zero": 1}),
}

try:
    C = ctypes.CDLL("libm.so.6")
except OSError:
    MACHINES.clear()  # another C library keeps them elsewhere

Environment, FLAGS, MODES = MACHINES.get(platform.machine(), (None, 0, {}))


def current():
    environment = Environment()
    assert C.fegetenv(ctypes.byref(environment)) == 0
    return environment


def current_modes():
    return current().modes


@contextmanager
def setting(name):
    """Set the modes of this thread, with all flags up."""
    before, environment = current(), current()
    environment.modes, environment.flags = MODES[name], FLAGS
    C.fesetenv(ctypes.byref(environment))
    try:
        yield
    finally:
        C.fesetenv(ctypes.byref(before))
