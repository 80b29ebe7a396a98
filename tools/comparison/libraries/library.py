"""The interface of an adapter: PyTorch's LSTM weights in, the library's LSTM run on them."""

import contextlib
import importlib
import inspect
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.metadata import version
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np

Weights = Mapping[str, np.ndarray]
Options = Mapping[str, Any]
Outcome = tuple[Any, tuple[Any, Any]]
"""outputs (batch, time, directions·out) and torch's (h_n, c_n)."""


class LacksError(Exception):
    """The library has no such option."""


def lacks(what: str, names: Iterable[str], *among: Any) -> NoReturn:
    """Raise LacksError, after checking that none of `names` is an argument or name of `among`."""
    for thing in among:
        present = (
            set(dir(thing)) if inspect.ismodule(thing) else set(inspect.signature(thing).parameters)
        )
        assert not present & set(names), f"{thing} has {present & set(names)} now: {what}"
    raise LacksError(what)


def directions(weights: Weights, layer: int) -> list[tuple[np.ndarray, ...]]:
    """(weight_ih, weight_hh, bias_ih + bias_hh) of each direction of one layer."""
    suffixes = [s for s in ("", "_reverse") if f"weight_ih_l{layer}{s}" in weights]
    return [
        (
            weights[f"weight_ih_l{layer}{suffix}"],
            weights[f"weight_hh_l{layer}{suffix}"],
            weights[f"bias_ih_l{layer}{suffix}"] + weights[f"bias_hh_l{layer}{suffix}"],
        )
        for suffix in suffixes
    ]


def reordered(array: np.ndarray, order: str) -> np.ndarray:
    """torch's gate blocks i, f, g, o on axis 0, reordered."""
    blocks = dict(zip("ifgo", np.split(array, 4), strict=True))
    return np.concatenate([blocks[gate] for gate in order])


class Library:
    """`params` converts torch's weights; `apply` runs on them; everything else uses these two.

    Options of `apply`: initial_state (h_0, c_0); lengths; and the layout of x: batch_major (the
    default, but explicitly requested), time_major or unbatched.
    """

    package: str
    module: str
    """Module that contains its LSTM."""
    gates = "ifgo"
    """The order of the gates in its kernels and biases."""

    @property
    def version(self) -> str:
        """The version of the installed package."""
        return version(self.package)

    def params(self, weights: Weights, dtype: Any = None) -> Any:
        """The library's parameters for torch's `weights`; `dtype` is the compute dtype."""
        raise NotImplementedError

    def apply(self, params: Any, x: Any, **options: Any) -> Outcome:
        """Run the library's LSTM."""
        raise NotImplementedError

    def as_shipped(self) -> "Library":
        """The library without the adapter's corrections."""
        return self

    def initial(self, features: int, hidden: int) -> list[np.ndarray]:
        """Newly initialized parameters."""
        raise NotImplementedError

    def dropout(self) -> str:
        """Where the library's own dropout option acts."""
        raise NotImplementedError

    def reads_state_dicts(self) -> bool:
        """Whether it has a function that loads a torch state dict."""
        names = ("from_state_dict", "load_state_dict", "from_torch")
        return any(hasattr(importlib.import_module(self.module), name) for name in names)

    def gradient(self, weights: Weights, x: np.ndarray, **options: Any) -> np.ndarray:
        """d Σ (outputs² over valid steps) / dx."""

        def loss(x: jax.Array, params: Any) -> jax.Array:
            return jnp.sum(valid_steps(self.apply(params, x, **options)[0], options) ** 2)

        return np.asarray(jax.grad(loss)(jnp.asarray(x), self.params(weights)))

    def trained(self, weights: Weights, x: np.ndarray, rate: float) -> np.ndarray:
        """Outputs after one step of gradient descent on Σ outputs²."""
        params = self.params(weights)
        gradients = jax.grad(lambda params: jnp.sum(self.apply(params, x)[0] ** 2))(params)
        stepped = jax.tree.map(lambda p, g: p - rate * g, params, gradients)
        return np.asarray(self.apply(stepped, x)[0])

    def tangent(self, weights: Weights, x: np.ndarray) -> np.ndarray:
        """The outputs' derivative along ones, by forward-mode AD."""

        def derivative(x: jax.Array, params: Any) -> jax.Array:
            return jax.jvp(lambda x: self.apply(params, x)[0], (x,), (jnp.ones_like(x),))[1]

        return np.asarray(jax.jit(derivative)(jnp.asarray(x), self.params(weights)))

    def own_gradient(self, weights: Weights, x: np.ndarray) -> bool:
        """Whether the gradient is a custom VJP, rather than derived from the loop."""
        run = jax.make_jaxpr(lambda x, params: self.apply(params, x)[0])
        return "custom_vjp" in str(run(jnp.asarray(x), self.params(weights)))


def valid_steps(outputs: Any, options: Options) -> Any:
    """The outputs of the steps that belong to their sequence."""
    if options.get("lengths") is None:
        return outputs
    steps = np.arange(outputs.shape[1])[None, :] < np.asarray(options["lengths"])[:, None]
    return outputs[np.nonzero(steps)]


def between_layers(spread: Callable[[int], float]) -> str:
    """How far two calls in training differ; `spread(layers)`."""
    assert spread(1) == 0
    assert spread(2) > 0
    return "yes"


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
