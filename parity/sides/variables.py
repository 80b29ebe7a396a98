"""The variables of a Flax module, under the names and in the layout of the reference's tensors."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from flax_bilstm.conversion.rows import Row
from flax_bilstm.conversion.transforms import identical
from flax_bilstm.conversion.tree import Path, dotted
from parity.sides.side import Arrays, Gradients, floating

Named = dict[str, Any]
"""The leaves of a module by their paths, with dots: arrays of JAX or NumPy."""


class Variables:
    """A copy of a module in evaluation mode, and which tensor each of its variables is.

    Args:
        module: the module; it is never changed.
        rows: each tensor of the reference is in one of them; all names come from here.

    Attributes:
        found: path → variable of the copy.
        absent: the tensors that the module has no variable for.
        trained: the paths, with dots, of those that an optimizer trains: floating `nnx.Param`s.
    """

    def __init__(self, module: nnx.Module, rows: Sequence[Row]) -> None:
        module = nnx.clone(module)
        module.eval()
        _compute_as_stored(module)
        self._graphdef, self._template = nnx.split(module)
        self.found = flat(self._template)
        self.trained = frozenset(
            dotted(path)
            for path, leaf in self.found.items()
            if isinstance(leaf, nnx.Param) and floating(leaf)
        )
        self.rows = tuple(rows)
        self.absent = frozenset(
            name
            for row in self.rows
            if any(path not in self.found for path in row.paths)
            for name in row.torch_names
        )

    def parameters(self) -> dict[str, np.ndarray]:
        """The module's parameters, exact, under the reference's names and in its layout.

        Raises:
            ValueError: a row's path has no leaf, or converting a leaf there and back changes it.
        """
        found: dict[str, np.ndarray] = {}
        for row in self.rows:
            names = ", ".join(row.torch_names)
            missing = [dotted(path) for path in row.paths if path not in self.found]
            if missing and row.default is not None:
                found.update(zip(row.torch_names, row.to_torch([row.default]), strict=True))
                continue
            if missing:
                raise ValueError(f"rows: the module has no leaf {missing} for {names}")
            leaves = [np.asarray(self.found[path][...]) for path in row.paths]
            tensors = row.to_torch(leaves)
            if not all(map(identical, row.from_torch(tensors), leaves)):
                raise ValueError(
                    f"rows: {', '.join(map(dotted, row.paths))} holds numbers that its form in "
                    f"torch, {names}, does not give back: expected the same bits; give the kind of "
                    "layer entries that keep all of it"
                )
            found.update(zip(row.torch_names, tensors, strict=True))
        return found

    def rounded(self, theirs: Arrays) -> dict[str, np.ndarray]:
        """The tensors of the reference that the module holds rounded, such as the sum of two.

        Each variable is to the last bit what their conversion gives in its dtype.
        """
        found: dict[str, np.ndarray] = {}
        for row in self.rows:
            if row.transform.exact or not all(name in theirs for name in row.torch_names):
                continue
            tensors = [theirs[name] for name in row.torch_names]
            leaves = [np.asarray(self.found[path][...]) for path in row.paths]
            if all(map(identical, row.from_torch(tensors), leaves)):
                found.update(zip(row.torch_names, tensors, strict=True))
        return found

    def leaves(self, parameters: Arrays, dtype: str) -> Named:
        """Every variable of the module in this dtype, taken from the parameters if it has a row."""
        values = {path: leaf[...] for path, leaf in self.found.items()}
        for row in self.rows:
            tensors = [np.asarray(parameters[name]) for name in row.torch_names]
            if not row.transform.exact:  # what it computes is rounded
                tensors = [tensor.astype(dtype) for tensor in tensors]
            leaves = row.from_torch(tensors)
            values.update(
                (path, leaf)
                for path, leaf in zip(row.paths, leaves, strict=True)
                if path in self.found
            )
        return {
            # In NumPy: JAX would compile a program for every shape.
            dotted(path): np.asarray(value, dtype) if _is_floating(value) else value
            for path, value in values.items()
        }

    def slopes(self, gradients: Gradients, leaves: Named) -> Named:
        """The gradient of every trained leaf; 0 if a tensor of its row has none."""
        found = {n: np.zeros(leaves[n].shape, leaves[n].dtype) for n in self.trained}
        for row in self.rows:
            every = [gradients.get(name) for name in row.torch_names]
            tensors = [tensor for tensor in every if tensor is not None]
            if len(tensors) < len(every):
                continue
            for path, leaf in zip(row.paths, row.from_torch(tensors), strict=True):
                if dotted(path) in found:
                    found[dotted(path)] = np.asarray(leaf, found[dotted(path)].dtype)
        return found

    def model(self, leaves: Named) -> nnx.Module:
        """A copy of the module with these leaves."""
        model = nnx.merge(self._graphdef, nnx.clone(self._template))
        state = nnx.state(model)
        for path, leaf in flat(state).items():
            leaf.set_value(leaves[dotted(path)])
        nnx.update(model, state)
        _store_in(model, {leaf.dtype for leaf in leaves.values() if _is_floating(leaf)})
        return model

    def named(self, leaves: Mapping[Path, Any]) -> dict[str, np.ndarray | None]:
        """Leaves, by the module's paths, under the reference's names; None for a missing leaf."""
        found: dict[str, np.ndarray | None] = {}
        for row in self.rows:
            if all(path in leaves for path in row.paths):
                tensors: Sequence[Any] = row.to_torch([np.asarray(leaves[p]) for p in row.paths])
            else:
                tensors = [None] * len(row.torch_names)
            found.update(zip(row.torch_names, tensors, strict=True))
        return found


def flat(state: Any) -> dict[Path, Any]:
    """The variables of an `nnx.State` by their paths; plain arrays are constants of the model."""
    pairs: Any = nnx.to_flat_state(state)
    return {tuple(path): leaf for path, leaf in pairs if isinstance(leaf, nnx.Variable)}


def _compute_as_stored(module: nnx.Module) -> None:
    """Let layers that compute in the dtype of their parameters follow a cast of those.

    `nnx.Embed` by default fixes the dtype that its parameters have when it is made, and would keep
    computing in it. A layer that computes in another dtype than it stores does so on purpose.
    """
    part: Any
    for _, part in nnx.iter_modules(module):
        dtype = vars(part).get("dtype")
        if dtype is None:
            continue
        stored = {leaf.dtype for leaf in vars(part).values() if isinstance(leaf, nnx.Variable)}
        with suppress(TypeError):  # the module means something else by it
            if jnp.dtype(dtype) in stored:
                part.dtype = None


def _store_in(module: nnx.Module, dtypes: set[Any]) -> None:
    """Tell layers the dtype that their parameters are now in: cells begin with a state in it."""
    part: Any
    for _, part in nnx.iter_modules(module) if len(dtypes) == 1 else ():
        if vars(part).get("param_dtype") is not None:
            (part.param_dtype,) = dtypes


def _is_floating(value: Any) -> bool:
    return hasattr(value, "dtype") and floating(value)
