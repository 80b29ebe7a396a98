"""Devices to compile for, made from descriptions of the hardware: nothing can run on them here.

https://docs.jax.dev/en/latest/aot.html says how a program is compiled without being run.
"""

import os
from pathlib import Path

import jax
from jax.experimental.topologies import get_topology_desc

H100 = Path(__file__).with_name("h100.txtpb")  # XLA's GpuTargetConfigProto

# Read when the compilers are loaded.
ENVIRONMENT = {
    "JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # compilers use no chip, so two may run
}


def targets() -> dict[str, list[jax.Device]]:
    """The devices of each target: the first chip of a TPU v5e 2×2, all four, and one H100."""
    os.environ |= ENVIRONMENT
    jax.config.update("jax_platforms", "cpu")  # JAX must not look for the hardware
    tpu = get_topology_desc("v5e:2x2", platform="tpu").devices
    gpu = get_topology_desc(
        platform="cuda",
        topology_name="1x1x1",
        topology="1x1x1",
        target_config=H100.read_text(),
    ).devices
    return {"TPU v5e": tpu[:1], "TPU v5e 2×2": tpu, "H100": gpu}
