"""Compiles the library with the compilers of TPUs and GPUs, on a machine without either."""
