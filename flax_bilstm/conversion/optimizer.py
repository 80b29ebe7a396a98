"""PyTorch's optimizer state → optax's, so that training goes on where it stopped.

Only what optax computes the same way is taken: Adam, AdamW and SGD, also with momentum, Nesterov's
too, and weight decay, in one parameter group. optax is imported when it is needed.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import nnx

from flax_bilstm.conversion.reading import Module
from flax_bilstm.conversion.rows import Row
from flax_bilstm.conversion.rows import rows as rows_of
from flax_bilstm.conversion.rows import variables as variables_of
from flax_bilstm.conversion.tensors import to_numpy


class Algorithm(NamedTuple):
    """How to know one of PyTorch's optimizers, and its tensors' names on both sides.

    `refused` are the options that optax computes another way, with the value that is harmless.
    """

    title: str
    signature: frozenset[str]
    moments: dict[str, str]
    refused: dict[str, Any]


ADAM = Algorithm(
    "Adam",
    frozenset({"betas", "eps", "amsgrad", "weight_decay"}),
    {"exp_avg": "mu", "exp_avg_sq": "nu"},
    {"amsgrad": False, "maximize": False},
)
SGD = Algorithm(
    "SGD",
    frozenset({"momentum", "dampening", "nesterov", "weight_decay"}),
    {"momentum_buffer": "trace"},
    {"dampening": 0, "maximize": False},
)


def optimizer_from_torch(
    model: Module,
    optimizer_state_dict: Mapping[str, Any],
    parameters: Sequence[str | None] | None = None,
) -> nnx.Optimizer:
    """An `nnx.Optimizer` that takes the next step as PyTorch's optimizer would have.

    Its transformation has the same hyperparameters (`optax_calls` says which), its state the same
    moments and step count, and `model`'s dtype must be that of the checkpoint.

    Args:
        model: with the weights that belong to the state.
        optimizer_state_dict: `torch_optimizer.state_dict()`, of Adam, AdamW or SGD.
        parameters: the torch name of each parameter that the optimizer was given, in that order,
            None for those of other modules; by default all of the model's, in its order.

    Raises:
        ValueError: the optimizer is another or optax has no equal to it, or its state does not fit
            the model. The error lists all of it.
    """
    import optax

    algorithm, group = _read(optimizer_state_dict)
    steps = [getattr(optax, call)(**with_) for call, with_ in optax_calls(optimizer_state_dict)]
    tx = steps[0] if len(steps) == 1 else optax.chain(*steps)
    rows = rows_of(model)
    if parameters is None:
        parameters = [row.torch_names[0] for row in rows]
    trained = [row for row in rows if isinstance(variables_of(model)[row.paths[0]], nnx.Param)]
    moments = dict(algorithm.moments)
    if algorithm is SGD and group["momentum"] == 0:
        moments = {}
    states = _states_by_name(optimizer_state_dict, group, parameters)
    _refuse(_problems(model, trained, states, moments, algorithm))

    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    state = nnx.state(optimizer)
    variables = {_from_field(path): variable for path, variable in nnx.to_flat_state(state)}
    for row in trained:
        for torch_name, field in moments.items():
            moment = states.get(row.torch_names[0], {}).get(torch_name)
            if moment is not None:  # before the first step there is none: zeros
                # jnp.array copies: the memory can be PyTorch's own, whose next step is in place.
                variables[field, *row.paths[0]][...] = jnp.array(row.from_torch([moment])[0])
    count = max((int(s["step"]) for s in states.values() if "step" in s), default=0)
    for path in variables.keys() & {("count",), ("step",)}:
        variables[path][...] = jnp.asarray(count, variables[path].dtype)
    nnx.update(optimizer, state)
    return optimizer


def optax_calls(optimizer_state_dict: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """The optax functions, chained, that step as this optimizer: (name, keyword arguments).

    Raises:
        ValueError: the optimizer is another, or optax has no equal to it.
    """
    algorithm, group = _read(optimizer_state_dict)
    rate, decay = {"learning_rate": float(group["lr"])}, float(group["weight_decay"])
    if algorithm is SGD:
        momentum = {"momentum": float(group["momentum"])} if group["momentum"] else {}
        nesterov = {"nesterov": True} if group["nesterov"] else {}
        step = ("sgd", {**rate, **momentum, **nesterov})
    else:
        b1, b2 = map(float, group["betas"])
        step = ("adam", {**rate, "b1": b1, "b2": b2, "eps": float(group["eps"])})
        if decay and group["decoupled_weight_decay"]:
            return [("adamw", {**step[1], "weight_decay": decay})]
    return [("add_decayed_weights", {"weight_decay": decay}), step] if decay else [step]


def describe(optimizer_state_dict: Mapping[str, Any]) -> str:
    """`optax_calls` as Python code."""
    calls = [
        f"optax.{name}({', '.join(f'{key}={value!r}' for key, value in options.items())})"
        for name, options in optax_calls(optimizer_state_dict)
    ]
    return calls[0] if len(calls) == 1 else f"optax.chain({', '.join(calls)})"


def _read(optimizer_state_dict: Mapping[str, Any]) -> tuple[Algorithm, Mapping[str, Any]]:
    """The algorithm and its hyperparameters, if optax has an equal."""
    groups = optimizer_state_dict.get("param_groups", ())
    if len(groups) != 1:
        raise ValueError(
            "optimizer: expected the state dict of an optimizer with 1 parameter group, got "
            f"{len(groups)}; groups that differ need optax.partition, set up by hand."
        )
    group = groups[0]
    algorithm = next((a for a in (ADAM, SGD) if a.signature <= group.keys()), None)
    if algorithm is None:
        raise ValueError(
            "optimizer: expected the state of torch.optim.Adam, AdamW or SGD, got one with the "
            f"options {', '.join(sorted(group.keys() - {'params'}))}."
        )
    problems = [
        f"{name}={group[name]!r} has no equal in optax, expected {harmless!r}"
        for name, harmless in algorithm.refused.items()
        if group.get(name, harmless) != harmless
    ]
    if algorithm is ADAM and group["weight_decay"] and "decoupled_weight_decay" not in group:
        problems.append(
            "weight_decay is of Adam or of AdamW, which this version of PyTorch does not record: "
            'set param_groups[0]["decoupled_weight_decay"] to True for AdamW, to False for Adam'
        )
    _refuse(problems)
    return algorithm, group


def _states_by_name(
    optimizer_state_dict: Mapping[str, Any],
    group: Mapping[str, Any],
    parameters: Sequence[str | None],
) -> dict[str, dict[str, np.ndarray]]:
    """Torch name → the tensors that the optimizer keeps for that parameter."""
    if len(group["params"]) != len(parameters):
        raise ValueError(
            f"optimizer: expected the state for {len(parameters)} parameters, all of the model's, "
            f"got {len(group['params'])}."
        )
    states = optimizer_state_dict["state"]
    return {
        name: to_numpy({k: v for k, v in states[index].items() if v is not None})
        for index, name in zip(group["params"], parameters, strict=True)
        if name is not None and index in states
    }


def _problems(
    model: Module,
    trained: Sequence[Row],
    states: Mapping[str, Mapping[str, np.ndarray]],
    moments: Mapping[str, str],
    algorithm: Algorithm,
) -> Iterator[str]:
    """All that keeps the state from being this model's."""
    for row in trained:
        weight = row.to_torch([variables_of(model)[row.paths[0]][...]])[0]
        state = states.get(row.torch_names[0], {})
        for name in moments:
            if name not in state:
                if any(name in other for other in states.values()):
                    yield f"missing: {name} of {row.torch_names[0]}, which PyTorch did not train"
            elif (state[name].shape, state[name].dtype) != (weight.shape, weight.dtype):
                yield (
                    f"{name} of {row.torch_names[0]}: expected {weight.shape} {weight.dtype}, got "
                    f"{state[name].shape} {state[name].dtype}"
                )
            elif not np.isfinite(state[name]).all():
                yield f"not finite: {name} of {row.torch_names[0]}"
    names = {row.torch_names[0] for row in trained}
    for name, state in states.items():
        if state and name not in names:
            yield f"unexpected: state for {name}, which this model never trains"
        if unknown := state.keys() - {"step", *algorithm.moments}:
            yield f"unexpected: {', '.join(sorted(unknown))} of {name}"
    steps = {int(state["step"]) for state in states.values() if "step" in state}
    if len(steps) > 1:
        yield f"expected one step count for all parameters, got {sorted(steps)}"


def _from_field(path: tuple[Any, ...]) -> tuple[Any, ...]:
    """A path in the optimizer's state, from the name of optax's field on."""
    fields = {"count", *ADAM.moments.values(), *SGD.moments.values()}
    return path[next((i for i, key in enumerate(path) if key in fields), 0) :]


def _refuse(problems: Any) -> None:
    listed = list(problems)
    if listed:
        raise ValueError(
            "optimizer: its state cannot be carried over; nothing was.\n  " + "\n  ".join(listed)
        )
