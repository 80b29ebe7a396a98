"""What each compute dtype costs, measured at the published size; docs/dtypes.md states it.

`pytest -rP tests/flax_bilstm/test_dtypes.py` prints the table of that document anew.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import flax_bilstm as fb

DOCUMENT = Path(__file__).parents[2] / "docs" / "dtypes.md"
BATCH, TIME, SIZES = 8, 128, (128, 64, 1)
SEEDS = range(5)
COLUMNS = ("LSTM outputs", "network output", "gradient of x", "gradient of the parameters")


def quantities(dtype: Any) -> Iterator[dict[str, list[np.ndarray]]]:
    """For each seed what is compared, in float64, computed in `dtype` over float32 parameters."""
    # The same numbers whatever the dtype: drawn in float32, and raised to float64 for the truth.
    options: dict[str, Any] = {"dtype": dtype, "param_dtype": jnp.float32}
    graphdef = nnx.graphdef(nnx.eval_shape(lambda: make(0, options)))

    @jax.jit
    def run(params: nnx.State, rest: nnx.State, x: jax.Array) -> Any:
        def loss(params: nnx.State, x: jax.Array) -> Any:
            model = nnx.merge(graphdef, params, rest)
            outputs, _ = model.lstm(x)
            y = model(x)
            return jnp.mean(y.astype(x.dtype) ** 2), (outputs, y)

        return jax.grad(loss, argnums=(0, 1), has_aux=True)(params, x)

    for seed in SEEDS:
        x = jax.random.normal(jax.random.key(100 + seed), (BATCH, TIME, SIZES[0]), jnp.float32)
        _, params, rest = nnx.split(make(seed, options), nnx.Param, ...)
        if dtype == jnp.float64:
            params, x = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), (params, x))
        (of_params, of_x), (outputs, y) = run(params, rest, x)
        values = ([outputs], [y], [of_x], jax.tree.leaves(of_params))
        yield {
            name: [np.asarray(value, np.float64) for value in group]
            for name, group in zip(COLUMNS, values, strict=True)
        }


def make(seed: int, options: dict[str, Any]) -> fb.BiLSTMWithAttention:
    return fb.BiLSTMWithAttention(*SIZES, **options, rngs=nnx.Rngs(seed))


def largest_errors(dtype: Any, truths: list[dict[str, list[np.ndarray]]]) -> dict[str, float]:
    """Over all seeds and arrays: the largest difference over the array's largest element."""
    errors = dict.fromkeys(COLUMNS, 0.0)
    for measured, truth in zip(quantities(dtype), truths, strict=True):
        for name in COLUMNS:
            for value, true in zip(measured[name], truth[name], strict=True):
                assert np.isfinite(value).all()
                assert np.isfinite(true).all()
                errors[name] = max(errors[name], abs(value - true).max() / abs(true).max())
    return errors


def stated() -> dict[str, dict[str, float]]:
    """The table in the document: dtype → column → error."""
    rows = [
        [cell.strip() for cell in line.strip("| ").split("|")]
        for line in DOCUMENT.read_text().splitlines()
        if re.match(r"\| *(float|bfloat)", line)
    ]
    return {row[0]: dict(zip(COLUMNS, map(float, row[1:]), strict=True)) for row in rows}


@pytest.mark.usefixtures("x64_beside_others")
def test_errors_are_those_that_the_document_states() -> None:
    truths = list(quantities(jnp.float64))
    table = stated()
    assert list(table) == ["float32", "bfloat16", "float16"]
    measured = {name: largest_errors(jnp.dtype(name), truths) for name in table}
    for name, errors in measured.items():
        print(f"| {name} | " + " | ".join(f"{error:.0e}" for error in errors.values()) + " |")
    for name, errors in measured.items():
        for column, error in errors.items():
            stated_error = table[name][column]  # a CPU of another kind sums in another order
            assert stated_error / 3 < error < 3 * stated_error, (name, column)
