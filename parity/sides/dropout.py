"""The rates of Dropout, which are compared, since the masks differ; and training without it."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from flax import nnx

from parity.sides.side import Setting, distinct

_RATES: tuple[tuple[Any, str], ...] = (
    (torch.nn.modules.dropout._DropoutNd, "p"),
    (torch.nn.RNNBase, "dropout"),
    (torch.nn.MultiheadAttention, "dropout"),
    (nnx.Dropout, "rate"),
    (nnx.MultiHeadAttention, "dropout_rate"),
)
"""The layers that have a Dropout rate, and the attribute that has it."""


def setting(
    torch_modules: Mapping[str, Any], flax_modules: Mapping[str, Any], stages: Mapping[str, str]
) -> Setting:
    """The rates of each pair of layers, then those of the other layers, each once.

    A layer is paired with that of its name, or with the only one inside the module of its name.
    The others are not counted: one layer may be called where the other side has several. So a
    layer that is left on one side only needs the rate of any layer of the other side, unless that
    side has a layer of its name.
    """
    theirs, ours = rates(torch_modules), rates(flax_modules)
    pairs = {}
    for path in theirs.keys() & stages.keys():
        own = stages[path]
        inside = [name for name in ours if name == own or name.startswith(f"{own}.")]
        if len(inside) == 1:
            pairs[path] = inside[0]
    paired = sorted({(theirs[path], ours[own]) for path, own in pairs.items()})
    alone = [path for path in theirs if path not in pairs]
    ours_alone = [path for path in ours if path not in pairs.values()]
    repeated = set() if ours_alone else {p for p in alone if theirs[p] in ours.values()}
    ours_repeated = set() if alone else {p for p in ours_alone if ours[p] in theirs.values()}
    rest = (
        distinct(theirs[p] for p in alone if p in stages or p not in repeated),
        distinct(ours[p] for p in ours_alone if p in stages.values() or p not in ours_repeated),
    )
    apart = [path for path, own in pairs.items() if theirs[path] != ours[own]]
    apart += [*alone, *ours_alone] if rest[0] != rest[1] else []
    return Setting(
        "dropout rate",
        (*(rate for rate, _ in paired), *rest[0]),
        (*(rate for _, rate in paired), *rest[1]),
        f", at {', '.join(sorted(apart))}" if apart and all(apart) else "",
    )


def rates(modules: Mapping[str, Any]) -> dict[str, float]:
    """The rates above 0 of layers, by their paths."""
    every = ((p, getattr(m, name)) for p, m in modules.items() for name in _rate_attributes(m))
    return {path: round(float(rate), 9) for path, rate in every if rate}


def stop(modules: Iterable[Any]) -> None:
    """Set the rates of these modules to 0."""
    for module in modules:
        for attribute in _rate_attributes(module):
            setattr(module, attribute, 0.0)


def _rate_attributes(module: Any) -> Iterator[str]:
    return (attribute for kind, attribute in _RATES if isinstance(module, kind))
