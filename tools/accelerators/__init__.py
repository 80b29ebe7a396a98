"""The library compiled by the real compilers of TPUs and GPUs, on a machine that has neither."""
