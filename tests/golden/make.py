"""Makes the golden files beside it: what torch computes, for tests where no torch is.

    python tests/golden/make.py

A file holds one case: its sizes and options (as JSON in the metadata), the inputs, the weights, the
cotangents that outputs are weighted with to a scalar, and for each dtype torch's outputs and the
scalar's gradients. `spread` is by how much torch's own values vary (`parity.nudging`).
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save_file

import torch_ref
from parity.nudging import moved_functions, nudged
from parity.sides.side import Arrays, cast
from parity.tolerances import DTYPES, TOLERANCES

HERE = Path(__file__).parent
BATCH, TIME, FEATURES, HIDDEN = 3, 6, 5, 4

CASES: dict[str, dict[str, Any]] = {
    "network": {"kind": "network", "output_dim": 2},
    "network-lengths": {"kind": "network", "output_dim": 2, "lengths": [6, 1, 4]},
    "lstm": {"kind": "lstm"},
    "lstm-stacked": {"kind": "lstm", "num_layers": 2, "bidirectional": True, "state": True},
    "lstm-projected": {"kind": "lstm", "bias": False, "bidirectional": True, "proj_size": 2},
    "lstm-lengths": {
        "kind": "lstm",
        "num_layers": 2,
        "bidirectional": True,
        "state": True,
        "lengths": [2, 6, 5],
    },
}
OPTIONS = ("num_layers", "bias", "bidirectional", "proj_size")


def make(number: int, case: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """All arrays of a case, by `kind/name`; NumPy draws them, so that they are always the same."""
    rng = np.random.default_rng(number)
    module = build(case)
    inputs = {"x": rng.standard_normal((BATCH, TIME, FEATURES), dtype=np.float32)}
    if case.get("state"):
        cells = module.num_layers * (2 if module.bidirectional else 1)
        for name, size in (("h_0", module.proj_size or HIDDEN), ("c_0", HIDDEN)):
            inputs[name] = rng.standard_normal((cells, BATCH, size), dtype=np.float32)
    weights = {
        name: rng.uniform(-0.7, 0.7, tuple(tensor.shape)).astype(np.float32)
        for name, tensor in module.state_dict().items()
    }
    shapes = {n: tuple(t.shape) for n, t in forward(module, case, _tensors(inputs)).items()}
    cotangents = {n: rng.standard_normal(s, dtype=np.float32) for n, s in shapes.items()}
    made = {**_named("inputs", inputs), **_named("weights", weights)}
    made |= _named("cotangents", cotangents)
    truth = run(case, inputs, weights, cotangents, "float64")
    for dtype in DTYPES:
        own = run(case, inputs, weights, cotangents, dtype)
        made |= _named(dtype, own)
        runs = [own]
        for seed in range(TOLERANCES[dtype].nudges):
            near = (nudged(arrays, dtype, seed) for arrays in (inputs, weights, cotangents))
            with moved_functions(dtype, seed):
                runs.append(run(case, *near, dtype))
        spread = {n: np.max([np.abs(r[n] - truth[n]).max() for r in runs]) for n in truth}
        made |= _named(f"spread/{dtype}", {n: np.float64(s) for n, s in spread.items()})
    return made


def build(case: Mapping[str, Any]) -> Any:
    """The module of torch's, or of the reference's."""
    if case["kind"] == "network":
        return torch_ref.BiLSTMWithAttention(FEATURES, HIDDEN, case["output_dim"])
    options = {name: case[name] for name in OPTIONS if name in case}
    return torch.nn.LSTM(FEATURES, HIDDEN, batch_first=True, **options)


def run(
    case: Mapping[str, Any], inputs: Arrays, weights: Arrays, cotangents: Arrays, dtype: str
) -> dict[str, np.ndarray]:
    """Outputs, and gradients of their weighted sum, in a dtype."""
    module = build(case).to(getattr(torch, dtype))
    module.load_state_dict(_tensors(cast(weights, dtype)))
    given = {n: t.requires_grad_() for n, t in _tensors(cast(inputs, dtype)).items()}
    outputs = forward(module, case, given)
    weighted = _tensors(cast(cotangents, dtype))
    torch.stack([(outputs[n] * weighted[n]).sum() for n in outputs]).sum().backward()
    sources = [*given.items(), *module.named_parameters()]
    gradients = {n: t.grad.numpy() for n, t in sources if t.grad is not None}
    arrays = {n: t.detach().numpy() for n, t in outputs.items()}
    return {**_named("outputs", arrays), **_named("gradients", gradients)}


def forward(
    module: Any, case: Mapping[str, Any], given: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """The outputs by name; with lengths, packed, or each sequence by itself."""
    x, lengths = given["x"], case.get("lengths")
    if case["kind"] == "network":
        if lengths is None:
            return {"output": module(x)}
        alone = [module(x[i : i + 1, :length]) for i, length in enumerate(lengths)]
        return {"output": torch.cat(alone)}
    state = (given["h_0"], given["c_0"]) if "h_0" in given else None
    if lengths is None:
        y, (h_n, c_n) = module(x, state)
        return {"y": y, "h_n": h_n, "c_n": c_n}
    packed = torch.nn.utils.rnn.pack_padded_sequence(
        x, torch.tensor(lengths), batch_first=True, enforce_sorted=False
    )
    y, (h_n, c_n) = module(packed, state)
    y, _ = torch.nn.utils.rnn.pad_packed_sequence(y, batch_first=True, total_length=TIME)
    return {"y": y, "h_n": h_n, "c_n": c_n}


def _tensors(arrays: Arrays) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}


def _named(kind: str, arrays: Mapping[str, Any]) -> dict[str, np.ndarray]:
    # safetensors writes an array's memory as it lies, also where it is a transposed view.
    return {f"{kind}/{name}": np.asarray(array, order="C") for name, array in arrays.items()}


def main() -> None:
    """Write every case."""
    torch.set_num_threads(1)
    for number, (name, case) in enumerate(CASES.items()):
        # One key, since safetensors writes several in another order each time.
        metadata = {"made": json.dumps({"case": case, "torch": torch.__version__})}
        save_file(make(number, case), HERE / f"{name}.safetensors", metadata)
        print(f"{name}.safetensors")


if __name__ == "__main__":
    main()
