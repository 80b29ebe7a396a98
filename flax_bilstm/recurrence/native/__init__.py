"""The LSTM for CPUs in C++: one call per layer and pass, for all directions and steps.

The library is compiled when flax_bilstm is installed, if there is a C++ compiler; everything else
works without it. Reading order: library.py loads it, primitives.py makes its four calls primitives
of JAX, layer.py is the implementation `native`; kernels.h says what the calls compute.
"""
