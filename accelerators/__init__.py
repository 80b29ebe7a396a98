"""The library compiled by the real compilers of TPUs and GPUs, on a machine that has neither."""

import os

# Read by JAX and the compilers when they are imported.
os.environ |= {
    "JAX_PLATFORMS": "cpu",  # nothing may look for the hardware
    "JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # a compiler takes no chip, so two may run
}
