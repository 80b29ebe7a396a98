"""What no pair can be made of, refused with the reason."""

from collections.abc import Collection, Mapping
from typing import Any

import torch
from flax import linen, nnx
from torch.jit import ScriptModule
from torch.nn.parameter import is_lazy


def known_differences(known: Mapping[str, str]) -> None:
    """ValueError for a known difference without a reason."""
    for pattern, reason in known.items():
        if not isinstance(reason, str) or not reason:
            raise ValueError(f"known: expected words on why {pattern!r} differs, got {reason!r}")


def models(torch_model: Any, flax_model: Any) -> None:
    """TypeError for models of another type, ValueError for parameters that cannot be compared."""
    if not isinstance(torch_model, torch.nn.Module):
        raise TypeError(f"torch_model: expected torch.nn.Module, got {type(torch_model).__name__}")
    compiled = [type(m).__name__ for m in torch_model.modules() if isinstance(m, ScriptModule)]
    if compiled:
        raise TypeError(
            f"torch_model: expected a module of Python code, got {compiled[0]}, which torch.jit "
            "made: it cannot be run stage by stage, nor a traced one in float64; pass the module "
            "that it was made of"
        )
    lazy = [n for n, p in torch_model.named_parameters() if is_lazy(p)]
    if lazy:
        raise ValueError(
            f"torch_model: expected parameters that have shapes, got {lazy}, which are not "
            "initialized; call the model once"
        )
    unreal = [n for n, p in torch_model.named_parameters() if p.is_complex()]
    if unreal:
        raise ValueError(
            f"torch_model: expected real parameters, got complex {unreal}; hold two real ones"
        )
    _shared(torch_model)
    kind = type(flax_model).__name__
    if not isinstance(flax_model, nnx.Module) and (
        not callable(flax_model) or isinstance(flax_model, torch.nn.Module | type)
    ):
        raise TypeError(f"flax_model: expected nnx.Module, or a function, got {kind}")
    if isinstance(flax_model, linen.Module):
        raise TypeError(
            f"flax_model: expected nnx.Module, got {kind}, a module of flax.linen; wrap it: "
            "nnx.bridge.ToNNX(module, rngs=nnx.Rngs(0)).lazy_init(x)"
        )


def _shared(torch_model: torch.nn.Module) -> None:
    """ValueError if parameters are one tensor in memory, but not one parameter: copies lose it."""
    first: dict[int, str] = {}
    for name, held in torch_model.named_parameters():
        other = first.setdefault(held.data_ptr(), name) if held.data_ptr() else name
        if other != name:
            raise ValueError(
                f"torch_model: {other} and {name} share their memory, but are two parameters; make "
                "them one: assign the parameter itself, not its .data"
            )


def stages(name: str, wanted: Collection[str], known: Collection[str]) -> None:
    """ValueError for stages that the model of this name does not have."""
    unknown = [path for path in wanted if path not in known]
    if unknown:
        expected = [path for path in known if path]
        raise ValueError(f"stages: {name} has no {unknown}; expected any of {expected}")
