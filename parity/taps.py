"""Taps on the submodules of a running model: what went in, what came out, and the same by force.

A stage is a submodule's output under its path, `blocks.0.norm`, or what it was called with,
`blocks.0.norm.input`. When a submodule is called again its name is followed by the number of the
call, `norm[1]`; arrays in tuples and dicts by where they lie there, `gru.0`. Arguments given by
name are not tapped.

With `given` values, every tapped submodule computes from the given input, and what surrounds it
goes on with the given output, so that nothing is inherited: an output that still differs is that
submodule's own error, and an input that differs is an error of the code around it.

PyTorch's forward hooks do both. Flax's `nnx.capture` keeps outputs only, without their order, and
cannot put others in their places; so a tapped NNX module has its class's `__call__` wrapped.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any


class Taps:
    """Gathers the stages of one run, in order of computation, as `stages`.

    Args:
        given: stages to compute from, in place of what the run itself computed before; empty for a
            run as it is.
    """

    def __init__(self, given: Mapping[str, Any]) -> None:
        self.given = given
        self.stages: dict[str, Any] = {}
        self._calls: Counter[str] = Counter()
        self._running: list[str] = []

    def enter(self, path: str, args: tuple) -> tuple:
        """Notes that a submodule is called with these; what it is to compute from."""
        count = self._calls[path]
        self._calls[path] += 1
        self._running.append(f"{path}[{count}]" if count else path)
        name = f"{self._running[-1]}.input"
        return (self._keep(name, args[0]),) if len(args) == 1 else self._keep(name, args)

    def leave(self, result: Any) -> Any:
        """Notes what the submodule entered last returns; what its caller is to get."""
        return self._keep(self._running.pop(), result)

    def _keep(self, name: str, value: Any) -> Any:
        """Notes every array in the value; the value with the given arrays in their places."""
        if isinstance(value, Mapping):
            return type(value)(**{k: self._keep(f"{name}.{k}", v) for k, v in value.items()})
        if isinstance(value, tuple | list):
            parts = [self._keep(f"{name}.{i}", v) for i, v in enumerate(value)]
            return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
        if not hasattr(value, "shape"):
            return value
        self.stages[name] = value
        given = self.given.get(name)
        return given if given is not None and given.shape == value.shape else value


@contextmanager
def tapped_torch(modules: Mapping[str, Any], taps: Taps) -> Iterator[None]:
    """While it lasts, every call of these torch modules, by path, goes through the taps."""

    def hooks(path: str) -> tuple[Any, Any]:
        return (
            lambda module, args: taps.enter(path, args),
            lambda module, args, result: taps.leave(result),
        )

    with ExitStack() as undo:
        for path, module in modules.items():
            before, after = hooks(path)
            undo.callback(module.register_forward_pre_hook(before).remove)
            undo.callback(module.register_forward_hook(after).remove)
        yield


@contextmanager
def tapped_nnx(modules: Mapping[str, Any], taps: Taps) -> Iterator[None]:
    """While it lasts, every call of these NNX modules, by path, goes through the taps.

    It acts for these very objects: copies that a transformation inside the model makes of them,
    `nnx.scan` say, are not tapped.
    """
    paths = {id(module): path for path, module in modules.items()}

    def wrapped(kind: Any) -> Any:
        function = kind.__call__

        def call(self: Any, *args: Any, **options: Any) -> Any:
            if type(self) is not kind or id(self) not in paths:  # a subclass calling up, or another
                return function(self, *args, **options)
            return taps.leave(function(self, *taps.enter(paths[id(self)], args), **options))

        return call

    with ExitStack() as undo:
        for kind in {type(module) for module in modules.values()}:
            own = vars(kind).get("__call__")
            restore = (
                (delattr, kind, "__call__") if own is None else (setattr, kind, "__call__", own)
            )
            kind.__call__ = wrapped(kind)
            undo.callback(*restore)
        yield
