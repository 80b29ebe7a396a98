"""`python -m benchmarks`: this library beside PyTorch and flax.nnx, interleaved in one run."""
