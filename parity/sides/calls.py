"""How to call a model with named inputs."""

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import flax_bilstm as fb
from parity.sides.paired import are_lstms

Call = Callable[[Any, Mapping[str, Any]], Any]
"""(model, inputs by name) → the model's output."""


MODES = {
    "deterministic": False, "use_running_average": False,
    "train": True, "training": True, "is_training": True, "is_train": True,
}  # fmt: skip
"""A keyword by which models of Flax are told their mode → its value in training mode."""


@dataclass(frozen=True)
class Positional:
    """Passes inputs by position, then those by keyword; leaves out the inputs of the loss.

    Attributes:
        positional: the names of the inputs by position.
        keywords: those of the inputs by keyword.
        modes: a keyword that says which mode the model is in → what is passed.
    """

    positional: tuple[str, ...] = ("x",)
    keywords: tuple[str, ...] = ()
    modes: tuple[tuple[str, bool], ...] = ()

    def __call__(self, model: Any, inputs: Mapping[str, Any]) -> Any:
        """What the model returns."""
        args = (inputs[name] for name in self.positional if name in inputs)
        named = {name: inputs[name] for name in self.keywords if name in inputs}
        return model(*args, **named, **dict(self.modes))

    def in_modes(self, forward: Callable[..., Any]) -> tuple["Positional", "Positional"]:
        """The call in evaluation mode and in training mode, if the method has such a keyword."""
        told = {name: MODES[name] for name in self._others(forward) if name in MODES}
        evaluating, training = (
            tuple((name, is_training == means) for name, means in told.items())
            for is_training in (False, True)
        )
        return replace(self, modes=evaluating), replace(self, modes=training)

    def not_given(self, forward: Callable[..., Any]) -> list[str]:
        """The arguments of a user's method that nothing is passed for: they have defaults."""
        if (forward.__module__ or "").partition(".")[0] in ("torch", "flax"):
            return []
        needed = inspect.Parameter.empty
        given = inspect.signature(forward).parameters
        others = (name for name in self._others(forward) if name not in (*MODES, "rngs"))
        return [name for name in others if given[name].default is not needed]

    def _others(self, forward: Callable[..., Any]) -> list[str]:
        """The names of the method's arguments that are no inputs; not of those in `**kwargs`."""
        later = list(inspect.signature(forward).parameters.values())[1 + len(self.positional) :]
        named = {inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY}
        return [p.name for p in later if p.kind in named and p.name not in self.keywords]


POSITIONAL = Positional()
"""The default: a model of one input, x."""


def torch_lstm(model: Any, inputs: Mapping[str, Any]) -> Any:
    """Call a `torch.nn.LSTM` on x and, if there are any, h_0, c_0 and lengths."""
    x, lengths = inputs["x"], inputs.get("lengths")
    state = (inputs["h_0"], inputs["c_0"]) if "h_0" in inputs else None
    if lengths is None:
        return model(x, state)
    first = model.batch_first
    packed = pack_padded_sequence(x, lengths.cpu(), first, enforce_sorted=False)
    y, final = model(packed, state)
    y, _ = pad_packed_sequence(y, first, total_length=x.shape[1 if first else 0])
    return y, final


def flax_lstm(model: Any, inputs: Mapping[str, Any]) -> Any:
    """Call a `flax_bilstm.LSTM` on the same inputs."""
    state = (inputs["h_0"], inputs["c_0"]) if "h_0" in inputs else None
    return model(inputs["x"], initial_state=state, lengths=inputs.get("lengths"))


@dataclass(frozen=True)
class Calling:
    """How both models are called, each in evaluation mode and in training mode.

    Attributes:
        torch: the calls of the reference.
        flax: the calls of the candidate.
        alone: whether the reference takes no lengths, and each sequence is run unpadded by itself.
        defaults: the names of arguments that nothing is passed for.
    """

    torch: tuple[Call, Call]
    flax: tuple[Call, Call]
    alone: bool = False
    defaults: frozenset[str] = frozenset()


def of_models(
    torch_model: torch.nn.Module,
    model: Any,
    inputs: Collection[str],
    keywords: Sequence[str],
    targets: Collection[str],
) -> Calling:
    """How to call both models with these inputs, those of the loss among them."""
    if are_lstms(torch_model, model):
        return Calling((torch_lstm, torch_lstm), (flax_lstm, flax_lstm))
    alone = isinstance(model, fb.BiLSTMWithAttention)
    positional = tuple(n for n in inputs if n not in (*keywords, *targets))
    theirs = Positional(("x",) if alone else positional, tuple(keywords))
    ours = Positional(("x",), ("lengths",)) if alone else theirs
    forward, call = type(torch_model).forward, type(model).__call__
    defaults = frozenset((*theirs.not_given(forward), *ours.not_given(call)))
    return Calling(theirs.in_modes(forward), ours.in_modes(call), alone, defaults)
