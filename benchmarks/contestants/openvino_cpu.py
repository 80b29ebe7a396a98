"""OpenVINO on the CPU, in float32, with all cores."""

import os
import sys
from typing import Any, cast

# OpenVINO reports each import to its makers; None keeps that module from being imported.
sys.modules.update(openvino_telemetry=cast(Any, None))

import openvino

from benchmarks.cells import Cell
from benchmarks.contestants import Prepared, onnx_model


def set_up() -> dict[str, Any]:
    """The installed version."""
    return {"openvino": openvino.get_version()}


def build(cell: Cell) -> Prepared:
    """A compiled model for the cell."""
    core = openvino.Core()
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",  # otherwise it may choose bfloat16
        "INFERENCE_NUM_THREADS": len(os.sched_getaffinity(0)),
    }
    compiled = core.compile_model(core.read_model(onnx_model.model(cell)), "CPU", settings)
    request = compiled.create_infer_request()
    fed = onnx_model.feeds(cell)
    names = [output.get_any_name() for output in compiled.outputs]

    def run() -> Any:
        return request.infer(fed, share_inputs=True, share_outputs=True)

    def arrays(results: Any) -> Any:
        return onnx_model.arrays(cell, {name: results[name] for name in names})

    return Prepared(run, arrays, lambda: _kernel(compiled))


def _kernel(compiled: Any) -> str:
    """The kernels of the recurrent operations, as named in the compiled model."""
    kernels: dict[str, None] = {}
    for operation in compiled.get_runtime_model().get_ordered_ops():
        facts = operation.get_rt_info()
        kind, kernel = (
            facts[name].value if name in facts else "" for name in ("layerType", "primitiveType")
        )
        if kind.startswith(("RNN", "LSTM", "TensorIterator", "Loop")):
            kernels[f"{kind} {kernel}"] = None
    return ", ".join(kernels) or "no recurrent operation"
