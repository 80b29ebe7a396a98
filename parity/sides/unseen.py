"""Notes for the report on what a comparison cannot see, since it runs models in evaluation mode.

Settings that matter only in training mode are compared between the models, but no numbers are.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from flax import nnx

from parity.sides.side import Arrays


def notes(torch_model: torch.nn.Module, flax_model: nnx.Module, held: Arrays) -> Iterator[str]:
    """Sentences on dropout, running averages and parameters whose values hide how they are used.

    Args:
        torch_model: the reference.
        flax_model: the candidate.
        held: the reference's parameters by name.
    """
    theirs = list(torch_model.modules())
    ours = [module for _, module in nnx.iter_modules(flax_model)]
    settings = {
        "dropout": (_torch_dropout(theirs), _flax_dropout(ours)),
        "momentum of running averages": (_torch_momentum(theirs), _flax_momentum(ours)),
    }
    for what, (reference, candidate) in settings.items():
        if reference != candidate:
            yield (
                f"{what} differs, which evaluation mode does not show: {reference or 'none'} in "
                f"the reference, {candidate or 'none'} in the candidate"
            )
        elif reference:
            yield f"not run, since it is training mode's: {what}, {reference} in both"
    if held and not any(np.any(array) for array in held.values()):
        yield "every parameter is 0: most mistakes leave no trace in what is computed from them"


def _torch_dropout(modules: list[Any]) -> list[float]:
    kinds = torch.nn.modules.dropout._DropoutNd
    rates = [module.p for module in modules if isinstance(module, kinds)]
    rates += [module.dropout for module in modules if isinstance(module, torch.nn.RNNBase)]
    return sorted(float(rate) for rate in rates if rate)


def _flax_dropout(modules: list[Any]) -> list[float]:
    """The rates of all Dropout layers, of those in `flax_bilstm.LSTM` too."""
    return sorted(float(m.rate) for m in modules if isinstance(m, nnx.Dropout) and m.rate)


def _torch_momentum(modules: list[Any]) -> list[float]:
    kinds = torch.nn.modules.batchnorm._BatchNorm
    return sorted(round(m.momentum or 0.0, 9) for m in modules if isinstance(m, kinds))


def _flax_momentum(modules: list[Any]) -> list[float]:
    """The momentum in PyTorch's meaning: the weight of the new value, not of the old one."""
    return sorted(round(1 - m.momentum, 9) for m in modules if isinstance(m, nnx.BatchNorm))
