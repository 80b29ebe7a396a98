"""Memory grows with time no faster than the sequence itself, and segments change no number."""

import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import flax_bilstm as fb
from flax_bilstm.recurrence import IMPLEMENTATIONS, checkpointed

TOLERANCE = 1e-12
INPUTS, HIDDEN, OUTPUTS = 128, 64, 1  # the published sizes
BYTES_PER_STEP = {"scan": 10_000, "fused": 10_000, "native": 6_500, "checkpointed": 2_500}
"""What one more step of one sequence may cost a training step, besides the sequence itself."""


def temporaries(implementation, time):
    """The bytes of intermediate results in a compiled gradient, at batch 1."""

    def build():
        options = {"implementation": implementation, "rngs": nnx.Rngs(0)}
        return fb.BiLSTMWithAttention(INPUTS, HIDDEN, OUTPUTS, **options)

    graph, parameters, *rest = nnx.split(nnx.eval_shape(build), nnx.Param, ...)

    def loss(parameters, rest, x):
        return (nnx.merge(graph, parameters, *rest)(x) ** 2).mean()

    x = jax.ShapeDtypeStruct((1, time, INPUTS), jnp.float32)
    compiled = jax.jit(jax.grad(loss)).lower(parameters, rest, x).compile()
    return compiled.memory_analysis().temp_size_in_bytes


@pytest.mark.usefixtures("quickly_compiled")  # memory is planned before the machine code
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_a_step_more_costs_the_same_at_any_time(implementation):
    """Attention for all queries would take 4·time more: 12,000 bytes a step here, and growing."""
    short, long = 2048, 4096
    growth = temporaries(implementation, long) - temporaries(implementation, short)
    assert 0 < growth <= BYTES_PER_STEP[implementation] * (long - short)


LONG = """
import sys
import jax
import numpy as np
import optax
from flax import nnx
import flax_bilstm as fb

model = fb.BiLSTMWithAttention(128, 64, 1, rngs=nnx.Rngs(0))
optimizer = nnx.Optimizer(model, optax.adam(1e-3), wrt=nnx.Param)

@nnx.jit
def step(model, optimizer, x):
    loss, gradients = nnx.value_and_grad(lambda model: (model(x) ** 2).mean())(model)
    optimizer.update(model, gradients)
    return loss

x = np.random.default_rng(0).standard_normal((1, 65536, 128)).astype(np.float32)
first, second = float(step(model, optimizer, x)), float(step(model, optimizer, x))
assert np.isfinite(second) and second != first, (first, second)
status = open("/proc/self/status").read()
print(status.split("VmHWM:")[1].split()[0])  # the most that was ever resident, in KiB
"""


@pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="only /proc tells a process's peak memory"
)
def test_65536_steps_train_in_little_memory():
    """Whole training steps, measured in a fresh process: about 1 GiB, of which 0.4 for JAX."""
    run = subprocess.run([sys.executable, "-c", LONG], capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) * 1024 < 1.5 * 2**30


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("time", "lengths"),
    [(300, None), (515, None), (515, [515, 1, 300])],
    ids=["whole segments", "filled up", "lengths"],
)
def test_segments_change_no_number(assert_close, time, lengths):
    assert time > checkpointed.LONGEST_SEGMENT
    rng = np.random.default_rng(0)
    x, state = rng.normal(size=(3, time, 4)), tuple(rng.normal(size=(2, 2, 3, 5)))

    def run(implementation):
        options = {"bidirectional": True, "implementation": implementation}
        lstm = fb.LSTM(4, 5, **options, param_dtype=jnp.float64, rngs=nnx.Rngs(0))

        @nnx.jit
        def results(lstm, x, state):
            def scalar(lstm, x, state):
                outputs, (h_n, c_n) = lstm(x, state, lengths and np.asarray(lengths))
                return (outputs**2).sum() + (h_n * c_n).sum(), (outputs, h_n, c_n)

            return nnx.grad(scalar, argnums=(0, 1, 2), has_aux=True)(lstm, x, state)

        leaves = jax.tree.leaves_with_path(results(lstm, jnp.asarray(x), state))
        return {jax.tree_util.keystr(path): leaf for path, leaf in leaves}

    assert_close(run("checkpointed"), run("scan"), TOLERANCE)
