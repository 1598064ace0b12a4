"""Builtins that look like functions of Python: with the signature and the docstring of one."""

cdef extern from "Python.h":
    ctypedef void (*PyCFunction)()
    ctypedef struct PyMethodDef:
        const char *ml_name
        PyCFunction ml_meth
        int ml_flags
        const char *ml_doc


cdef inline bytes documentation(object function):
    """What `inspect` and `help` read of a builtin: a signature without types, and a docstring."""
    from inspect import Signature, signature
    plain = [one.replace(annotation=one.empty) for one in signature(function).parameters.values()]
    parameters = str(Signature(plain)).replace("(self", "($self", 1)
    return f"{function.__name__}{parameters}\n--\n\n{function.__doc__ or ''}".encode()
