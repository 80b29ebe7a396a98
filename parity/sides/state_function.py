"""A candidate that is a function of the reference's state dict, as a Flax module."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import torch
from flax import nnx

from flax_bilstm.conversion.rows import Row, matches
from flax_bilstm.conversion.tensors import to_numpy
from flax_bilstm.conversion.transforms import SAME, tied


class StateFunction(nnx.Module):
    """A function of the reference's state dict and the inputs, as a module.

    It trains all parameters except frozen and ignored ones, which are still in its state dict. A
    tied parameter is one variable, under its first name.
    """

    def __init__(
        self, function: Callable[..., Any], torch_model: torch.nn.Module, ignore: Sequence[str]
    ) -> None:
        self.function, self.ignore = function, tuple(ignore)
        every = torch_model.named_parameters(remove_duplicate=False)
        first = {id(p): n for n, p in torch_model.named_parameters()}
        self.tied = {n: first[id(p)] for n, p in every if first[id(p)] != n}
        trained = {
            n for n, p in torch_model.named_parameters()
            if p.requires_grad and not matches(n, ignore)
        }  # fmt: skip
        with jax.enable_x64(True):  # otherwise counts of batches, in int64, would become int32
            self.tensors = nnx.Dict(
                {
                    name.replace(".", "/"): (nnx.Param if name in trained else nnx.BatchStat)(
                        jnp.asarray(tensor)
                    )
                    for name, tensor in to_numpy(torch_model.state_dict()).items()
                    if name not in self.tied
                }
            )

    def leave(self, names: Iterable[str]) -> None:
        """Train none of these parameters, since the reference trains none of them."""
        for ours in (name.replace(".", "/") for name in names):
            if isinstance(self.tensors.get(ours), nnx.Param):
                self.tensors[ours] = nnx.BatchStat(self.tensors[ours][...])

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The function's result."""
        state = {name.replace("/", "."): leaf[...] for name, leaf in self.tensors.items()}
        others = {name: state[first] for name, first in self.tied.items()}
        return self.function({**state, **others}, *args, **kwargs)

    def rows(self) -> tuple[Row, ...]:
        """A row for every tensor except ignored ones, in the reference's layout."""
        found = []
        for ours in self.tensors:
            first = ours.replace("/", ".")
            every = (first, *(name for name, held in self.tied.items() if held == first))
            names = tuple(name for name in every if not matches(name, self.ignore))
            transform = tied([(SAME, 1) for _ in names]) if len(names) > 1 else SAME
            found += [Row(names, (("tensors", ours),), transform)] if names else []
        return tuple(found)
