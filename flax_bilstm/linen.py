"""The same models for Linen code, through Flax's bridge, `flax.nnx.bridge.ToLinen`.

    from flax.training.train_state import TrainState
    import flax_bilstm as fb

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

    tagger = fb.linen.bridge(Tagger, 50, 16)          # any NNX class, without its rngs
    variables = fb.linen.to_variables(nnx_tagger)     # {"params": ..., "batch_stats": ...}

Arguments, results and numbers are those of `flax_bilstm.LSTM` and `.BiLSTMWithAttention`. The
Linear that the reference never calls is in a separate collection, "Unused", so that the optimizer
does not see it; `apply` does not need this collection, a checkpoint does. Inside another Linen
module a model is used like any other submodule; `name=` names it.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from flax.core import FrozenDict, meta

from flax_bilstm import arguments, lstm, network
from flax_bilstm.conversion.rows import rows
from flax_bilstm.conversion.tree import modules


class Bridged(nnx.bridge.ToLinen):
    """An NNX model as a Linen module; made by `bridge`."""

    def __call__(self, *args: Any, deterministic: bool | None = None, **kwargs: Any) -> Any:
        """The NNX model's call, with dropout as in Linen.

        Args:
            *args: as for the NNX model's call.
            deterministic: required for a model with dropout, as for `flax.linen.Dropout`: False
                drops (and takes its masks from the rng `dropout`), True does not. Required for one
                with BatchNorm too: False uses the batch's statistics, True the running ones.
            **kwargs: as for the NNX model's call.

        Raises:
            ValueError: `deterministic` or the rng `dropout` is missing; `params` does not have
                exactly the model's parameters; or the NNX model's call raises it.
        """
        shape = _shape_of(self)
        rate = max([0.0, *(layer.rate for layer in _layers(shape, nnx.Dropout))])
        if deterministic is None and (rate > 0 or _layers(shape, nnx.BatchNorm)):
            raise ValueError(
                f"deterministic: expected True or False of a model with dropout = {rate} or "
                "BatchNorm, got None; pass deterministic=not training."
            )
        # Without this rng, the bridge would draw the same masks in every call.
        drawn = self.is_initializing() or not deterministic
        if rate > 0 and drawn and not self.has_rng("dropout"):
            raise ValueError(
                "rngs: expected one for `dropout`, got none; pass init({'params': key, "
                "'dropout': key}, ...) or apply(..., rngs={'dropout': key})."
            )
        if not self.is_initializing():
            _require(self, shape, self.variables, only="params")

        def call(module: Any, *args: Any, **kwargs: Any) -> Any:
            module.eval() if deterministic else module.train()
            return module(*args, **kwargs)

        return super().__call__(*args, nnx_method=call, **kwargs)

    def build(self, rngs: nnx.Rngs) -> Any:
        """The NNX model, newly initialized."""
        return self.nnx_class(*self.args, **self.kwargs, rngs=rngs)


def bridge(kind: type[nnx.Module], *args: Any, name: str | None = None, **kwargs: Any) -> Bridged:
    """Any NNX class as a Linen module.

    Args:
        kind: the class. Its `rngs` come from Linen.
        *args: passed to the class.
        name: the name of the Linen module.
        **kwargs: passed to the class, without `rngs`.

    Raises:
        TypeError: kind is not a class of nnx modules, or name not a string.
    """
    if not (isinstance(kind, type) and issubclass(kind, nnx.Module)):
        raise TypeError(f"kind: expected a class of nnx modules, got {arguments.quoted(kind)}.")
    arguments.string_or_none("name", name)
    return Bridged(kind, args=args, kwargs=FrozenDict(kwargs), name=name)


LSTM = partial(bridge, lstm.LSTM)
"""`flax_bilstm.LSTM` as a Linen module: its arguments without `rngs`, and `name`."""

BiLSTMWithAttention = partial(bridge, network.BiLSTMWithAttention)
"""`flax_bilstm.BiLSTMWithAttention` as a Linen module: its arguments without `rngs`, and `name`."""


def to_variables(module: nnx.Module) -> dict[str, Any]:
    """The Linen variables of an NNX model: {"params": ..., "Unused": ...}, the latter if any.

    They are what the Linen model with the same arguments initializes, with `module`'s numbers: one
    collection for each type of variable, except random states. Variables that loading added because
    Flax's layer lacks them (BatchNorm's count of batches) are left out.
    """
    arguments.module("module", module)
    added = {row.paths[0] for row in rows(module) if row.default is not None}
    found: dict[str, list[tuple[Any, Any]]] = {}
    for path, variable in nnx.to_flat_state(nnx.state(module, nnx.Not(nnx.RngState))):
        if path in added:
            continue
        name = nnx.variablelib.variable_name_from_type(type(variable), allow_register=True)
        found.setdefault(name, []).append((path, variable))
    return {name: nnx.to_pure_dict(nnx.from_flat_state(flat)) for name, flat in found.items()}


def to_module(model: Bridged, variables: Mapping[str, Any], *, rngs: nnx.Rngs | None = None) -> Any:
    """The NNX model with these variables, for `flax_bilstm.state_dict` and `save`.

    Args:
        model: a Linen model made by this file.
        variables: its variables, including "Unused" if it has them.
        rngs: for a model with dropout, to draw its masks.

    Raises:
        ValueError: the variables are not exactly the model's; the error lists what is wrong.
    """
    arguments.of_kind("model", model, Bridged, "a Linen model made by flax_bilstm.linen")
    arguments.of_kind("variables", variables, Mapping, "the model's variables, by collection")
    for name, tree in variables.items():
        arguments.of_kind("variables", name, str, "collections by name")
        arguments.of_kind("variables", tree, Mapping, "a tree for each collection")
        arguments.leaves("variables", meta.unbox(tree))
    if rngs is not None:
        arguments.rngs("rngs", rngs)
    _require(model, _shape_of(model), variables)
    built = model.build(nnx.Rngs(0) if rngs is None else rngs)
    for tree in variables.values():
        nnx.update(built, meta.unbox(tree))
    return built


def _shape_of(model: Bridged) -> Any:
    """The NNX model with shapes but without numbers."""
    return nnx.eval_shape(lambda: model.build(nnx.Rngs(params=0, dropout=0)))


def _layers(module: nnx.Module, kind: type) -> list[Any]:
    """The layers of one kind in a module."""
    return [layer for layer in modules(module) if isinstance(layer, kind)]


def _require(
    model: Bridged, shape: nnx.Module, given: Mapping[str, Any], *, only: str | None = None
) -> None:
    """Refuse variables that are not the model's: the bridge would draw missing ones at random.

    A collection that the model does not have may be absent or empty.
    """
    own = to_variables(shape)
    names = {*own, *given} if only is None else {only}
    expected, got = (_shapes({name: tree.get(name, {}) for name in names}) for tree in (own, given))
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
