"""Any `torch.nn.Module` and any `nnx.Module` as a port: parameters and stages paired by path.

Submodules under the same path hold the same parameters, named and laid out as `TWINS` says, and are
the stages (`parity.taps`). What has another name or another layout gets a row of its own.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx

from flax_bilstm.conversion.rows import rows as rows_of
from parity.losses import MEAN_SQUARED_ERROR, Loss
from parity.nnx_side import nnx_side
from parity.port import TARGET, Port
from parity.taps import Taps, tapped_nnx, tapped_torch
from parity.torch_side import torch_side

Relayout = Callable[[np.ndarray], np.ndarray]
Transform = str | tuple[Relayout, Relayout]
"""A name in `TRANSFORMS`, or the pair (from torch's layout to Flax's, and back)."""

TRANSFORMS: dict[str, tuple[Relayout, Relayout]] = {
    "identity": (lambda array: array, lambda array: array),
    "transpose": (lambda array: array.T, lambda array: array.T),
}

# Kinds of submodules → their parameters: torch name, Flax name, transform.
TWINS: dict[tuple[type, type], tuple[tuple[str, str, str], ...]] = {
    (torch.nn.Linear, nnx.Linear): (
        ("weight", "kernel", "transpose"),
        ("bias", "bias", "identity"),
    ),
    (torch.nn.LayerNorm, nnx.LayerNorm): (
        ("weight", "scale", "identity"),
        ("bias", "bias", "identity"),
    ),
    (torch.nn.RMSNorm, nnx.RMSNorm): (("weight", "scale", "identity"),),
    (torch.nn.Embedding, nnx.Embed): (("weight", "embedding", "identity"),),
}


class Parameter(NamedTuple):
    """One tensor under both of its names."""

    torch_name: str
    path: tuple[Any, ...]
    transform: Transform

    def from_torch(self, array: np.ndarray) -> np.ndarray:
        """The torch tensor in Flax's layout."""
        return np.ascontiguousarray(self._transforms[0](np.asarray(array)))

    def to_torch(self, array: np.ndarray) -> np.ndarray:
        """The Flax leaf in torch's layout."""
        return np.ascontiguousarray(self._transforms[1](np.asarray(array)))

    @property
    def _transforms(self) -> tuple[Relayout, Relayout]:
        if isinstance(self.transform, str):
            return TRANSFORMS[self.transform]
        return self.transform


def table(module: nnx.Module) -> tuple[Parameter, ...]:
    """The rows of one of flax_bilstm's own modules."""
    return tuple(
        Parameter(row.torch_names[0], row.paths[0], (_one(row.from_torch), _one(row.to_torch)))
        for row in rows_of(module)
    )


def _one(transform: Any) -> Relayout:
    return lambda array: transform([array])[0]


def port(
    torch_module: torch.nn.Module,
    flax_module: nnx.Module,
    *,
    parameters: Sequence[tuple[str, str, Transform]] = (),
    stages: Mapping[str, str] | None = None,
    loss: Loss = MEAN_SQUARED_ERROR,
) -> Port:
    """The port that claims flax_module to be torch_module.

    Args:
        torch_module: the reference; called with the inputs by position.
        flax_module: the candidate; called the same, and returning the same arrays.
        parameters: rows (torch name, Flax path with dots, transform) for what `TWINS` and equal
            names do not pair, or pair wrongly.
        stages: torch path → Flax path of the submodules to look into; None: all that both have.
        loss: what gradients and training descend, of the output; where there are several outputs,
            of all of them in one row.

    Raises:
        TypeError: one of the modules is of another kind.
        ValueError: tensors of either module without a counterpart in the other, or that are paired
            with another shape, all named; or stages that a module does not have.
    """
    for name, module, kind in (
        ("torch_module", torch_module, torch.nn.Module),
        ("flax_module", flax_module, nnx.Module),
    ):
        if not isinstance(module, kind):
            raise TypeError(f"{name}: expected {kind.__name__}, got {type(module).__name__}")
    if stages is None:
        stages = {p: p for p in _torch_modules(torch_module) if p in _nnx_modules(flax_module)}
    _refuse_unknown("torch_module", stages.keys(), _torch_modules(torch_module))
    _refuse_unknown("flax_module", stages.values(), _nnx_modules(flax_module))
    pairs = dict(stages)

    def torch_local(module: Any, inputs: Any, given: Any) -> dict[str, Any]:
        found = _torch_modules(module)
        taps = Taps(given)
        with tapped_torch({theirs: found[theirs] for theirs in pairs}, taps):
            return _stages(taps, module(*_positional(inputs)), torch.cat, torch.ravel)

    def flax_local(module: Any, inputs: Any, given: Any) -> dict[str, Any]:
        found = _nnx_modules(module)
        taps = Taps(given)
        with tapped_nnx({theirs: found[ours] for theirs, ours in pairs.items()}, taps):
            return _stages(taps, module(*_positional(inputs)), jnp.concatenate, jnp.ravel)

    return Port(
        torch_side(torch_module, lambda m, i: torch_local(m, i, {}), loss, local=torch_local),
        nnx_side(
            flax_module,
            parameter_table(torch_module, flax_module, parameters),
            lambda m, i: flax_local(m, i, {}),
            loss,
            local=flax_local,
        ),
        loss=loss.name,
    )


def load(
    torch_module: torch.nn.Module,
    flax_module: nnx.Module,
    parameters: Sequence[tuple[str, str, Transform]] = (),
) -> None:
    """Give flax_module the weights of torch_module, where a port has no conversion of its own.

    Dtypes become torch's. Arguments and errors as of `port`; after an error nothing has changed.
    """
    tensors = torch_module.state_dict()
    leaves = {row.path: row for row in parameter_table(torch_module, flax_module, parameters)}
    state = nnx.state(flax_module)
    for path, leaf in nnx.to_flat_state(state):
        if path in leaves:
            row = leaves[path]
            leaf.set_value(jnp.asarray(row.from_torch(tensors[row.torch_name].cpu().numpy())))
    nnx.update(flax_module, state)


def parameter_table(
    torch_module: torch.nn.Module,
    flax_module: nnx.Module,
    rows: Sequence[tuple[str, str, Transform]] = (),
) -> tuple[Parameter, ...]:
    """A row for every tensor of the reference, in its order; see `port`."""
    theirs, ours = _torch_modules(torch_module), _nnx_modules(flax_module)
    named = {name: (path, transform) for name, path, transform in rows}
    shapes = {name: tuple(t.shape) for name, t in torch_module.state_dict().items()}
    leaves = {
        _dotted(path): (path, tuple(leaf.shape))
        for path, leaf in nnx.to_flat_state(nnx.state(flax_module))
        if not isinstance(leaf, nnx.RngState)
    }
    left, problems, table = dict(leaves), [], []
    for name, shape in shapes.items():
        module, _, own = name.rpartition(".")
        kinds = type(theirs.get(module, torch_module)), type(ours.get(module, flax_module))
        twins = {n: (f"{module}.{flax}".lstrip("."), t) for n, flax, t in TWINS.get(kinds, ())}
        path, transform = named.pop(name, twins.get(own, (name, "identity")))
        if path not in left:
            problems.append(f"torch's {name} {shape}: flax_module has no {path} left for it")
            continue
        leaf, has = left.pop(path)
        row = Parameter(name, leaf, transform)
        wants = row.from_torch(np.empty(shape, np.uint8)).shape
        if wants != has:
            problems.append(f"torch's {name} {shape}: becomes {wants}, but {path} is {has}")
        table.append(row)
    problems += [f"Flax's {path} {shape}: no tensor is for it" for path, (_, shape) in left.items()]
    problems += [f"the row for {name}: torch_module has no such tensor" for name in named]
    if problems:
        raise ValueError(
            "parameters: expected every tensor of both modules in one row, with rows (torch name, "
            "Flax path, transform) for what is named otherwise:\n  " + "\n  ".join(problems)
        )
    return tuple(table)


def _stages(taps: Taps, result: Any, concatenate: Any, ravel: Any) -> dict[str, Any]:
    """The taps' stages, then what the model returned; last the one array that the loss is of."""
    output = Taps({})
    output.enter("output", ())
    output.leave(result)
    values = list(output.stages.values())
    if not values:
        raise ValueError(f"expected a model that returns arrays, got {type(result).__name__}")
    if len(values) > 1:
        output.stages["outputs"] = concatenate([ravel(value) for value in values])
    return {**taps.stages, **output.stages}


def _positional(inputs: Mapping[str, Any]) -> Iterator[Any]:
    """The inputs but the target, in order: "x", or "x0", "x1" and so on (jit sorts by name)."""
    names = (name for name in inputs if name != TARGET)
    return (inputs[name] for name in sorted(names, key=lambda name: (len(name), name)))


def _torch_modules(module: torch.nn.Module) -> dict[str, Any]:
    return {path: held for path, held in module.named_modules() if path}


def _nnx_modules(module: nnx.Module) -> dict[str, Any]:
    return {_dotted(path): held for path, held in nnx.iter_modules(module) if path}


def _dotted(path: Sequence[Any]) -> str:
    return ".".join(map(str, path))


def _refuse_unknown(name: str, wanted: Any, known: Mapping[str, Any]) -> None:
    unknown = [path for path in wanted if path not in known]
    if unknown:
        raise ValueError(f"stages: {name} has no {unknown}; expected any of {list(known)}")
