"""The fixed masks in PyTorch, below its modules, where all that draws a mask is seen."""

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from parity.sides.dropout import DIGITS
from parity.sides.fixed_masks import POSITIONS, VALUES, fixed_mask, varied


class _Fixing:
    """What `FixedDropout` does with every operation: a separate class, as in `parity.nudging`.

    PyTorch's layers and functions, LSTMs and attention all draw a mask by `bernoulli`, divide it by
    the share that it keeps, and multiply by it. By `VALUES`, and where there is to be no Dropout, a
    mask is that share everywhere, so that it is 1 in the end.
    """

    by: str
    masks: dict[int, tuple[torch.Tensor, float, int]]
    """id → a mask, or what was made of one; the rate, and the number of the call."""
    states: dict[bytes, int]
    """The state of the generator before a call → the number of the call."""
    used: set[int]
    random: bool

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name == "native_dropout":  # on GPUs
            x, rate, *_ = args
            drawn = self._drawn(torch.empty_like(x), 1 - rate)
            self.used.add(self.masks[id(drawn)][2])
            mask = drawn / (1 - rate)
            x = varied(x, rate, tuple(x.shape), torch) if self.by == VALUES else x
            return x * mask, mask
        if name == "native_dropout_backward":
            return args[0] * args[1]
        if name in ("bernoulli_", "bernoulli"):
            given, *keep = args
            default = 0.5 if name == "bernoulli_" else given
            mask = given if name == "bernoulli_" else torch.empty_like(given)
            return self._drawn(mask, keep[0] if keep else default)
        self.random |= _is_random(func, args, kwargs or {})
        tensors = [arg for arg in args if isinstance(arg, torch.Tensor)]
        masks = [tensor for tensor in tensors if id(tensor) in self.masks]
        if masks and len(tensors) == 2 and name in ("mul", "mul_"):
            return self._times(func, tensors[0], tensors[1], masks[0])
        result = func(*args, **(kwargs or {}))
        if masks and len(tensors) == 1:
            _, rate, call = self.masks[id(masks[0])]
            self._note(result, 1 - rate if name == "rsub" else rate, call)  # 1 − mask
        return result

    def _times(self, func: Any, one: Any, other: Any, mask: torch.Tensor) -> torch.Tensor:
        _, rate, call = self.masks[id(mask)]
        self.used.add(call)
        if self.by != VALUES:
            return func(one, other)
        x = (other if one is mask else one).expand(torch.broadcast_shapes(one.shape, other.shape))
        sizes = zip(mask.shape, mask.stride(), strict=True)
        own = [size if stride else 1 for size, stride in sizes]  # expanded: its stride is 0
        aligned = (*[1] * (x.ndim - len(own)), *own)
        made = varied(x, rate, aligned, torch) * mask
        return one.copy_(made) if func.overloadpacket.__name__ == "mul_" else made

    def _drawn(self, mask: torch.Tensor, keep: Any) -> torch.Tensor:
        """The mask, filled."""
        share = float(keep.double().mean() if isinstance(keep, torch.Tensor) else keep)
        rate = round(1 - share, DIGITS)
        call = self._number()
        if self.by == POSITIONS and mask.numel():
            mask.copy_(torch.from_numpy(fixed_mask(tuple(mask.shape), rate, call)))
        else:
            mask.fill_(share)
        self._note(mask, rate, call)
        return mask

    def _number(self) -> int:
        """The number of this call: the same if it is repeated, by `torch.utils.checkpoint`.

        That restores the state of the generator, from which the call would draw.
        """
        state = torch.get_rng_state().numpy().tobytes()
        torch.rand(())
        return self.states.setdefault(state, len(self.states))

    def _note(self, mask: Any, rate: float, call: int) -> None:
        if isinstance(mask, torch.Tensor):
            self.masks[id(mask)] = mask, rate, call


def _is_random(func: Any, args: Any, kwargs: Any) -> bool:
    """Whether an operator draws random numbers. That of attention draws none by default."""
    if torch.Tag.nondeterministic_seeded not in func.tags:
        return False
    names = [argument.name for argument in func._schema.arguments]
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    return "dropout_p" not in names or bool(given.get("dropout_p", 0))


class FixedDropout(_Fixing, TorchDispatchMode):
    """Fixes every mask of PyTorch; without `by`, there is no Dropout.

    The backward pass belongs into it, too.

    Attributes:
        random: whether anything else drew random numbers of PyTorch.
    """

    def __init__(self, by: str = "") -> None:
        super().__init__()
        self.by, self.masks, self.states, self.used, self.random = by, {}, {}, set(), False

    @property
    def replaces_all(self) -> bool:
        """Whether every mask that was drawn was multiplied by something."""
        return len(self.used) == len(self.states)
