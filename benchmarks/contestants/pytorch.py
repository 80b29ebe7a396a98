"""PyTorch: eager, or compiled with frozen weights; in float64 it is the truth for the others.

The layer alone uses (time, batch, features), which is PyTorch's default and its fastest layout.
"""

import os
import re
import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.nn.utils import rnn

import torch_ref
from benchmarks.cells import INPUT_DIM, OUTPUT_DIM, Cell
from benchmarks.contestants import Prepared
from benchmarks.timed import timed
from benchmarks.workload import LEARNING_RATE, inputs, weights

EXECUTED = re.compile(r"^onednn_verbose.*,exec,cpu,(\w+),([^,]+),", re.MULTILINE)


def set_up(compiled: bool = False, dtype: str = "float32") -> dict[str, Any]:
    """All cores, and what compiling needs: LSTMs allowed, weights frozen."""
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    if compiled:
        from torch._dynamo import config as dynamo
        from torch._inductor import config as inductor

        dynamo.allow_rnn = True
        inductor.freezing = True
    return {"torch": torch.__version__, "threads": torch.get_num_threads()}


def build(cell: Cell, compiled: bool = False, dtype: str = "float32") -> Prepared:
    """The LSTM, or the reference network, with the cell's weights and inputs."""
    torch.compiler.reset()
    model = _lstm(cell) if cell.part == "layer" else _network(cell)
    model.load_state_dict({n: torch.from_numpy(array) for n, array in weights(cell).items()})
    model = model.to(getattr(torch, dtype))
    made = inputs(cell)

    def tensor(array: np.ndarray) -> Any:
        return torch.from_numpy(array).to(getattr(torch, dtype))

    def time_major(array: np.ndarray) -> Any:
        return tensor(array).transpose(0, 1).contiguous()

    if cell.part == "network":
        run = _infer(model, tensor(made.x), compiled)
        if cell.mode == "training":
            run = _train(model, tensor(made.x), tensor(made.target))
        return Prepared(run, lambda result: {"output": result.numpy()}, lambda: _kernel(run))
    x = time_major(made.x)
    forward = model if made.lengths is None else _packed(model, made.lengths, cell.time)
    if cell.mode == "inference":
        run = _infer(forward, x, compiled)
    else:
        run = _gradients(forward, model, x, time_major(made.outputs_gradient))
    return Prepared(run, _layer_arrays, lambda: _kernel(run))


def _lstm(cell: Cell) -> Any:
    return torch.nn.LSTM(
        INPUT_DIM, cell.hidden_dim, cell.layers, bidirectional=cell.directions == 2
    )


def _network(cell: Cell) -> Any:
    return torch_ref.BiLSTMWithAttention(INPUT_DIM, cell.hidden_dim, OUTPUT_DIM)


def _packed(model: Any, lengths: np.ndarray, time: int) -> Callable[[Any], Any]:
    """The LSTM over sequences of different lengths, padded before and after."""
    ends = torch.from_numpy(lengths).long()

    def forward(x: Any) -> Any:
        packed = rnn.pack_padded_sequence(x, ends, enforce_sorted=False)
        outputs, final = model(packed)
        return rnn.pad_packed_sequence(outputs, total_length=time)[0], final

    return forward


def _infer(forward: Callable[[Any], Any], x: Any, compiled: bool) -> Callable[[], Any]:
    if compiled:
        forward = torch.compile(forward, dynamic=False)

    def infer() -> Any:
        with torch.no_grad() if compiled else torch.inference_mode():
            return forward(x)

    return infer


def _gradients(
    forward: Callable[[Any], Any], model: Any, x: Any, outputs_gradient: Any
) -> Callable[[], Any]:
    x.requires_grad_()

    def gradients() -> Any:
        model.zero_grad(set_to_none=True)
        x.grad = None
        outputs, _ = forward(x)
        outputs.backward(outputs_gradient)
        return outputs, {name: p.grad for name, p in model.named_parameters()} | {"x": x.grad}

    return gradients


def _train(model: Any, x: Any, target: Any) -> Callable[[], Any]:
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)

    def train() -> Any:
        optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(model(x), target)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return train


def _layer_arrays(result: Any) -> dict[str, np.ndarray]:
    outputs, rest = result
    found = {"outputs": outputs, **(rest if isinstance(rest, dict) else {})}
    arrays = {name: tensor.detach().numpy() for name, tensor in found.items()}
    for name in {"outputs", "x"} & arrays.keys():
        arrays[name] = arrays[name].swapaxes(0, 1)
    if not isinstance(rest, dict):
        arrays["h_n"], arrays["c_n"] = (tensor.numpy() for tensor in rest)
    return arrays


def _kernel(run: Callable[[], Any]) -> str:
    """The oneDNN kernels of one run, as oneDNN reports them, without reorderings."""
    with tempfile.TemporaryFile() as file:
        saved = os.dup(1)
        os.dup2(file.fileno(), 1)
        try:
            with torch.backends.mkldnn.verbose(torch.backends.mkldnn.VERBOSE_ON):
                run()
        finally:
            os.dup2(saved, 1)
            os.close(saved)
        file.seek(0)
        executed = EXECUTED.findall(file.read().decode())
    kernels = dict.fromkeys(f"{kind} {name}" for kind, name in executed if kind != "reorder")
    return f"oneDNN {', '.join(kernels)}" if kernels else "ATen, without oneDNN"


def matmul_rate() -> float:
    """Operations per second of a large float32 matrix product on all cores: the best of several."""
    n = 2048
    a, b = torch.randn(n, n), torch.randn(n, n)
    return 2 * n**3 / min(timed(lambda: torch.mm(a, b), 12))
