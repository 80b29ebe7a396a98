"""The same models for Linen code, through Flax's own bridge, `flax.nnx.bridge.ToLinen`.

    from flax.training.train_state import TrainState
    import flax_bilstm as fb
    import flax_bilstm.linen

    model = fb.linen.BiLSTMWithAttention(input_dim=128, hidden_dim=64, output_dim=1)  # no rngs
    variables = model.init(jax.random.key(0), x)    # {"params": ..., "Unused": ...}
    y = model.apply(variables, x, lengths=lengths)
    state = TrainState.create(apply_fn=model.apply, params=variables["params"], tx=optax.adam(1e-3))
    y = state.apply_fn({"params": state.params}, x)

    lstm = fb.linen.LSTM(8, 16, num_layers=2, dropout=0.1)
    variables = lstm.init({"params": key, "dropout": key}, x, deterministic=True)
    outputs, (h_n, c_n) = lstm.apply(
        variables, x, deterministic=False, rngs={"dropout": jax.random.fold_in(key, step)}
    )

    variables = fb.linen.to_variables(fb.load("model.pt"))      # torch → Linen
    fb.save(fb.linen.to_module(model, variables), "model.pt")   # Linen → torch; so fb.state_dict

Arguments, results and numbers are those of `flax_bilstm.LSTM` and `.BiLSTMWithAttention`. The
Linear that the reference never calls lies in its own collection, "Unused", out of the optimizer's
sight; `apply` does without it, a checkpoint does not. Inside another Linen module a model is used
as any other submodule; `name=` names it.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from flax.core import FrozenDict, meta

from flax_bilstm import lstm, network
from flax_bilstm.conversion.reading import Module

COLLECTIONS = {"params": nnx.Param, network.Unused.__name__: network.Unused}


class Bridged(nnx.bridge.ToLinen):
    """An NNX model as a Linen module; made by `LSTM` and `BiLSTMWithAttention` of this file."""

    def __call__(self, *args: Any, deterministic: bool | None = None, **kwargs: Any) -> Any:
        """The NNX model's own call, with dropout as Linen has it.

        Args:
            *args: as the NNX model's call.
            deterministic: required of a model with dropout, as of `flax.linen.Dropout`: False
                drops (and takes its masks from the rng `dropout`), True does not.
            **kwargs: as the NNX model's call.

        Raises:
            ValueError: `deterministic` or the rng `dropout` is missing; `params` does not hold
                exactly the model's parameters; or whatever the NNX model's call refuses.
        """
        if self.kwargs.get("dropout", 0.0) > 0:
            if deterministic is None:
                raise ValueError(
                    "deterministic: expected True or False of a model with dropout = "
                    f"{self.kwargs['dropout']}, got None; pass deterministic=not training."
                )
            # Without one, the bridge would draw the same masks at every call.
            if not self.has_rng("dropout") and (self.is_initializing() or not deterministic):
                raise ValueError(
                    "rngs: expected one for `dropout`, got none; pass init({'params': key, "
                    "'dropout': key}, ...) or apply(..., rngs={'dropout': key})."
                )
        if not self.is_initializing():
            _require(self, self.variables, "params")

        def call(module: Any, *args: Any, **kwargs: Any) -> Any:
            module.set_attributes(deterministic=bool(deterministic), raise_if_not_found=False)
            return module(*args, **kwargs)

        return super().__call__(*args, nnx_method=call, **kwargs)

    def build(self, rngs: nnx.Rngs) -> Any:
        """The NNX model, newly initialized."""
        return self.nnx_class(*self.args, **self.kwargs, rngs=rngs)


def _bridged(kind: type[Module], *args: Any, name: str | None = None, **kwargs: Any) -> Bridged:
    return Bridged(kind, args=args, kwargs=FrozenDict(kwargs), name=name)


LSTM = partial(_bridged, lstm.LSTM)
"""`flax_bilstm.LSTM` as a Linen module: its arguments without `rngs`, and `name`."""

BiLSTMWithAttention = partial(_bridged, network.BiLSTMWithAttention)
"""`flax_bilstm.BiLSTMWithAttention` as a Linen module: its arguments without `rngs`, and `name`."""


def to_variables(module: Module) -> dict[str, Any]:
    """The Linen variables of an NNX model: {"params": ..., "Unused": ...}, the latter if any.

    They are what the Linen model of the same arguments initializes, with `module`'s numbers.
    """
    states = {name: nnx.state(module, kind) for name, kind in COLLECTIONS.items()}
    return {name: nnx.to_pure_dict(state) for name, state in states.items() if state}


def to_module(model: Bridged, variables: Mapping[str, Any], *, rngs: nnx.Rngs | None = None) -> Any:
    """The NNX model that `model` and its `variables` are: for `flax_bilstm.state_dict` and `save`.

    Args:
        model: a Linen model of this file.
        variables: its variables, "Unused" included where it has them.
        rngs: for a model with dropout, whose masks it draws.

    Raises:
        ValueError: the variables are not exactly the model's; the error lists what is wrong.
    """
    _require(model, variables, *COLLECTIONS)
    built = model.build(rngs or nnx.Rngs(0))
    for name in COLLECTIONS:
        nnx.update(built, meta.unbox(variables.get(name, {})))
    return built


def _require(model: Bridged, given: Mapping[str, Any], *collections: str) -> None:
    """Refuse variables that are not the model's: the bridge would draw what is missing at random.

    A collection that the model does not have may be absent or empty.
    """
    own = to_variables(nnx.eval_shape(lambda: model.build(nnx.Rngs(params=0, dropout=0))))
    expected, got = (
        _shapes({name: tree.get(name, {}) for name in collections}) for tree in (own, given)
    )
    wrong = [
        f"{path}: expected {expected.get(path, 'nothing')}, got {got.get(path, 'nothing')}"
        for path in sorted(expected | got)
        if expected.get(path) != got.get(path)
    ]
    if wrong:
        raise ValueError(
            f"variables: do not fit this {model.nnx_class.__name__}; initialize or convert them "
            "with the model's own arguments.\n  " + "\n  ".join(wrong)
        )


def _shapes(tree: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Path → shape of every leaf."""
    leaves = jax.tree_util.tree_leaves_with_path(meta.unbox(dict(tree)))
    return {jax.tree_util.keystr(path): jnp.shape(leaf) for path, leaf in leaves}
