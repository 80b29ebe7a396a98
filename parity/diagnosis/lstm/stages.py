"""The table of the stages of an LSTM, in order of computation: layer, direction, step and gate.

Names and values are listed in `parity.diagnosis.lstm.truth`; the functions that compute a stage
are in `reference` (PyTorch) and `candidate` (Flax).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch

import flax_bilstm as fb
from flax_bilstm.conversion.rows import Row
from parity.diagnosis.lstm import candidate as ours
from parity.diagnosis.lstm import reference as theirs
from parity.diagnosis.lstm.reference import Cell
from parity.diagnosis.mistakes import cell as cell_mistakes
from parity.diagnosis.mistakes import sequence as sequence_mistakes
from parity.diagnosis.stages import Mistake, Stage
from parity.sides.losses import INNER_PRODUCT
from parity.sides.nnx_side import NnxSide
from parity.sides.side import Pair, Side
from parity.sides.torch_side import TorchSide

OPTIONAL = {"lengths": "lengths", "h_0": "h_0", "c_0": "c_0"}

PARTS = {
    "carry": "cell state carried over",
    "input_gate": "input gate",
    "forget_gate": "forget gate",
    "cell_gate": "cell gate",
    "output_gate": "output gate",
    "cell": "new cell state",
    "hidden": "hidden state",
}
"""The parts of a step, ordered so that an error in one makes only later ones look wrong."""
COMPUTED = ("cell", "hidden")
"""The parts that a step returns; the others are measured by probes (`gates`)."""


class Stages:
    """Makes the stages of a pair of LSTMs.

    Args:
        torch_lstm: the reference.
        flax_lstm: the candidate.
        rows: which variables of the candidate hold the reference's tensors.
    """

    def __init__(self, torch_lstm: torch.nn.LSTM, flax_lstm: fb.LSTM, rows: Sequence[Row]) -> None:
        self.torch_lstm, self.flax_lstm, self.rows = torch_lstm, flax_lstm, rows
        self.directions = ("forward", "reverse")[: flax_lstm.num_directions]

    def all(self) -> tuple[Stage, ...]:
        """Every stage, in order of computation."""
        found: list[Stage] = []
        finals: list[str] = []
        for layer in range(self.flax_lstm.num_layers):
            first = layer * len(self.directions)
            cells = [Cell(first + i, layer, name) for i, name in enumerate(self.directions)]
            for cell in cells:
                found += [self._outputs(cell), self._final_state(cell)]
                finals.append(f"{cell.name}.final_state")
            found.append(self._side_by_side(layer, [f"{cell.name}.outputs" for cell in cells]))
        return (*found, self._states("h_n", finals), self._states("c_n", finals))

    def _outputs(self, cell: Cell) -> Stage:
        """A direction over time, which contains its steps, which contain the gates."""
        name = f"{cell.name}.outputs"
        return self._stage(
            name, f"{_place(cell)}{{t}}, from step to step", self._whole(cell),
            partial(theirs.direction, cell=cell), partial(ours.direction, cell=cell),
            partial(sequence_mistakes.of_direction, cell), parts=(self._step(cell),),
            backwards=cell.reverse, over_time=(name, "x", "before.forward", "before.reverse"),
        )  # fmt: skip

    def _final_state(self, cell: Cell) -> Stage:
        return self._stage(
            f"{cell.name}.final_state", f"{_place(cell)}, final state", self._whole(cell),
            partial(theirs.direction, cell=cell, final=True),
            partial(ours.direction, cell=cell, final=True),
            partial(sequence_mistakes.of_direction, cell, final=True), parts=(self._step(cell),),
        )  # fmt: skip

    def _step(self, cell: Cell) -> Stage:
        projected = self.flax_lstm.proj_size > 0  # then h' does not show a single output gate
        parts = tuple(
            self._within(cell, name, words, probed=name not in COMPUTED)
            for name, words in PARTS.items()
            if not (projected and name == "output_gate")
        )
        known = partial(cell_mistakes.of_step, cell)
        return self._within(cell, "step", "one step", parts=parts, known=known)

    def _within(self, cell: Cell, quantity: str, words: str, **options: Any) -> Stage:
        """A quantity of every step, each step computed alone."""
        before = "x" if cell.layer == 0 else f"lstm.layer{cell.layer - 1}.output"
        name = f"{cell.name}.{quantity}"
        reads = {
            "x": before, "hidden": f"{cell.name}.before.hidden",
            "cell": f"{cell.name}.before.cell", "valid": f"{cell.name}.valid",
        }  # fmt: skip
        return self._stage(
            name, f"{_place(cell)}{{t}}, {words}", reads,
            partial(theirs.quantity, cell=cell, name=quantity),
            partial(ours.quantity, cell=cell, name=quantity),
            over_time=(name, "x", "hidden", "cell"), backwards=cell.reverse, **options,
        )  # fmt: skip

    def _side_by_side(self, layer: int, outputs: Sequence[str]) -> Stage:
        name = f"lstm.layer{layer}.output"
        return self._stage(
            name, f"layer {layer}, directions side by side{{t}}", {n: n for n in (*outputs, "x")},
            partial(theirs.side_by_side, names=outputs),
            partial(ours.wired, name="output", layer=layer),
            partial(sequence_mistakes.of_output, outputs), over_time=(name, *outputs),
        )  # fmt: skip

    def _states(self, name: str, finals: Sequence[str]) -> Stage:
        hidden, cell = self.flax_lstm.hidden_size, name == "c_n"
        return self._stage(
            f"lstm.{name}", f"final states {name}", {n: n for n in (*finals, "x")},
            partial(theirs.stacked, names=finals, hidden=hidden, cell=cell),
            partial(ours.wired, name=name),
            partial(sequence_mistakes.of_states, finals, hidden, cell),
        )  # fmt: skip

    def _whole(self, cell: Cell) -> dict[str, str]:
        """What a direction reads: x, or both directions of the layer before."""
        before = f"lstm.layer{cell.layer - 1}"
        sides = self.directions if cell.layer else ()
        return {"x": "x"} | {f"before.{side}": f"{before}.{side}.outputs" for side in sides}

    def _stage(
        self, name: str, words: str, reads: Mapping[str, str], expected: Any, claimed: Any,
        known: Callable[[], Iterator[tuple[Any, ...]]] = lambda: iter(()), **options: Any,
    ) -> Stage:  # fmt: skip
        def reference(function: Any) -> Side:
            return TorchSide(self.torch_lstm, function, INNER_PRODUCT, output=name)

        candidate = NnxSide(self.flax_lstm, self.rows, claimed, INNER_PRODUCT, output=name)
        return Stage(
            name, words, {**reads, **OPTIONAL}, Pair(reference(expected), candidate),
            mistakes=lambda: (
                Mistake(what, reference(mistaken), *part) for what, mistaken, *part in known()
            ),
            **options,
        )  # fmt: skip


def _place(cell: Cell) -> str:
    return f"layer {cell.layer}, {cell.direction}"
