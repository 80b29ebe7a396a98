"""ONNX Runtime, with all cores, writing its results directly into the output arrays."""

import os
from typing import Any

import numpy as np
import onnxruntime

from benchmarks.cells import Cell
from benchmarks.contestants import Prepared, onnx_model


def set_up() -> dict[str, Any]:
    """The installed version."""
    return {"onnxruntime": onnxruntime.__version__}


def build(cell: Cell) -> Prepared:
    """A session for the cell."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = len(os.sched_getaffinity(0))
    providers = ["CPUExecutionProvider"]
    session = onnxruntime.InferenceSession(onnx_model.model(cell), options, providers=providers)
    binding = session.io_binding()
    fed = onnx_model.feeds(cell)
    for name, array in fed.items():
        binding.bind_cpu_input(name, array)
    results = {each.name: np.empty(each.shape, "f4") for each in session.get_outputs()}
    for name, array in results.items():
        binding.bind_output(name, "cpu", 0, np.float32, array.shape, array.ctypes.data)

    def run(fed: Any = fed) -> Any:  # which must live as long as the binding
        session.run_with_iobinding(binding)
        return results

    return Prepared(
        run,
        lambda results: onnx_model.arrays(cell, results),
        lambda: f"{session.get_providers()[0]}: LSTM",
    )
