"""`python -m benchmarks`: this library beside its peers on CPUs, interleaved in one run."""
