"""The user's own objects, named on the command line: package.module:name."""

import importlib
from typing import Any, NamedTuple

from flax import nnx


def object_of(spec: str) -> Any:
    """The object specified as package.module:name."""
    module_name, _, name = spec.partition(":")
    return getattr(importlib.import_module(module_name), name)


def module_of(spec: str) -> nnx.Module:
    """The module that a function makes, specified as package.module:function."""
    try:
        made = object_of(spec)()
    except Exception as error:  # the user's code can raise anything
        raise ValueError(
            f"--into: {spec} expected a function without arguments that makes an nnx.Module; it "
            f"raised {type(error).__name__}: {error}"
        ) from error
    if not isinstance(made, nnx.Module):
        raise ValueError(
            f"--into: expected {spec} to make an nnx.Module, got {type(made).__name__}"
        )
    return made


class Rate(NamedTuple):
    """A learning rate, and how it was written on the command line."""

    value: Any
    text: str

    def __repr__(self) -> str:
        return self.text


def rate_of(text: str) -> Rate:
    """A number, or a schedule specified as package.module:schedule."""
    try:
        return Rate(object_of(text) if ":" in text else float(text), text)
    except Exception as error:  # the user's code can raise anything
        raise ValueError(
            f"--learning-rate: expected a number or package.module:schedule, got {text}, which "
            f"raised {type(error).__name__}: {error}"
        ) from error
