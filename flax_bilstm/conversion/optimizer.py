"""PyTorch's optimizer state → optax's, so that training continues where it stopped.

Parameters are matched by name if the state has names. Parameter groups become one
`optax.partition`, whose parts are the parameters with equal settings and equal step counts;
parameters that PyTorch does not step are in a frozen part. optax is imported only when needed.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from flax_bilstm import arguments
from flax_bilstm.conversion.algorithms import Call
from flax_bilstm.conversion.optimizer_fit import problems
from flax_bilstm.conversion.optimizer_parts import Part, held, keys_of, parts_of, settings_key
from flax_bilstm.conversion.rows import Names, Row, rows, variables
from flax_bilstm.conversion.tensors import overflows
from flax_bilstm.conversion.torch_optimizers import OptimizerState, read, refuse
from flax_bilstm.conversion.tree import Path
from flax_bilstm.lstm import LSTM
from flax_bilstm.network import BiLSTMWithAttention
from flax_bilstm.showing import listed, shown

FROZEN = "frozen"
_LOG = logging.getLogger("flax_bilstm")


def optimizer_from_torch(
    model: nnx.Module,
    optimizer_state_dict: Mapping[str, Any],
    parameters: Sequence[str | None] | None = None,
    *,
    names: Names | None = None,
    ignore: Sequence[str] = (),
    learning_rate: Any = None,
) -> nnx.Optimizer:
    """An `nnx.Optimizer` that takes the next step as PyTorch's optimizer would have.

    Its transformation has the same hyperparameters, its state the same moments and step counts. A
    parameter of the model that PyTorch's optimizer was not given, or never got a gradient for, is
    frozen here too (`optax.set_to_zero`), and a warning that names it is logged.

    Args:
        model: the model, with the weights that belong to the state.
        optimizer_state_dict: `torch_optimizer.state_dict()`, of Adam, AdamW, SGD, RMSprop or
            Adadelta.
        parameters: the torch name of each parameter that the optimizer was given, in that order,
            None for those of other modules: `[name for name, _ in torch_model.named_parameters()]`;
            with several parameter groups, in the order of the groups. Needed if the state has no
            names (`param_names`), except for a single group of an `LSTM` or a
            `BiLSTMWithAttention`. A wrong order among tensors of the same shape cannot be detected.
        names: Flax path → torch path, as for `load_state_dict`.
        ignore: patterns of parameters without a counterpart, as for `load_state_dict`.
        learning_rate: a number or an optax schedule, in place of PyTorch's; a schedule continues
            from the number of steps so far. Needed if a scheduler has set PyTorch's learning rate,
            since its last value would be wrong from the next step on.

    Raises:
        ValueError: it is another optimizer, or optax cannot reproduce it, or its state does not fit
            the model. The error lists everything.
    """
    if not isinstance(model, nnx.Module):
        raise TypeError(f"model: expected an nnx.Module, got {arguments.quoted(model)}.")
    if learning_rate is not None:
        arguments.learning_rate("learning_rate", learning_rate)
    if parameters is not None:
        arguments.strings("parameters", _without_none(parameters))
    state = read(optimizer_state_dict)
    trained = _trained(model, names, ignore)
    named = _named(state, parameters, model, trained)
    refuse(_scheduled(state) if learning_rate is None else ())
    parts = parts_of(state, named, trained)
    refuse(problems(model, state, named, trained, parts))

    stepped = {row.paths for part in parts for row in part.rows}
    if frozen := [row.torch_names[0] for row in trained if row.paths not in stepped]:
        _LOG.warning("optimizer: frozen, as in PyTorch: %s", ", ".join(frozen[:8]))
    tx = _transformation(state, parts, trained, learning_rate)
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    flat = {tuple(path): leaf for path, leaf in nnx.to_flat_state(nnx.state(optimizer))}
    one = len(parts) == 1 and len(parts[0].rows) == len(trained)
    for index, part in enumerate(parts):
        inside = {p: v for p, v in flat.items() if one or _label(index) in p or p == ("step",)}
        _fill(inside, state, named, part)
    nnx.update(optimizer, nnx.from_flat_state(flat))
    return optimizer


def _without_none(parameters: Any) -> Any:
    known = isinstance(parameters, (list, tuple))
    return [name for name in parameters if name is not None] if known else parameters


def describe(optimizer_state_dict: Mapping[str, Any], learning_rate: Any = None) -> str:
    """The optax code of an equal optimizer, with `learning_rate` in place of the state's."""
    state = read(optimizer_state_dict)
    settings = [group.settings for group in state.groups]
    different = list({settings_key(each): each for each in settings}.values())
    rates = [s["lr"] if learning_rate is None else learning_rate for s in different]
    code = [_code(state.algorithm.calls(s, r)) for s, r in zip(different, rates, strict=True)]
    inner = ", ".join(f'"{_label(i)}": {each}' for i, each in enumerate(code))
    whole = code[0] if len(code) == 1 else f"optax.partition({{{inner}}}, ...)"
    scheduled = learning_rate is None and any(_scheduled(state))
    return f"{whole}; a scheduler set the learning rate last" if scheduled else whole


def _code(calls: list[Call]) -> str:
    lines = [
        f"optax.{name}({', '.join(f'{key}={value!r}' for key, value in options.items())})"
        for name, options in calls
    ]
    return lines[0] if len(lines) == 1 else f"optax.chain({', '.join(lines)})"


def _trained(model: nnx.Module, names: Names | None, ignore: Sequence[str]) -> tuple[Row, ...]:
    """The rows of parameters, without `Unused` variables and statistics, which are not trained."""
    found = variables(model)
    return tuple(
        row for row in rows(model, names, ignore) if isinstance(found.get(row.paths[0]), nnx.Param)
    )


def _named(
    state: OptimizerState,
    parameters: Sequence[str | None] | None,
    model: nnx.Module,
    trained: Sequence[Row],
) -> dict[str, Any]:
    """Torch name → key in the state, for each of the model's parameters in the optimizer."""
    keys = [key for group in state.groups for key in group.keys]
    order: Sequence[str | None]
    if all(group.names is not None for group in state.groups):
        order = [name for group in state.groups for name in group.names or ()]
    elif parameters is not None:
        order = parameters
    elif isinstance(model, (LSTM, BiLSTMWithAttention)) and len(state.groups) == 1:
        order = [name for row in rows(model) for name in row.torch_names]
    else:
        raise ValueError(
            "parameters: expected the torch name of each parameter, since this state has no names; "
            "pass [name for name, _ in torch_model.named_parameters()], or, of several parameter "
            "groups, the names in the order of the groups (flax-bilstm --parameters, a file)."
        )
    if len(keys) != len(order):
        raise ValueError(
            f"optimizer: expected the state for {len(order)} parameters, as many as there are "
            f"names, got {len(keys)}."
        )
    named = {name: key for name, key in zip(order, keys, strict=True) if name is not None}
    if trained and not any(name in named for row in trained for name in row.torch_names):
        raise ValueError(
            "optimizer: expected parameters of the model, such as "
            f"{trained[0].torch_names[0]}, got {listed(list(map(shown, named)))}; "
            "names= or prefix= may be missing."
        )
    return named


def _scheduled(state: OptimizerState) -> Iterator[str]:
    for index, group in enumerate(state.groups):
        if "initial_lr" in group.settings:
            yield (
                f"lr of group {index} was set by a scheduler ({group.settings['lr']:g} of "
                f"{group.settings['initial_lr']:g} at first): pass learning_rate=, a number or an "
                "optax schedule, to say how it goes on (flax-bilstm --learning-rate)"
            )


def _transformation(
    state: OptimizerState, parts: Sequence[Part], trained: Sequence[Row], learning_rate: Any
) -> Any:
    """The optax transformation, with a partition only if there is more than one part."""
    import optax

    def of(part: Part) -> Any:
        rate = part.settings["lr"] if learning_rate is None else learning_rate
        calls = state.algorithm.calls(part.settings, rate)
        chain = [getattr(optax, name)(**options) for name, options in calls]
        return chain[0] if len(chain) == 1 else optax.chain(*chain)

    if len(parts) == 1 and len(parts[0].rows) == len(trained):
        return of(parts[0])
    labels = {
        path: _label(i) for i, part in enumerate(parts) for r in part.rows for path in r.paths
    }

    def labelled(tree: Any) -> Any:
        return jax.tree.map_with_path(lambda path, _: _look_up(labels, path), tree)

    transforms = {_label(index): of(part) for index, part in enumerate(parts)}
    return optax.partition({**transforms, FROZEN: optax.set_to_zero()}, labelled)


def _label(index: int) -> str:
    return f"group {index}"


def _look_up(labels: Mapping[Path, str], path: tuple[Any, ...]) -> str:
    """The label of a leaf of an nnx.State, whose path may end in the variable's `value`."""
    keys = tuple(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k))) for k in path)
    return labels.get(keys) or labels.get(keys[:-1], FROZEN)


def _fill(
    inside: Mapping[tuple[Any, ...], Any],
    state: OptimizerState,
    named: Mapping[str, Any],
    part: Part,
) -> None:
    """Set the moments and counts of one part, in the optimizer's flattened state."""
    fields = {*state.algorithm.moments.values(), "count"}
    by_field = {_from_field(path, fields): variable for path, variable in inside.items()}
    for row in part.rows:
        one = held(row, named) or row
        tensors = [state.states.get(key, {}) for key in keys_of(row, named) or ()]
        for moment, field in state.algorithm.kept(part.settings).items():
            if all(moment in each for each in tensors):
                leaves = one.from_torch([each[moment] for each in tensors])
                for path, leaf in zip(row.paths, leaves, strict=True):
                    # A copy: the memory can be PyTorch's, whose next step changes it in place.
                    with np.errstate(over="ignore"):  # refused below
                        copy = jnp.array(leaf)
                    if overflows(leaf, np.asarray(copy)):
                        raise ValueError(
                            f"optimizer: {moment} of {', '.join(row.torch_names)} has values that "
                            f"overflow in {copy.dtype}. Convert a float64 state with "
                            'jax.config.update("jax_enable_x64", True).'
                        )
                    by_field[field, *path].set_value(copy)
    for path, variable in inside.items():
        if path[-1] in ("count", "step"):
            count = max(part.steps, int(variable[...])) if path == ("step",) else part.steps
            variable.set_value(jnp.asarray(count, variable.dtype))


def _from_field(path: tuple[Any, ...], fields: set[str]) -> tuple[Any, ...]:
    """A path in the optimizer's state, starting at the name of optax's field."""
    return path[next((i for i, key in enumerate(path) if key in fields), 0) :]
