"""Locating the state dict in a training checkpoint, and the optimizer's state beside it.

Both are recognized by their contents; names are used only to choose among several.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from flax_bilstm.checkpoints import torch_file
from flax_bilstm.checkpoints.flat_optimizer import is_flat, nested
from flax_bilstm.checkpoints.stand_ins import StandIn
from flax_bilstm.showing import listed, shown

LIVE = (
    "state_dict",
    "model_state_dict",
    "model",
    "net",
    "network",
    "model_state",
    "module",
    "generator",
    "current_model_state",
    "net_state_dict",
    "model_weights",
    "weights",
)
"""The usual keys of the trained weights."""

AVERAGED = ("ema", "state_dict_ema", "ema_state_dict", "model_ema", "ema_model", "swa_state_dict")
"""The usual keys of averaged weights."""

AVERAGED_BESIDE = {"state_dict": "current_model_state"}
"""Lightning's averaging callback stores the average under the key, the trained weights beside."""

DEPTH = 3
MOST_SEARCHED = 10_000
"""Most mappings to search."""


class Found(NamedTuple):
    """A state dict and its keys, from the outermost mapping inwards.

    `around`: those mappings. `others`: the keys, with dots, of other models' state dicts.
    """

    keys: tuple[Any, ...]
    state_dict: Mapping[Any, Any]
    around: tuple[Mapping[Any, Any], ...]
    others: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The keys, joined by dots."""
        return ".".join(map(shown, self.keys))


def locate(content: Mapping[Any, Any], key: str | None = None) -> Found:
    """The state dict in `content`, or the one under `key`.

    Raises:
        ValueError: there is none, or there are several, none of them nearer to the outside than
            the others; the error lists them.
    """
    itself = Found((), content, ())
    candidates = list(_candidates(content))
    if key is not None:
        return _under(itself, key, candidates)
    known = [f for f in candidates if {f.keys[0], f.keys[-1]} & {*LIVE, *AVERAGED}]
    if not known and is_state_dict(content):
        return itself
    usual = known or candidates
    depth = min((len(found.keys) for found in usual), default=0)
    nearest = [found for found in usual if len(found.keys) == depth]
    taken = {id(found.state_dict) for found in nearest}
    models = [f for f in candidates if id(f.state_dict) in taken or _is_model(f.state_dict)]
    rivals = [found for found in models if len(found.keys) <= depth]
    if len(rivals) > 1:
        names = listed([each.name for each in rivals])
        raise ValueError(
            f"expected one state dict, got several, under {names}; choose one by key= "
            "(flax-bilstm --key)."
        )
    if nearest:
        others = tuple(each.name for each in models if id(each.state_dict) not in taken)
        return nearest[0]._replace(others=others)
    if any(isinstance(value, Mapping) and not _is_bare(value) for value in content.values()):
        raise ValueError(
            f"expected a state dict, or a mapping with one in it, got the keys {_keys(content)}"
            f"{_whole_models(content)}; save model.state_dict() by itself."
        )
    return itself


def is_tensor(value: Any) -> bool:
    """Whether a value is an array or tensor."""
    return hasattr(value, "shape") and hasattr(value, "dtype")


def is_state_dict(content: Mapping[Any, Any]) -> bool:
    """Whether any value is a tensor of numbers, other than a scalar or a generator's state."""
    return any(
        is_tensor(value) and len(value.shape) > 0 and value.dtype.kind in "fVc"
        for value in content.values()
    )


def _is_model(content: Mapping[Any, Any]) -> bool:
    """Whether a state dict has weights, and not statistics of the data alone, for example."""
    return any(isinstance(name, str) and "weight" in name for name in content)


def optimizer_beside(found: Found, notes: list[str]) -> Mapping[str, Any] | None:
    """The state of the only optimizer that trained the state dict, from the nearest mapping."""
    for around in (found.state_dict, *reversed(found.around)):
        states = [state for value in around.values() for state in _optimizers(value)]
        if len(states) > 1:
            notes.append(f"left out: the states of {len(states)} optimizers; one can be read")
            return None
        if states:
            trained = AVERAGED_BESIDE.get(found.keys[-1] if found.keys else "")
            if {*found.keys} & {*AVERAGED} or trained in around:
                notes.append("left out: the optimizer's state, which is not of averaged weights")
                return None
            return states[0]
    return None


def _optimizers(value: Any) -> Iterator[Mapping[str, Any]]:
    for each in value if isinstance(value, (list, tuple)) else [value]:
        if _is_optimizer(each):
            yield each
        elif isinstance(each, Mapping) and is_flat(each):
            yield nested(each)


def _is_optimizer(value: Any) -> bool:
    return isinstance(value, Mapping) and "param_groups" in value and "state" in value


def _is_of_optimizer(value: Mapping[Any, Any]) -> bool:
    return _is_optimizer(value) or is_flat(value)


def _candidates(content: Mapping[Any, Any]) -> list[Found]:
    """All state dicts in `content` that are not inside another one."""
    found, seen = [], {id(content)}
    queue = [Found((), content, ())]
    for outer in queue:
        for key, value in outer.state_dict.items():
            if not isinstance(value, Mapping) or id(value) in seen or _is_of_optimizer(value):
                continue
            seen.add(id(value))
            inner = Found((*outer.keys, key), value, (*outer.around, outer.state_dict))
            if is_state_dict(value):
                found.append(inner)
            elif len(inner.keys) < DEPTH and len(queue) < MOST_SEARCHED:
                queue.append(inner)
    return found


def _under(itself: Found, key: str, candidates: list[Found]) -> Found:
    content = itself.state_dict
    exact = content.get(key)
    if isinstance(exact, Mapping):
        return Found((key,), exact, (content,))
    found = next((each for each in candidates if each.name == key), None)
    if found is None:
        there = (
            f"one of {listed([each.name for each in candidates])}"
            if candidates
            else "none: no key has a state dict"
        )
        raise ValueError(f"key: expected {there}, got {shown(key)}; the keys are {_keys(content)}.")
    return found


def _is_bare(value: Any) -> bool:
    """Whether a value is a stand-in for an object without contents."""
    return isinstance(value, StandIn) and not value and not torch_file.is_module(value)


def _keys(content: Mapping[Any, Any]) -> str:
    return f"{', '.join(map(shown, list(content)[:8]))} ({len(content)} in all)"


def _whole_models(content: Mapping[Any, Any]) -> str:
    models = [key for key, value in content.items() if torch_file.is_module(value)]
    if not models:
        return ""
    name = shown(content[models[0]].name)
    return (
        f", of which {shown(models[0])} is a whole pickled model, {name}, whose code would have to "
        "run and did not"
    )
