"""The compiled part: kernels, the functions that call them, and recycled memory."""

from . import simd

simd.use_preferred()
