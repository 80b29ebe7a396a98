"""The contestants. Each runs in a separate process, and builds cells with a module of this folder.

Such a module has `set_up(options)`, which is called once, before anything runs, and returns facts
about the contestant (versions, threads, devices), and `build(cell, options)`.
"""

import importlib
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from benchmarks.cells import ALTERNATIVE_CELLS, Cell


class Prepared(NamedTuple):
    """A cell, ready to be run.

    `run` runs it once and blocks until it is done. `arrays` names the results of a run: in
    inference outputs (batch, time, features), h_n and c_n, or the network's output; with gradients
    also those of x and of the parameters, under PyTorch's names; in training the loss. `kernel`
    says in a few words where the time is spent.
    """

    run: Callable[[], Any]
    arrays: Callable[[Any], dict[str, np.ndarray]]
    kernel: Callable[[], str]


class Contestant(NamedTuple):
    """The module that builds it, that module's options, and the cells that it cannot run."""

    module: str
    options: Mapping[str, Any] = {}
    inference_only: bool = False
    takes_ragged: bool = True

    def load(self) -> ModuleType:
        """The module."""
        return importlib.import_module(f"benchmarks.contestants.{self.module}")


OURS = "flax_bilstm"
"""This library with its defaults."""
TRUTH = Contestant("pytorch", {"dtype": "float64"})
PEERS = {
    "PyTorch": Contestant("pytorch"),
    "PyTorch compiled": Contestant(
        "pytorch", {"compiled": True}, inference_only=True, takes_ragged=False
    ),
    "flax.nnx": Contestant("flax_nnx"),
    "ONNX Runtime": Contestant("onnx_runtime", inference_only=True),
    "OpenVINO": Contestant("openvino_cpu", inference_only=True),
}
ALTERNATIVES = {
    "scan": Contestant("ours", {"implementation": "scan"}),
    "fused": Contestant("ours", {"implementation": "fused"}),
    "fused, batch over 2 devices": Contestant("ours", {"implementation": "fused", "devices": 2}),
    "fused, directions over 2 devices": Contestant(
        "ours", {"implementation": "fused", "devices": 2, "directions": 2}
    ),
}
"""Other ways to run this library, for choosing the default and for users of a mesh."""
CONTESTANTS = {OURS: Contestant("ours"), **PEERS, **ALTERNATIVES, "truth": TRUTH}


def entrants(cell: Cell) -> list[str]:
    """The contestants that run the cell."""
    names = [
        name
        for name, peer in PEERS.items()
        if (cell.mode == "inference" or not peer.inference_only)
        and (peer.takes_ragged or not cell.ragged)
    ]
    return [OURS, *names, *(ALTERNATIVES if cell in ALTERNATIVE_CELLS else ())]
