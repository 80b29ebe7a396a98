"""A candidate that is a function of the reference's state dict, as a Flax module."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import torch
from flax import nnx

from flax_bilstm.conversion.rows import Row, matches
from flax_bilstm.conversion.tensors import to_numpy
from flax_bilstm.conversion.transforms import SAME


class StateFunction(nnx.Module):
    """A function of the reference's state dict and the inputs, as a module.

    It trains all parameters except frozen and ignored ones, which are still in its state dict.
    """

    def __init__(
        self, function: Callable[..., Any], torch_model: torch.nn.Module, ignore: Sequence[str]
    ) -> None:
        self.function, self.ignore = function, tuple(ignore)
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
                }
            )

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The function's result."""
        state = {name.replace("/", "."): leaf[...] for name, leaf in self.tensors.items()}
        return self.function(state, *args, **kwargs)

    def rows(self) -> tuple[Row, ...]:
        """A row for every tensor except ignored ones, in the reference's layout."""
        named = {name.replace("/", "."): name for name in self.tensors}
        return tuple(
            Row((theirs,), (("tensors", ours),), SAME)
            for theirs, ours in named.items()
            if not matches(theirs, self.ignore)
        )
