"""Against files that torch made (tests/golden/make.py): these tests need no torch themselves."""

import json
import runpy
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors import safe_open
from safetensors.numpy import load_file

import flax_bilstm as fb

GOLDEN = Path(__file__).parents[1] / "golden"
# By its path, since importing anything of parity imports torch.
bound = runpy.run_path(str(GOLDEN.parents[1] / "parity" / "tolerances.py"))["bound"]
NAMES = sorted(path.stem for path in GOLDEN.glob("*.safetensors"))


def read(name: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    path = GOLDEN / f"{name}.safetensors"
    with safe_open(path, framework="numpy") as file:
        return json.loads(file.metadata()["made"])["case"], load_file(path)


def under(arrays: dict[str, np.ndarray], kind: str) -> dict[str, np.ndarray]:
    """The arrays of one kind, by name."""
    return {n.removeprefix(f"{kind}/"): a for n, a in arrays.items() if n.startswith(f"{kind}/")}


def outputs(model: Any, case: dict[str, Any], inputs: dict[str, jax.Array]) -> dict[str, jax.Array]:
    lengths = jnp.asarray(case["lengths"]) if "lengths" in case else None
    if case["kind"] == "network":
        return {"output": model(inputs["x"], lengths=lengths)}
    state = (inputs["h_0"], inputs["c_0"]) if "h_0" in inputs else None
    y, (h_n, c_n) = model(inputs["x"], initial_state=state, lengths=lengths)
    return {"y": y, "h_n": h_n, "c_n": c_n}


@nnx.jit(static_argnames="names")
def run(model: Any, names: str, inputs: Any, cotangents: Any) -> Any:
    """Outputs, and the gradients of their sum weighted with the cotangents."""
    case = json.loads(names)

    def weighted(model: Any, inputs: Any) -> Any:
        found = outputs(model, case, inputs)
        return sum(jnp.vdot(found[n], cotangents[n]) for n in found), found

    gradients, found = nnx.grad(weighted, argnums=(0, 1), has_aux=True)(model, inputs)
    return found, gradients


def assert_within_bound(
    given: np.ndarray, truth: np.ndarray, own: np.ndarray, spread: float, dtype: str
) -> None:
    """The rule of `parity.tolerances`, from torch's own run and the spread in the file."""
    assert given.shape == truth.shape
    distance = np.abs(given - truth).max()
    assert distance <= bound(dtype, max(spread, np.abs(own - truth).max()), np.abs(truth).max())


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", NAMES)
def test_outputs_and_gradients_are_torchs(
    name: str, dtype: str, under_torch_names: Any, request: pytest.FixtureRequest
) -> None:
    case, golden = read(name)
    if dtype == "float64":
        request.getfixturevalue("x64")
    weights = {n: a.astype(dtype) for n, a in under(golden, "weights").items()}
    model = fb.from_state_dict(weights)
    inputs = {n: jnp.asarray(a, dtype) for n, a in under(golden, "inputs").items()}
    cotangents = {n: jnp.asarray(a, dtype) for n, a in under(golden, "cotangents").items()}
    found, (by_weight, by_input) = run(model, json.dumps(case), inputs, cotangents)
    given = {f"outputs/{n}": np.asarray(a) for n, a in found.items()}
    gradients = {**by_input, **under_torch_names(model, by_weight)}
    given |= {f"gradients/{n}": np.asarray(a) for n, a in gradients.items()}
    truth, own = under(golden, "float64"), under(golden, dtype)
    assert given.keys() == truth.keys()
    for what in truth:
        spread = float(golden[f"spread/{dtype}/{what}"])
        assert given[what].dtype == dtype
        assert_within_bound(given[what], truth[what], own[what], spread, dtype)


def test_there_are_golden_files() -> None:
    kinds = [read(name)[0] for name in NAMES]
    assert len(NAMES) == 6
    assert {kind["kind"] for kind in kinds} == {"network", "lstm"}
    assert sum("lengths" in kind for kind in kinds) == 2


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
def test_torch_still_computes_what_the_files_hold() -> None:
    pytest.importorskip("torch")
    script = runpy.run_path(str(GOLDEN / "make.py"))
    assert sorted(script["CASES"]) == NAMES
    for number, (name, case) in enumerate(script["CASES"].items()):
        kept, golden = read(name)
        assert kept == case
        made = script["make"](number, case)
        assert made.keys() == golden.keys()
        for what, array in golden.items():
            dtype = next((d for d in ("float64", "float32") if what.startswith(d)), None)
            if dtype is None:
                if not what.startswith("spread/"):
                    np.testing.assert_array_equal(made[what], array, err_msg=f"{name}: {what}")
                continue
            _, _, own = what.partition("/")
            truth, spread = golden[f"float64/{own}"], float(golden[f"spread/{what}"])
            assert_within_bound(made[what], truth, array, spread, dtype)
