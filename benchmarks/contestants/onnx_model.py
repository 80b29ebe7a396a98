"""A cell's layer or network as an ONNX model, for ONNX Runtime and OpenVINO."""

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from benchmarks.cells import INPUT_DIM, OUTPUT_DIM, Cell
from benchmarks.workload import Arrays, inputs, weights

OPSET, IR_VERSION = 18, 10


def model(cell: Cell) -> bytes:
    """The model: x (time, batch, input), the layout of ONNX's LSTM, and the lengths if ragged.

    The layer's results are y (time, directions, batch, hidden), and h and c (directions, batch,
    hidden) of each layer; the network's is output (batch, output).
    """
    state = weights(cell)
    nodes, constants = [], {}
    y = "x"
    for k in range(cell.layers):
        if k:  # (time, directions, batch, hidden) → (time, batch, directions·hidden)
            nodes.append(helper.make_node("Transpose", [y], [f"swapped{k}"], perm=[0, 2, 1, 3]))
            y = f"joined{k}"
            nodes.append(helper.make_node("Reshape", [f"swapped{k}", "steps"], [y]))
            constants["steps"] = np.array([cell.time, cell.batch, -1])
        constants |= _lstm_weights(state, cell, k)
        operands = [y, f"W{k}", f"R{k}", f"B{k}", "lengths" if cell.ragged else ""]
        y = f"y{k}"
        nodes.append(
            helper.make_node(
                "LSTM",
                operands,
                [y, f"h{k}", f"c{k}"],
                hidden_size=cell.hidden_dim,
                direction="bidirectional" if cell.directions == 2 else "forward",
            )
        )
    results = [y, *(f"{name}{k}" for k in range(cell.layers) for name in ("h", "c"))]
    state_shape = (cell.directions, cell.batch, cell.hidden_dim)
    shapes: list[tuple[int, ...]] = [(cell.time, *state_shape)]
    shapes += [state_shape] * (2 * cell.layers)
    if cell.part == "network":
        nodes += _attention_and_head(y)
        constants |= {
            "sequences": np.array([cell.batch, cell.time, 2 * cell.hidden_dim]),
            "last": np.array(cell.time - 1),
            "fc.weight": state["fc.weight"].T.copy(),
            "fc.bias": state["fc.bias"],
        }
        results, shapes = ["output"], [(cell.batch, OUTPUT_DIM)]
    float32 = TensorProto.FLOAT
    takes = [helper.make_tensor_value_info("x", float32, (cell.time, cell.batch, INPUT_DIM))]
    if cell.ragged:
        takes.append(helper.make_tensor_value_info("lengths", TensorProto.INT32, (cell.batch,)))
    gives = [
        helper.make_tensor_value_info(name, float32, shape)
        for name, shape in zip(results, shapes, strict=True)
    ]
    kept = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "cell", takes, gives, kept)
    opsets = [helper.make_opsetid("", OPSET)]
    made = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)
    onnx.checker.check_model(made)
    return made.SerializeToString()


def _lstm_weights(state: Arrays, cell: Cell, layer: int) -> Arrays:
    """One layer's W, R and B: directions first, gates in ONNX's order i, o, f, c."""
    prefix = "lstm." if cell.part == "network" else ""

    def stacked(name: str) -> np.ndarray:
        of_directions = []
        for suffix in ("", "_reverse")[: cell.directions]:
            i, f, g, o = np.split(state[f"{prefix}{name}_l{layer}{suffix}"], 4)
            of_directions.append(np.concatenate([i, o, f, g]))
        return np.stack(of_directions)

    return {
        f"W{layer}": stacked("weight_ih"),
        f"R{layer}": stacked("weight_hh"),
        f"B{layer}": np.concatenate([stacked("bias_ih"), stacked("bias_hh")], axis=1),
    }


def _attention_and_head(y: str) -> list[Any]:
    """softmax(y yᵀ) y for every step, as the network is written, then dense on the last."""
    node = helper.make_node
    return [
        node("Transpose", [y], ["batch_first"], perm=[2, 0, 1, 3]),
        node("Reshape", ["batch_first", "sequences"], ["keys"]),  # (batch, time, 2·hidden)
        node("Transpose", ["keys"], ["keys_transposed"], perm=[0, 2, 1]),
        node("MatMul", ["keys", "keys_transposed"], ["scores"]),
        node("Softmax", ["scores"], ["attention"], axis=-1),
        node("MatMul", ["attention", "keys"], ["context"]),
        node("Gather", ["context", "last"], ["last_context"], axis=1),
        node("Gemm", ["last_context", "fc.weight", "fc.bias"], ["output"]),
    ]


def feeds(cell: Cell) -> Arrays:
    """The model's inputs."""
    made = inputs(cell)
    fed = {"x": np.ascontiguousarray(made.x.swapaxes(0, 1))}
    return fed if made.lengths is None else {**fed, "lengths": made.lengths}


def arrays(cell: Cell, results: Arrays) -> Arrays:
    """The model's results, under the names that all contestants use."""
    if cell.part == "network":
        return results
    y = results[f"y{cell.layers - 1}"]  # (time, directions, batch, hidden)
    states = {
        f"{name}_n": np.concatenate([results[f"{name}{k}"] for k in range(cell.layers)])
        for name in ("h", "c")
    }
    outputs = y.transpose(2, 0, 1, 3).reshape(cell.batch, cell.time, -1)
    return {"outputs": outputs, **states}
