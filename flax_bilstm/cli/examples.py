"""Whether an exported program computes what the model does, for several inputs."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from flax_bilstm.cli.artifact import Program
from flax_bilstm.lstm import LSTM
from flax_bilstm.network import BiLSTMWithAttention
from flax_bilstm.stablehlo import plain


class Example(NamedTuple):
    """Inputs of a model, and what it computes from them."""

    inputs: tuple[np.ndarray, ...]
    outputs: list[np.ndarray]


def examples(model: LSTM | BiLSTMWithAttention, padded: str | None = None) -> list[Example]:
    """What this library's model computes, for several batch sizes and lengths.

    x is standard normal; `padded` is what the artifact takes after it: "lengths", "mask" or None.
    """
    reference = plain(model)
    lstm = reference if isinstance(reference, LSTM) else reference.lstm
    dtype = lstm.layers[0].forward.kernel_ih.dtype
    rng, made = np.random.default_rng(0), []
    for leading in ((1, 1), (3, 5)):
        x = rng.standard_normal((*leading, lstm.input_size)).astype(dtype)
        time, batch = leading if lstm.time_major else leading[::-1]
        lengths = rng.integers(1, time + 1, batch, np.int32)
        mask = np.arange(time) >= time - lengths[:, None]  # padding at the beginning
        given = {"lengths": lengths, "mask": mask}
        given = {} if padded is None else {padded: given[padded]}
        outputs = jax.tree.map(np.asarray, jax.tree.leaves(reference(x, **given)))
        made.append(Example((x, *given.values()), outputs))
    return made


def largest_difference(program: Program, expected: Sequence[Example]) -> float:
    """The largest |a − b| / max(1, |b|) of any output between the program and the examples."""
    run, worst = jax.jit(program.function.call), 0.0
    for inputs, outputs in expected:
        for got, want in zip(jax.tree.leaves(run(*inputs, *program.weights)), outputs, strict=True):
            a, b = np.asarray(got, np.float64), np.asarray(want, np.float64)
            gap = np.abs(a - b) / np.maximum(1.0, np.abs(b))
            worst = float(np.max([worst, gap.max()]))  # NaN stays NaN
    return worst
