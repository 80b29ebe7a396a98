"""Taps on the submodules of a running model: what went in, what came out, and the same by force.

A stage is a submodule's output under its path, `blocks.0.norm`, or what it was called with,
`blocks.0.norm.input`. When a submodule is called again its name is followed by the number of the
call, `norm[1]`; arrays in tuples and dicts by where they lie there, `gru.0`.

With `given` values, every tapped submodule computes from the given input, and what surrounds it goes
on with the given output, so that nothing is inherited: an output that still differs is that
submodule's own error, and an input that differs is an error of the code around it.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

OUTPUT = "output"
"""The stage that the whole model returns: always the last, and always one array."""


class Taps:
    """Gathers the stages of one run.

    Args:
        given: stages to compute from, in place of what the run itself computed before; empty for a
            run as it is.
    """

    def __init__(self, given: Mapping[str, Any]) -> None:
        self.given = given
        self.stages: dict[str, Any] = {}
        self._calls: Counter[str] = Counter()

    def call(self, path: str, function: Callable[..., Any], args: tuple, options: dict) -> Any:
        """What the surrounding code is to get for `function(*args, **options)`."""
        count = self._calls[path]
        self._calls[path] += 1
        name = f"{path}[{count}]" if count else path
        inputs = args[0] if len(args) == 1 else args
        inputs = self._keep(f"{name}.input", inputs)
        args = (inputs,) if len(args) == 1 else inputs
        return self._keep(name, function(*args, **options))

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
def tapped(modules: Mapping[str, Any], method: str, taps: Taps) -> Iterator[None]:
    """While it lasts, every call of these modules goes through the taps.

    The method is replaced on the modules' classes and acts for these very objects alone: those that
    a transformation inside the model makes of them, under a `jax.lax.scan` say, are not tapped.

    Args:
        modules: by path.
        method: what a call ends in: "forward" in torch, "__call__" in Flax.
        taps: what gathers.
    """
    paths = {id(module): path for path, module in modules.items()}
    kinds = {type(module) for module in modules.values()}
    own = {kind: vars(kind).get(method) for kind in kinds}
    for kind in kinds:
        setattr(kind, method, _through(kind, getattr(kind, method), paths, taps))
    try:
        yield
    finally:
        for kind, function in own.items():
            if function is None:  # inherited
                delattr(kind, method)
            else:
                setattr(kind, method, function)


def _through(kind: type, function: Any, paths: Mapping[int, str], taps: Taps) -> Any:
    def call(self: Any, *args: Any, **options: Any) -> Any:
        path = paths.get(id(self)) if type(self) is kind else None  # not where a subclass calls up
        if path is None:
            return function(self, *args, **options)
        return taps.call(path, lambda *a, **o: function(self, *a, **o), args, options)

    return call
