"""What `flax-bilstm convert` is asked to do."""

from pathlib import Path
from typing import NamedTuple

from flax_bilstm.conversion.rows import Names


class Conversion(NamedTuple):
    """The arguments of a conversion.

    Attributes:
        source, target: the checkpoints; the target's name determines its format.
        prefix: use only the names that begin with it.
        dtype: what floating tensors are cast to; None keeps their dtypes.
        score: the forward pass of the reference network's attention; the names do not determine it.
        into: "package.module:function" that makes the module to load into, for another network.
        names, ignore: for `into`, as for `load_state_dict`.
        parameters: a text file with the optimizer's parameters, one torch name per line.
        learning_rate: a number, or "package.module:schedule", in place of the optimizer's.
        dry_run, overwrite, optimizer: whether to keep nothing, to replace an existing file, and to
            convert the optimizer's state.
    """

    source: Path
    target: Path
    prefix: str | None = None
    key: str | None = None
    dtype: str | None = None
    score: str = "dot"
    into: str | None = None
    names: Names | None = None
    ignore: tuple[str, ...] = ()
    parameters: Path | None = None
    learning_rate: str | None = None
    dry_run: bool = False
    overwrite: bool = False
    optimizer: bool = True
