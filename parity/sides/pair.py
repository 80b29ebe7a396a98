"""A `torch.nn.Module` and its Flax counterpart as a pair of sides.

Every submodule that can be intercepted on both sides is a stage.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from flax import nnx

from flax_bilstm.conversion.rows import matches
from flax_bilstm.conversion.tree import dotted
from parity.sides import calls, hiding, paired, refused, spare, training_mode, unreached
from parity.sides.both_modes import Shown, shown_by, shown_with
from parity.sides.common_stages import common_stages
from parity.sides.fresh import movable, other_values
from parity.sides.losses import MEAN_SQUARED_ERROR, Loss
from parity.sides.nnx_side import NnxSide
from parity.sides.paired import Names
from parity.sides.side import Arrays, Pair
from parity.sides.state_function import StateFunction
from parity.sides.torch_side import TorchSide


@dataclass(frozen=True)
class ModulePair(Pair):
    """A pair of two modules, in which the cause of a failed check can be located.

    Attributes:
        torch_model: the reference.
        flax_model: the candidate.
        stages: torch path → Flax path of the submodules that are intercepted.
        lstms: torch paths of those that are an nn.LSTM in torch and a flax_bilstm.LSTM in Flax.
    """

    reference: TorchSide
    candidate: NnxSide
    torch_model: Any = None
    flax_model: Any = None
    stages: Mapping[str, str] | None = None
    lstms: tuple[str, ...] = ()


def of_modules(
    torch_model: torch.nn.Module,
    flax_model: nnx.Module | Callable[..., Any],
    inputs: Arrays,
    *,
    names: Names | None = None,
    ignore: Sequence[str] = (),
    stages: Mapping[str, str] | None = None,
    loss: Loss = MEAN_SQUARED_ERROR,
    keywords: Sequence[str] = (),
    targets: Sequence[str] = (),
    known: Mapping[str, str] | None = None,
) -> ModulePair:
    """The pair of torch_model, the reference, and flax_model, the candidate.

    Args:
        torch_model: the reference.
        flax_model: the candidate: a module, or a function of a state dict (names → arrays) and the
            inputs.
        inputs: the inputs of both models by name, in order.
        names: see `flax_bilstm.load_state_dict`.
        ignore: patterns of torch names without a counterpart, for instance buffers of a loss.
        stages: torch path → Flax path of the submodules to compare; None: all that both have.
        loss: the loss of the gradients and of training.
        keywords: the inputs that are passed by keyword.
        targets: the inputs that only the loss reads.
        known: known differences, a pattern of rows → the reason.

    Raises:
        TypeError: one of the models is of an unsupported type.
        ValueError: parameters have no counterpart, or another shape (the message names all), a
            model lacks a stage, or a known difference has no reason.
    """
    refused.known_differences(known or {})
    refused.models(torch_model, flax_model)
    is_module = isinstance(flax_model, nnx.Module)
    model: Any = flax_model if is_module else StateFunction(flax_model, torch_model, ignore)
    tensors = paired.tensors(torch_model, model, names, ignore)
    submodules = paired.submodules(torch_model, model, names, stages)
    calling = calls.of_models(torch_model, model, inputs, keywords, targets)
    shared: Any = {
        "loss": loss, "stages": submodules.stages, "with_ports": submodules.with_ports,
        # A layer has the name of the output.
        "output": "the output" if hasattr(torch_model, "output") else "output",
    }  # fmt: skip
    reference = TorchSide(
        torch_model, calling.torch[0], training_call=calling.torch[1], alone=calling.alone,
        names=[name for row in tensors.rows for name in row.torch_names], **shared,
    )  # fmt: skip

    def of_candidate() -> NnxSide:
        evaluating, training = calling.flax
        return NnxSide(
            model, tensors.rows, evaluating, training_call=training, **shared,
            theirs=reference.parameters,
        )  # fmt: skip

    shown, candidate = shown_by(reference, inputs), of_candidate()
    read = {name: array for name, array in inputs.items() if name not in targets}
    if isinstance(model, StateFunction) and shown.unused:
        model.leave(candidate.without_slope(shown.unused, read))
        candidate = of_candidate()
    chosen, notes = common_stages(reference, candidate, read)
    reference, candidate.running.chosen = reference.choosing(chosen), chosen
    fresh, unmoved = movable(reference, read)
    if fresh:
        others = other_values(reference.parameters, fresh)
        shown = shown_with(shown, reference, others, inputs)
    notes += spare.notes(tensors, candidate, model, calling.flax[0], read)
    spared = {dotted(path) for row in tensors.spare for path in row.paths}
    state = torch_model.state_dict()
    ignored = [name for name in state if matches(name, ignore)]
    idle = [pattern for pattern in ignore if not any(matches(n, [pattern]) for n in state)]
    notes += [f"ignore: torch_model has no tensor called {pattern}" for pattern in idle]
    ignored += [name for name in candidate.unpaired if name not in spared]
    single = hiding.with_single_axis(reference, read)
    notes += hiding.notes(
        ignored, reference.parameters, inputs, calling.defaults, single,
        hiding.of_0_or_1(torch_model),
    )  # fmt: skip
    notes += _of_runs(reference, inputs, shown)
    trained = (
        training_mode.of_function(reference, shown)
        if isinstance(model, StateFunction)
        else training_mode.arrange(reference, candidate, model, shown, read, submodules.named)
    )
    return ModulePair(
        reference, candidate, loss.name, (*notes, *unmoved, *trained.notes), trained.settings,
        trained.only, fresh, dict(known or {}), torch_model, model, submodules.stages,
        submodules.lstms,
    )  # fmt: skip


def _of_runs(reference: TorchSide, inputs: Arrays, shown: Shown) -> Iterator[str]:
    """Notes on what one call with these inputs, in one of two modes, does not show."""
    yield from unreached.of_reference(reference, inputs, training=not shown.problem)
    module = reference.module
    other = [path for path, m in module.named_modules() if m.training != module.training]
    if other:
        words = "in torch_model, some modules are in another mode, but each run is in one for all"
        yield f"{words}: {', '.join(other)}"
    sparse = [path for path, m in module.named_modules() if getattr(m, "sparse", False) is True]
    if sparse:
        yield f"the gradients of {', '.join(sparse)} are dense here, and sparse in torch_model"
    if shown.moved:
        yield f"torch_model changes {', '.join(shown.moved)}, so only first calls are compared"
