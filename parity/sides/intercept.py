"""Intercepts calls of submodules: records their inputs and outputs, and can replace either.

A stage is a submodule's output, named by its path, `blocks.0.norm`, or its input,
`blocks.0.norm.input`. If a submodule is called again, the number of the call follows its name,
`norm[1]`. Arrays in tuples, dicts and dataclasses are named by their place, `gru.0`, and keyword
arguments by their keyword, `norm.input.mask`. Inputs and outputs of some pairs of modules have
names and a layout of their own (`parity.sides.ports`).
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import Any, Protocol

from flax import nnx

from parity.sides import trees

Call = Callable[..., Any]
Handler = Callable[[Call, tuple, dict], Any]
"""(the original call, positional arguments, keyword arguments) → what the caller gets."""

_HANDLERS: dict[int, Handler] = {}


class Ports(Protocol):
    """How to read and replace the input and output arrays of a kind of module."""

    def arguments(
        self, name: str, args: tuple, kwargs: dict, change: trees.Change
    ) -> tuple[tuple, dict]:
        """The arguments of a call with every array changed."""

    def result(self, name: str, value: Any, change: trees.Change) -> Any:
        """The result of that call with every array changed."""


class AnyModule:
    """All arrays anywhere in arguments and results."""

    def arguments(
        self, name: str, args: tuple, kwargs: dict, change: trees.Change
    ) -> tuple[tuple, dict]:
        """`name.input` for a single argument, else `name.input.0` and so on."""
        name = f"{name}.input"
        if len(args) == 1:
            args = (trees.mapped(name, args[0], change),)
        else:
            args = tuple(trees.mapped(f"{name}.{i}", a, change) for i, a in enumerate(args))
        return args, {k: trees.mapped(f"{name}.{k}", v, change) for k, v in kwargs.items()}

    def result(self, name: str, value: Any, change: trees.Change) -> Any:
        """`name`, or `name.0` and so on."""
        return trees.mapped(name, value, change)


class Taps:
    """Collects the stages of one run, in order of computation.

    Args:
        substitute: (stage, value) → the value that the run continues with.
        chosen: the stages to collect; None for all.
        copied: copies a value that is recorded, since the model may change it in place.
        here: whether a call happens in the outermost program: in Flax a submodule may be called
            inside a transformation such as `jax.vmap`, and its values do not exist outside.

    Attributes:
        own: the values that the run itself computed, by stage.
        hidden: paths of the submodules whose calls could not be intercepted.
    """

    def __init__(
        self,
        substitute: trees.Change = lambda name, value: value,
        chosen: frozenset[str] | None = None,
        here: Callable[[], bool] = lambda: True,
        copied: Callable[[Any], Any] = lambda value: value,
    ) -> None:
        self.own: dict[str, Any] = {}
        self.hidden: set[str] = set()
        self._substitute, self._chosen, self._here = substitute, chosen, here
        self._copied = copied
        self._calls: Counter[str] = Counter()

    def handler(self, path: str, ports: Ports) -> Handler:
        """The handler for calls of the submodule at this path."""

        def handle(call: Call, args: tuple, kwargs: dict) -> Any:
            if not self._here():
                self.hidden.add(path)
                return call(*args, **kwargs)
            count = self._calls[path]
            self._calls[path] += 1
            name = f"{path}[{count}]" if count else path
            given = args, kwargs
            args, kwargs = ports.arguments(name, args, kwargs, self.keep)
            write_back = trees.writing_back(given, (args, kwargs))
            with placed(name):
                result = call(*args, **kwargs)
            write_back()
            return ports.result(name, result, self.keep)

        return handle

    def keep(self, name: str, value: Any) -> Any:
        """Record the value of a stage; return the value that the run continues with.

        Of two stages of one name, such as a submodule and a key of what its parent returns, the
        first one is the stage.
        """
        if name in self.own or (self._chosen is not None and name not in self._chosen):
            return value
        self.own[name] = self._copied(value)
        return self._substitute(name, value)


@contextmanager
def placed(stage: str) -> Iterator[None]:
    """Note on an exception the stage that raised it, unless one is noted already."""
    try:
        yield
    except Exception as error:
        noted: Any = error
        if not hasattr(noted, "parity_stage"):
            noted.parity_stage = stage
        raise


@contextmanager
def intercepted_torch(
    handlers: Mapping[str, Handler], modules: Mapping[str, Any]
) -> Iterator[None]:
    """Route the calls of these torch modules, by path, through their handlers."""

    def replaced(handler: Handler, call: Call) -> Call:
        return lambda *args, **kwargs: handler(call, args, kwargs)

    with ExitStack() as undo:
        for path, handler in handlers.items():
            module = modules[path]
            # `torch.nn.Module.__call__` prefers the instance's `forward` to that of the class.
            own = vars(module).get("forward")
            restore = (
                (module.__dict__.pop, "forward")
                if own is None
                else (setattr, module, "forward", own)
            )
            module.forward = replaced(handler, module.forward)
            undo.callback(*restore)
        yield


@contextmanager
def intercepted_nnx(handlers: Mapping[str, Handler], modules: Mapping[str, Any]) -> Iterator[None]:
    """Route the calls of these NNX modules, by path, through their handlers.

    Copies that a transformation in the model makes of them, such as `nnx.scan`, are not affected.
    """
    with ExitStack() as undo:
        for path, handler in handlers.items():
            module = modules[path]
            undo.callback(object.__setattr__, module, "__class__", type(module))
            undo.callback(_HANDLERS.pop, id(module))
            _HANDLERS[id(module)] = handler
            kind: Any = type(module)
            object.__setattr__(module, "__class__", _watched(kind))
        yield


@cache
def _watched(kind: type) -> type:
    """The class, but with calls of its modules routed through their handlers."""

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        handler = _HANDLERS.get(id(self))
        if handler is None:
            return kind.__call__(self, *args, **kwargs)
        return handler(lambda *a, **k: kind.__call__(self, *a, **k), args, kwargs)

    return type(kind.__name__, (kind,), {"__call__": call})


def torch_submodules(module: Any) -> dict[str, Any]:
    """Path → submodule, the module itself under ""."""
    return dict(module.named_modules())


def nnx_submodules(module: nnx.Module) -> dict[str, Any]:
    """Path → submodule, the module itself under ""."""
    return {".".join(map(str, path)): found for path, found in nnx.iter_modules(module)}
