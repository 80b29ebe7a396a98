"""Ways to plant a fault in the code of the Flax model.

A plant is a function that returns a context manager, within which the fault is in force. It changes
classes and functions, not instances: the sides of a pair, and `nnx.scan`, run copies of a module.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any
from unittest import mock

import jax.numpy as jnp
from jaxtyping import Array

from flax_bilstm import lstm, network, recurrence
from flax_bilstm.recurrence import fused, scan
from flax_bilstm.recurrence.equations import State, Weights

Plant = Callable[[], AbstractContextManager[Any]]
Run = Callable[..., tuple[Array, State]]

nothing: Plant = nullcontext


def patched(owner: Any, name: str, fault: Callable[[Any], Any]) -> Plant:
    """Replace `owner.name` by `fault` of it."""
    return lambda: mock.patch.object(owner, name, fault(getattr(owner, name)))


def implementation(fault: Callable[..., tuple[Array, State]], only: str = "both") -> Plant:
    """`fault(real, weights, x, state, valid, reverse)` in place of the default implementation."""
    real = recurrence.IMPLEMENTATIONS[recurrence.DEFAULT]

    def run(weights: Weights, x: Array, state: State, valid: Any, reverse: bool) -> Any:
        if only in ("both", "reverse" if reverse else "forward"):
            return fault(real, weights, x, state, valid, reverse)
        return real(weights, x, state, valid, reverse)

    return lambda: mock.patch.dict(recurrence.IMPLEMENTATIONS, {recurrence.DEFAULT: run})


def weights(change: Callable[[Weights], Weights], only: str = "both") -> Plant:
    """The recurrence, run on changed weights."""
    return implementation(
        lambda real, w, x, state, valid, reverse: real(change(w), x, state, valid, reverse), only
    )


def loop(step: Callable[[Weights, State, Array], State], only: str = "both") -> Plant:
    """The recurrence, replaced by a scan over `step`."""
    return both(
        patched(scan, "cell_step", lambda real: lambda *arguments: step(*arguments[:3])),
        implementation(lambda real, *arguments: scan.run_direction(*arguments), only),
    )


def in_pieces(every: int, begin: Callable[[State, State], State]) -> Plant:
    """The forward direction in pieces of `every` steps, each starting from `begin(start, state)`.

    `start` is the state that the sequence started from, `state` the one after the previous piece.
    """

    def fault(real: Run, w: Weights, x: Array, start: State, valid: Any, reverse: bool) -> Any:
        state, outputs = start, []
        for t in range(0, x.shape[0], every):
            before = begin(start, state) if t else start
            output, state = real(w, x[t : t + every], before, None, reverse)
            outputs.append(output)
        return jnp.concatenate(outputs), state

    return implementation(fault, "forward")


def product(change: Callable[[Array], Array]) -> Plant:
    """The recurrence, with its matrix products on changed operands."""
    return both(
        patched(fused, "matmul", lambda real: lambda a, b: real(change(a), change(b))),
        # Traced again: the registered one is compiled, and would keep its original products.
        implementation(lambda real, *arguments: fused.run_direction(*arguments)),
    )


def attention(fault: Callable[..., tuple[Array, Array]]) -> Plant:
    """`fault(real, y, lengths)` → (context, weights) in place of the last query's attention."""

    def replaced(real: Any) -> Any:
        return lambda y, lengths=None, kernel=None: fault(
            lambda y: real(y, lengths, kernel), y, lengths
        )

    return patched(network, "last_query", replaced)


def calling(kind: type, change: Callable[..., Any]) -> Plant:
    """`change(call, module, *arguments)` in place of calling a module of this class."""

    def replaced(real: Any) -> Any:
        def call(self: Any, *args: Any, **options: Any) -> Any:
            return change(lambda *a, **o: real(self, *a, **o), self, *args, **options)

        return call

    return patched(kind, "__call__", replaced)


def method(kind: type, name: str, change: Callable[..., Any]) -> Plant:
    """`change(method, module, *arguments)` in place of a method of a class of modules."""

    def replaced(real: Any) -> Any:
        return lambda self, *args: change(lambda *a: real(self, *a), self, *args)

    return patched(kind, name, replaced)


def lstm_results(change: Callable[[Array, Array, Array], tuple[Array, Array, Array]]) -> Plant:
    """What the LSTM returns, changed: (y, h_n, c_n)."""

    def fault(call: Any, module: Any, *args: Any, **options: Any) -> Any:
        y, (h_n, c_n) = call(*args, **options)
        y, h_n, c_n = change(y, h_n, c_n)
        return y, (h_n, c_n)

    return calling(lstm.LSTM, fault)


def head(change: Callable[[Array, Array], Array]) -> Plant:
    """`change(y, contexts of all steps)` → what the head's Linear reads."""

    def fault(call: Any, model: Any, x: Array, lengths: Any = None) -> Array:
        y, _ = model.lstm(x, lengths=lengths)
        everything, _ = model.attention(y, lengths=lengths, return_weights=True)
        return model.fc(change(y, everything))

    return calling(network.BiLSTMWithAttention, fault)


def both(*plants: Plant) -> Plant:
    """Several plants at once."""

    @contextmanager
    def plant() -> Iterator[None]:
        with ExitStack() as planted:
            for each in plants:
                planted.enter_context(each())
            yield

    return plant
