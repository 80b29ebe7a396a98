"""The table of the stages of the network, and of a plain LSTM, in order of computation.

Names and values are those of `parity.bilstm_truth`; the two columns of functions are in
`parity.bilstm_reference` (PyTorch) and `parity.bilstm_candidate` (Flax).
"""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch

import flax_bilstm as fb
from parity import bilstm_candidate as ours
from parity import bilstm_reference as theirs
from parity import mistakes
from parity.bilstm_reference import Cell
from parity.bilstm_truth import truth
from parity.losses import Loss
from parity.modules import table
from parity.nnx_side import nnx_side
from parity.port import Side
from parity.stages import INNER_PRODUCT, Anatomy, Mistake, Stage
from parity.torch_side import torch_side

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
"""The parts of a step, in the order in which one that is wrong accuses no other."""


def anatomy(torch_model: torch.nn.Module, flax_model: Any, loss: Loss) -> Anatomy | None:
    """The stages of a port of `parity.bilstm`; None where time comes first, which none describe.

    Args:
        torch_model: the reference network, or an nn.LSTM.
        flax_model: its counterpart.
        loss: of the output.
    """
    network = isinstance(flax_model, fb.BiLSTMWithAttention)
    lstm = flax_model.lstm if network else flax_model
    torch_lstm: Any = torch_model.get_submodule("lstm") if network else torch_model
    if lstm.time_major or not torch_lstm.batch_first:
        return None
    rows = table(flax_model)

    def reference(name: str, function: Any) -> Side:
        return torch_side(torch_model, lambda m, i: {name: function(m, i)}, INNER_PRODUCT)

    def stage(
        name: str, words: str, reads: Mapping[str, str], expected: Any, claimed: Any,
        known: Callable[[], Iterator[tuple[Any, ...]]] = lambda: iter(()), **options: Any,
    ) -> Stage:  # fmt: skip
        candidate = nnx_side(flax_model, rows, lambda m, i: {name: claimed(m, i)}, INNER_PRODUCT)
        return Stage(
            name, words, {**reads, **OPTIONAL}, reference(name, expected), candidate,
            mistakes=lambda: (
                Mistake(what, reference(name, mistaken), *part) for what, mistaken, *part in known()
            ),
            **options,
        )  # fmt: skip

    def direction(cell: Cell) -> Iterator[Stage]:
        """A direction over time, and within it its steps, and within them the gates."""
        place = f"layer {cell.layer}, {cell.direction}"
        read = "input" if cell.layer == 0 else f"lstm.layer{cell.layer - 1}.output"
        one_step = {
            "x": read, "hidden": f"{cell.name}.before.hidden",
            "cell": f"{cell.name}.before.cell", "valid": f"{cell.name}.valid",
        }  # fmt: skip
        whole = {"x": "x"}
        for side in directions if cell.layer else ():
            whole[f"before.{side}"] = f"lstm.layer{cell.layer - 1}.{side}.outputs"

        def within(quantity: str, words: str, **options: Any) -> Stage:
            name = f"{cell.name}.{quantity}"
            return stage(
                name, f"{place}{{t}}, {words}", one_step,
                partial(theirs.quantity, cell=cell, name=quantity),
                partial(ours.quantity, cell=cell, name=quantity),
                over_time=(name, "x", "hidden", "cell"), backwards=cell.reverse, **options,
            )  # fmt: skip

        projected = lstm.proj_size > 0  # then h' shows no single output gate
        parts = tuple(
            within(name, words)
            for name, words in PARTS.items()
            if not (projected and name == "output_gate")
        )
        step = within("step", "one step", parts=parts, known=partial(mistakes.of_step, cell))
        yield stage(
            f"{cell.name}.outputs", f"{place}{{t}}, from step to step", whole,
            partial(theirs.direction, cell=cell), partial(ours.direction, cell=cell),
            partial(mistakes.of_direction, cell), parts=(step,), backwards=cell.reverse,
            over_time=(f"{cell.name}.outputs", "x", "before.forward", "before.reverse"),
        )  # fmt: skip
        yield stage(
            f"{cell.name}.final_state", f"{place}, final state", whole,
            partial(theirs.direction, cell=cell, final=True),
            partial(ours.direction, cell=cell, final=True),
            partial(mistakes.of_direction, cell, final=True),
        )  # fmt: skip

    directions = ("forward", "reverse")[: lstm.num_directions]
    found: list[Stage] = []
    cells: list[Cell] = []
    for layer in range(lstm.num_layers):
        here = [Cell(len(cells) + i, layer, name) for i, name in enumerate(directions)]
        cells += here
        for cell in here:
            found += direction(cell)
        outputs = [f"{cell.name}.outputs" for cell in here]
        found.append(
            stage(
                f"lstm.layer{layer}.output", f"layer {layer}, directions side by side{{t}}",
                {name: name for name in (*outputs, "x")},
                partial(theirs.side_by_side, names=outputs),
                partial(ours.wired, name="output", layer=layer),
                partial(mistakes.of_output, outputs),
                over_time=(f"lstm.layer{layer}.output", *outputs),
            )
        )  # fmt: skip
    finals = [f"{cell.name}.final_state" for cell in cells]
    for name in ("h_n", "c_n"):
        found.append(
            stage(
                f"lstm.{name}", f"final states {name}", {n: n for n in (*finals, "x")},
                partial(theirs.stacked, names=finals, hidden=lstm.hidden_size, cell=name == "c_n"),
                partial(ours.wired, name=name),
            )
        )  # fmt: skip
    if network:
        y = {"y": "lstm.output"}
        weights = stage(
            "attention.weights", "attention weights{t}", y, theirs.attention_weights,
            partial(ours.attention, name="weights"), mistakes.of_weights,
            over_time=("attention.weights", "y"),
        )  # fmt: skip
        context = stage(
            "attention.context", "attention context", y, theirs.attention_context,
            partial(ours.attention, name="context"), mistakes.of_context, parts=(weights,),
            over_time=("y",),
        )  # fmt: skip
        before_head = {
            **y, "context": "attention.context", "all": "attention.all",
            "weights": "attention.weights",
        }  # fmt: skip
        output = stage("output", "head", before_head, theirs.head, ours.head, mistakes.of_head)
        found += [weights, context, output]
    found.append(
        stage(
            "loss", f"loss ({loss.name})", {"output": "output", "goal": "target"},
            lambda model, i: loss.torch(i["output"], i["goal"]),
            lambda model, i: loss.jax(i["output"], i["goal"]),
        )
    )  # fmt: skip
    return Anatomy("output" if network else "everything", partial(truth, loss=loss), tuple(found))
