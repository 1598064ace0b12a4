"""The recycler as NumPy has it, for tests to call without the GIL.

NumPy holds the GIL where it makes and frees arrays; ctypes lets go of it for every call. Only so
can two threads be in the recycler at once where there is a GIL.
"""

from __future__ import annotations

import ctypes

from fastlayers._core import memory

pointer, size = ctypes.c_void_p, ctypes.c_size_t


class Handler(ctypes.Structure):
    """NumPy's PyDataMem_Handler (NEP 49)."""

    _fields_ = [
        ("name", ctypes.c_char * 127),
        ("version", ctypes.c_uint8),
        ("context", pointer),
        ("malloc", ctypes.CFUNCTYPE(pointer, pointer, size)),
        ("calloc", ctypes.CFUNCTYPE(pointer, pointer, size, size)),
        ("realloc", ctypes.CFUNCTYPE(pointer, pointer, pointer, size)),
        ("free", ctypes.CFUNCTYPE(None, pointer, pointer, size)),
    ]


get_pointer = ctypes.pythonapi.PyCapsule_GetPointer
get_pointer.argtypes, get_pointer.restype = [ctypes.py_object, ctypes.c_char_p], pointer
recycler = Handler.from_address(get_pointer(memory.recycling_handler(), b"mem_handler"))
