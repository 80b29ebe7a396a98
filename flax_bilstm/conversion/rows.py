"""The rows of a module: every variable of any NNX module, paired with its torch tensors.

The module is walked by its attributes. A submodule whose kind is in the table contributes the
table's entries; any other variable is the torch tensor with the same name. Containers correspond to
torch's: `nnx.List`, `nnx.Dict` and `nnx.Sequential` are ModuleList, ModuleDict and Sequential, and
a module that `nnx.vmap` stacked is a ModuleList.
"""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx

from flax_bilstm import arguments
from flax_bilstm.conversion import flax_cells, transforms
from flax_bilstm.conversion.entries import Entry, entry
from flax_bilstm.conversion.flax_cells import SummedBiases
from flax_bilstm.conversion.layers import kind_of
from flax_bilstm.conversion.stacks import stack_size
from flax_bilstm.conversion.transforms import Transform
from flax_bilstm.conversion.tree import (
    NO_TENSORS,
    Path,
    children,
    dotted,
    join,
    leaves,
    reach,
    split,
)
from flax_bilstm.showing import LONGEST, shown

Names = Mapping[str, "str | tuple[str, ...] | SummedBiases"]
"""Flax path of a module or a variable → its torch path; several if the variable is tied."""


class Row(NamedTuple):
    """Variables of a module and their torch tensors: usually one of each.

    Several variables are one tensor if torch packs them, and one variable is several tensors
    if it is tied or stacked.

    Attributes:
        default: the value of a variable that Flax's layer lacks, in a new module.
        tied: the rows that a tied row was merged from, each with some of the names.
    """

    torch_names: tuple[str, ...]
    paths: tuple[Path, ...]
    transform: Transform
    default: np.ndarray | None = None
    tied: "tuple[Row, ...]" = ()

    def to_torch(self, leaves: Sequence[Any]) -> list[np.ndarray]:
        """The tensors, in torch's layout, contiguous."""
        tensors = self.transform.to_torch([np.asarray(leaf) for leaf in leaves])
        return [_contiguous(tensor) for tensor in tensors]

    def from_torch(self, tensors: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The variables' arrays, in Flax's layout: views of the tensors where that is possible.

        Raises:
            ValueError: the tensors of a tied variable differ.
        """
        return list(self.transform.from_torch(tensors))


def rows(
    module: nnx.Module, names: Names | None = None, ignore: Sequence[str] = ()
) -> tuple[Row, ...]:
    """Every variable of `module` that a checkpoint has, in exactly one row.

    Args:
        module: any NNX module.
        names: Flax path → torch path, of modules or of variables, where the names differ;
            names inside a renamed module are not changed. Use a tuple of several torch paths
            for tied weights. A `*` in a torch path stands for the index of a stacked module.
        ignore: patterns (`fnmatch`) of torch names or Flax paths without a counterpart.

    Raises:
        TypeError: names is not such a mapping, or ignore not a list of strings.
        ValueError: a path in names is not in the module, or two variables have one torch name.
    """
    walk = _Walk(_checked(names))
    arguments.strings("ignore", ignore)
    found = [each for each in walk.node(module, (), ("",)) if not _ignored(each.row, ignore)]
    if unknown := walk.names.keys() - walk.used:
        path = min(unknown)
        ours = sorted(walk.seen)
        near = difflib.get_close_matches(path[:LONGEST], ours, 3) or ours[:8]
        raise ValueError(
            f"names: expected Flax paths of {type(module).__name__}, got '{shown(path)}'; did you "
            f"mean one of {near}?"
        )
    kept = tuple(_merged(found))
    owners: dict[str, Row] = {}
    for row in kept:
        for name in row.torch_names:
            if name in owners:
                raise ValueError(
                    f"names: expected a torch name for each variable, got {shown(name)} for both "
                    f"{dotted(owners[name].paths[0])} and {dotted(row.paths[0])}."
                )
            owners[name] = row
    return kept


def _checked(names: Any) -> dict[str, Any]:
    """`names` if it maps Flax paths to torch paths; TypeError otherwise."""
    if names is None:
        return {}
    if not isinstance(names, Mapping):
        raise TypeError(
            "names: expected a mapping from Flax paths to torch paths, got "
            f"{arguments.quoted(names)}."
        )
    for flax, torch in names.items():
        several = isinstance(torch, tuple) and torch and all(isinstance(t, str) for t in torch)
        if not isinstance(flax, str) or not (several or isinstance(torch, (str, SummedBiases))):
            raise TypeError(
                f"names: expected for {arguments.quoted(flax)} a torch path, a tuple of torch "
                f"paths or fb.SummedBiases, got {arguments.quoted(torch)}."
            )
    return dict(names)


def variables(module: nnx.Module) -> dict[Path, nnx.Variable[Any]]:
    """Path → variable; a variable that is reachable by several paths is under each of them."""
    return dict(leaves(module))


def matches(name: str, patterns: Sequence[str]) -> bool:
    """Whether a name matches one of the patterns."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)


class _Found(NamedTuple):
    """A row, and its variables (None for one that the module lacks)."""

    row: Row
    leaves: tuple[Any, ...]


class _Walk:
    """One walk over a module. `seen`: the Flax paths so far, `used`: those that `names` renamed."""

    def __init__(self, names: dict[str, Any]):
        self.names, self.seen, self.used = names, set[str](), set[str]()

    def node(
        self, node: Any, path: Path, torch: tuple[str, ...], above: tuple[Any, ...] = ()
    ) -> Iterator[_Found]:
        """The rows of a module, container or variable with the torch paths `torch`."""
        renamed = self._renamed(path)
        if isinstance(renamed, SummedBiases):
            yield from self._summed(node, path, renamed)
            return
        torch = torch if renamed is None else renamed
        if isinstance(node, nnx.Variable):
            if not isinstance(node, NO_TENSORS):
                yield from _rows_of(entry("", "", _of_variable(node)), node, path, torch)
            return
        if any(node is other for other in above):  # a module that refers to one of its parents
            return
        if path and not self._stack_named(path, torch) and stack_size(node):
            torch = tuple(join(name, "*") for name in torch)
        claimed: set[int] = set()
        kind = kind_of(node) if isinstance(node, nnx.Module) else None
        for each in kind.entries(node) if kind else ():
            if self._inside_renamed(path, each.variables[0]):
                continue
            for found in self._entry(each, node, path, torch):
                claimed.update(map(id, found.leaves))
                yield found
        for key, child in children(node):
            merged = isinstance(node, nnx.Sequential) and key == "layers"
            inside = torch if merged else tuple(join(name, key) for name in torch)
            for found in self.node(child, (*path, key), inside, (*above, node)):
                if not claimed.issuperset(map(id, found.leaves)):
                    yield found

    def _entry(
        self, each: Entry, node: Any, path: Path, torch: tuple[str, ...]
    ) -> Iterator[_Found]:
        first = (*path, *split(each.variables[0]))
        renamed = self._renamed(first) if len(each.variables) == 1 else None
        if renamed is not None and len(each.tensors) == 1:
            each, torch = each._replace(tensors=("",)), renamed
        yield from _rows_of(each, node, path, torch)

    def _summed(self, cell: Any, path: Path, to: SummedBiases) -> Iterator[_Found]:
        for each in flax_cells.entries(cell, dotted(path), to.suffix):
            yield from _rows_of(each, cell, path, (to.path,))

    def _stack_named(self, path: Path, torch: tuple[str, ...]) -> bool:
        """Whether this module is inside a stack, or `names` says that a stack starts inside it."""
        inside = f"{dotted(path)}."
        return any("*" in name for name in torch) or any(
            key.startswith(inside) and "*" in str(to) for key, to in self.names.items()
        )

    def _inside_renamed(self, path: Path, variable: str) -> bool:
        """Whether `names` has a module between the one at `path` and the variable."""
        steps = split(variable)
        return bool(self.names) and any(
            dotted((*path, *steps[:count])) in self.names for count in range(1, len(steps))
        )

    def _renamed(self, path: Path) -> Any:
        name = dotted(path)
        self.seen.add(name)
        if name not in self.names:
            return None
        self.used.add(name)
        to = self.names[name]
        return (to,) if isinstance(to, str) else to


def _of_variable(variable: nnx.Variable[Any]) -> Transform:
    """For a variable in no known layer. torch's integers have 64 bits, JAX's 32 by default."""
    short = getattr(variable.get_value(), "dtype", None) == np.int32
    return transforms.COUNT if short and not jax.config.read("jax_enable_x64") else transforms.SAME


def _rows_of(each: Entry, node: Any, path: Path, torch: tuple[str, ...]) -> Iterator[_Found]:
    """The row of one entry for each of the torch paths; none if the layer lacks the variable."""
    paths = tuple((*path, *split(variable)) for variable in each.variables)
    own = tuple(reach(node, split(variable)) for variable in each.variables)
    if own[0] is None and each.default is None:
        return
    for prefix in torch:
        tensors = tuple(join(prefix, name) for name in each.tensors)
        transform, default = each.transform, each.default
        if any("*" in name for name in tensors):
            count = (next(leaf for _, leaf in leaves(node)) if own[0] is None else own[0]).shape[0]
            tensors = tuple(name.replace("*", str(i), 1) for i in range(count) for name in tensors)
            transform = transforms.stacked(transform, count)
            default = None if default is None else np.stack([default] * count)
        yield _Found(Row(tensors, paths, transform, default), own)


def _merged(found: Sequence[_Found]) -> list[Row]:
    """The rows, after merging those with the same variables: tied weights."""
    groups: dict[Any, list[Row]] = {}
    for row, own in found:
        missing = any(leaf is None for leaf in own)
        groups.setdefault(row.paths if missing else tuple(map(id, own)), []).append(row)
    return [group[0] if len(group) == 1 else _tied(group) for group in groups.values()]


def _tied(group: list[Row]) -> Row:
    unique = list({row.torch_names: row for row in group}.values())
    if len(unique) == 1:
        return unique[0]
    return unique[0]._replace(
        torch_names=tuple(name for row in unique for name in row.torch_names),
        transform=transforms.tied([(row.transform, len(row.torch_names)) for row in unique]),
        tied=tuple(unique),
    )


def _ignored(row: Row, patterns: Sequence[str]) -> bool:
    return all(matches(name, patterns) for name in row.torch_names) or all(
        matches(dotted(path), patterns) for path in row.paths
    )


def _contiguous(array: np.ndarray) -> np.ndarray:
    """In C order; unlike `np.ascontiguousarray` it leaves a 0-d array 0-d."""
    return array if array.flags.c_contiguous else array.copy(order="C")
