"""The rows of a module: every variable of any NNX module, paired with its torch tensors.

The module is walked by its attributes. A submodule of a kind that the table knows contributes the
table's entries; any other variable is the torch tensor of the same name. Containers count as in
torch: `nnx.List`, `nnx.Dict` and `nnx.Sequential` are ModuleList, ModuleDict and Sequential, and a
module that `nnx.vmap` stacked is a ModuleList.
"""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import numpy as np
from flax import nnx

from flax_bilstm.conversion import transforms
from flax_bilstm.conversion.layers import Entry, entry, kind_of
from flax_bilstm.conversion.transforms import Transform

Path = tuple[str | int, ...]
"""Names and indices, as NNX has them."""

NO_TENSORS = (nnx.RngState, nnx.Cache, nnx.Intermediate, nnx.Perturbation, nnx.OptState)
"""Variables that no state dict has."""


class SummedBiases(NamedTuple):
    """In `names`: a Flax cell with one bias, which takes the sum of torch's two.

    The forward pass is the same. Training is not: PyTorch's two biases move their sum twice as
    far. On the way back `bias_ih` gets the sum and `bias_hh` zeros, so it is not bit-exact.

    Attributes:
        path: the torch path of the nn.LSTM, nn.LSTMCell, nn.RNN or nn.RNNCell.
        suffix: what follows its tensors' names: "_l0" or "_l0_reverse" of an nn.LSTM, "" of a cell.
    """

    path: str
    suffix: str = ""


Names = Mapping[str, "str | tuple[str, ...] | SummedBiases"]
"""Flax path of a module or a variable → its torch path; several where the variable is tied."""


class Row(NamedTuple):
    """Variables of a module and their torch tensors: usually one of each.

    Several variables are one tensor where torch packs them, and one variable is several tensors
    where it is tied or stacked. `default` is a tensor that Flax's layer has no variable for.
    `tied` has the rows that a tied one is made of, each with some of the names.
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
        """The variables' arrays, in Flax's layout, contiguous.

        Raises:
            ValueError: the tensors of a tied variable differ.
        """
        return [_contiguous(leaf) for leaf in self.transform.from_torch(tensors)]


def rows(
    module: nnx.Module, names: Names | None = None, ignore: Sequence[str] = ()
) -> tuple[Row, ...]:
    """Every variable of `module` that a checkpoint has, in exactly one row.

    Args:
        module: any NNX module.
        names: Flax path → torch path, of modules or of variables, for what torch calls otherwise;
            what lies inside a renamed module keeps its names there. Several torch paths in a tuple
            for tied weights. A `*` in a torch path stands for the index of a stacked module.
        ignore: patterns (`fnmatch`) of torch names or Flax paths without a counterpart.

    Raises:
        ValueError: a path in names is not in the module, or two variables have one torch name.
    """
    walk = _Walk(dict(names or {}))
    found = _merged(walk.node(module, (), ("",)))
    if unknown := walk.names.keys() - walk.used:
        path = min(unknown)
        near = difflib.get_close_matches(path, sorted(walk.seen), 3) or sorted(walk.seen)[:8]
        raise ValueError(
            f"names: expected Flax paths of {type(module).__name__}, got {path!r}; did you mean "
            f"one of {near}?"
        )
    kept = tuple(row for row in found if not _ignored(row, ignore))
    owners: dict[str, Row] = {}
    for row in kept:
        for name in row.torch_names:
            if name in owners:
                raise ValueError(
                    f"names: expected a torch name for each variable, got {name} for both "
                    f"{dotted(owners[name].paths[0])} and {dotted(row.paths[0])}."
                )
            owners[name] = row
    return kept


def variables(module: nnx.Module) -> dict[Path, nnx.Variable[Any]]:
    """Path → variable, under every path by which it can be reached."""
    return dict(_leaves(module, (), ()))


def dotted(path: Path) -> str:
    """The path as users write it."""
    return ".".join(map(str, path))


def matches(name: str, patterns: Sequence[str]) -> bool:
    """Whether a name matches one of the patterns."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)


class _Found(NamedTuple):
    """A row, and the variables that it is of (None for one that is not there)."""

    row: Row
    leaves: tuple[Any, ...]


class _Walk:
    """One walk over a module. `seen` are the Flax paths, `used` those that `names` renamed."""

    def __init__(self, names: dict[str, Any]):
        self.names, self.seen, self.used = names, set[str](), set[str]()

    def node(
        self, node: Any, path: Path, torch: tuple[str, ...], above: tuple[Any, ...] = ()
    ) -> Iterator[_Found]:
        """The rows of a module, container or variable that torch has under the paths `torch`."""
        renamed = self._renamed(path)
        if isinstance(renamed, SummedBiases):
            yield from self._summed(node, path, renamed)
            return
        torch = torch if renamed is None else renamed
        if isinstance(node, nnx.Variable):
            if not isinstance(node, NO_TENSORS):
                yield from _rows_of(entry("", ""), node, path, torch)
            return
        if any(node is other for other in above):  # a module that refers to one around it
            return
        inside_stack = any("*" in name for name in torch)
        if isinstance(node, nnx.Module) and path and not inside_stack and _stack_size(node):
            torch = tuple(f"{name}.*" for name in torch)
        claimed: set[int] = set()
        kind = kind_of(node) if isinstance(node, nnx.Module) else None
        for each in kind.entries(node) if kind else ():
            for found in self._entry(each, node, path, torch):
                claimed.update(map(id, found.leaves))
                yield found
        for key, child in _children(node):
            merged = isinstance(node, nnx.Sequential) and key == "layers"
            inside = torch if merged else tuple(_join(name, key) for name in torch)
            for found in self.node(child, (*path, key), inside, (*above, node)):
                if not claimed.issuperset(map(id, found.leaves)):
                    yield found

    def _entry(
        self, each: Entry, node: Any, path: Path, torch: tuple[str, ...]
    ) -> Iterator[_Found]:
        first = (*path, *_split(each.variables[0]))
        renamed = self._renamed(first) if len(each.variables) == 1 else None
        if renamed is not None and len(each.tensors) == 1:
            each, torch = each._replace(tensors=("",)), renamed
        yield from _rows_of(each, node, path, torch)

    def _summed(self, cell: Any, path: Path, to: SummedBiases) -> Iterator[_Found]:
        """The rows of a cell of Flax's own, whose one bias takes the sum of torch's two."""
        for tensors, names, transform in _FLAX_CELLS[_cell_kind(cell, path)]:
            each = Entry(tuple(f"{tensor}{to.suffix}" for tensor in tensors), names, transform)
            yield from _rows_of(each, cell, path, (to.path,))

    def _renamed(self, path: Path) -> Any:
        name = dotted(path)
        self.seen.add(name)
        if name not in self.names:
            return None
        self.used.add(name)
        to = self.names[name]
        return (to,) if isinstance(to, str) else to


_GATES = ("i", "f", "g", "o")


def _gates(parts: int) -> Transform:
    """Flax's kernels or biases of the four gates ↔ torch's one tensor."""
    return transforms.concatenated([transforms.TRANSPOSED if parts == 2 else transforms.SAME] * 4)


def _summed_gates() -> Transform:
    one = _gates(1)
    return Transform(
        lambda leaves: transforms.SUMMED_BIASES.to_torch(one.to_torch(leaves)),
        lambda tensors: one.from_torch(transforms.SUMMED_BIASES.from_torch(tensors)),
        exact=False,
    )


_FLAX_CELLS: dict[type, tuple[tuple[tuple[str, ...], tuple[str, ...], Transform], ...]] = {
    nnx.OptimizedLSTMCell: (
        (("weight_ih",), ("dense_i.kernel",), transforms.TRANSPOSED),
        (("weight_hh",), ("dense_h.kernel",), transforms.TRANSPOSED),
        (("bias_ih", "bias_hh"), ("dense_h.bias",), transforms.SUMMED_BIASES),
    ),
    nnx.LSTMCell: (
        (("weight_ih",), ("ii.kernel", "if_.kernel", "ig.kernel", "io.kernel"), _gates(2)),
        (("weight_hh",), tuple(f"h{gate}.kernel" for gate in _GATES), _gates(2)),
        (("bias_ih", "bias_hh"), tuple(f"h{gate}.bias" for gate in _GATES), _summed_gates()),
    ),
    nnx.SimpleCell: (
        (("weight_ih",), ("dense_i.kernel",), transforms.TRANSPOSED),
        (("weight_hh",), ("dense_h.kernel",), transforms.TRANSPOSED),
        (("bias_ih", "bias_hh"), ("dense_i.bias",), transforms.SUMMED_BIASES),
    ),
}


def _cell_kind(cell: Any, path: Path) -> type:
    for cls in type(cell).__mro__:
        if cls in _FLAX_CELLS:
            return cls
    known = ", ".join(f"nnx.{kind.__name__}" for kind in _FLAX_CELLS)
    raise ValueError(
        f"names: expected one of {known} at {dotted(path)}, which SummedBiases is for, got "
        f"{type(cell).__name__}."
    )


def _rows_of(each: Entry, node: Any, path: Path, torch: tuple[str, ...]) -> Iterator[_Found]:
    """The row of one entry for each of the torch paths; none where the layer lacks the variable."""
    paths = tuple((*path, *_split(variable)) for variable in each.variables)
    leaves = tuple(_reach(node, _split(variable)) for variable in each.variables)
    if leaves[0] is None and each.default is None:
        return
    for prefix in torch:
        tensors = tuple(_join(prefix, name) for name in each.tensors)
        transform, default = each.transform, each.default
        if any("*" in name for name in tensors):
            probe = leaves[0] if leaves[0] is not None else next(_any_leaf(node))
            count = probe.shape[0]
            names = tuple(name.replace("*", str(i), 1) for i in range(count) for name in tensors)
            tensors, transform = names, transforms.stacked(transform, count)
            default = None if default is None else np.repeat(default[None], count, axis=0)
        yield _Found(Row(tensors, paths, transform, default), leaves)


def _merged(found: Iterator[_Found]) -> list[Row]:
    """The rows, those of the same variables made one: tied weights."""
    groups: dict[Any, list[Row]] = {}
    for row, leaves in found:
        # A variable compares its elements: `in` would ask each of them.
        whole = all(leaf is not None for leaf in leaves)
        groups.setdefault(tuple(map(id, leaves)) if whole else row.paths, []).append(row)
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


def _children(node: Any) -> Iterator[tuple[str | int, Any]]:
    """What lies directly inside a module or a container: modules, variables and containers."""
    if isinstance(node, (nnx.List, list, tuple)):
        items: Iterator[tuple[Any, Any]] = iter(enumerate(node))
    elif isinstance(node, nnx.Module):
        items = ((k, v) for k, v in vars(node).items() if not k.startswith("_pytree__"))
    elif isinstance(node, Mapping):
        items = iter(node.items())
    else:
        return
    kinds = (nnx.Module, nnx.Variable, list, tuple, Mapping)
    yield from ((key, child) for key, child in items if isinstance(child, kinds))


def _leaves(
    node: Any, path: Path, above: tuple[Any, ...]
) -> Iterator[tuple[Path, nnx.Variable[Any]]]:
    if isinstance(node, nnx.Variable):
        if not isinstance(node, NO_TENSORS):
            yield path, node
    elif not any(node is other for other in above):
        for key, child in _children(node):
            yield from _leaves(child, (*path, key), (*above, node))


def _any_leaf(node: Any) -> Iterator[nnx.Variable[Any]]:
    return (leaf for _, leaf in _leaves(node, (), ()))


def _stack_size(node: nnx.Module) -> int | None:
    """How many modules `nnx.vmap` stacked in this one, None if it is a single one.

    It is a stack where a layer of a known kind in it has one axis too many, and every variable in
    it has the same leading axis.
    """
    if not any(_is_stacked(module) for module in _modules(node, ())):
        return None
    sizes = {leaf.shape[0] if leaf.ndim else None for leaf in _any_leaf(node)}
    return sizes.pop() if len(sizes) == 1 else None


def _modules(node: Any, above: tuple[Any, ...]) -> Iterator[nnx.Module]:
    if isinstance(node, nnx.Module):
        yield node
    for _, child in _children(node):
        if not isinstance(child, nnx.Variable) and not any(child is other for other in above):
            yield from _modules(child, (*above, node))


def _is_stacked(module: nnx.Module) -> bool:
    kind = kind_of(module)
    first = next(iter(kind.entries(module)), None) if kind else None
    leaf = first and _reach(module, _split(first.variables[0]))
    return kind is not None and leaf is not None and leaf.ndim == kind.rank(module) + 1


def _reach(node: Any, path: Path) -> Any:
    """The variable at a path inside a module, or None."""
    for key in path:
        if isinstance(node, (nnx.List, list, tuple)):
            node = node[int(key)]
        elif isinstance(node, Mapping):
            node = node.get(key)
        else:
            node = getattr(node, str(key), None)
        if node is None:
            return None
    return node


def _split(path: str) -> Path:
    return tuple(int(part) if part.isdigit() else part for part in path.split(".")) if path else ()


def _join(prefix: str, name: str | int) -> str:
    return f"{prefix}.{name}" if prefix and name != "" else f"{prefix}{name}"


def _contiguous(array: np.ndarray) -> np.ndarray:
    """In C order; unlike `np.ascontiguousarray` it leaves a 0-d array 0-d."""
    return array if array.flags.c_contiguous else array.copy(order="C")
