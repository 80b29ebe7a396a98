"""The LSTM for CPUs in C++: one call a layer and pass, all of its directions and steps inside.

The library is compiled where flax_bilstm is installed, if there is a C++ compiler; everything else
works without it. Reading order: library.py loads it, primitives.py makes its three calls known to
JAX, layer.py is the implementation `native`; kernels.h says what the calls compute.
"""
