"""docs/layer-kinds.md, made from the table of layer kinds: `python -m tools.layer_kinds`."""

from collections.abc import Callable, Iterator
from pathlib import Path

from flax import nnx

import flax_bilstm as fb
from flax_bilstm.conversion.fit import expected_tensors
from flax_bilstm.conversion.layers import FLAX_WITHOUT, KINDS, TORCH_WITHOUT
from flax_bilstm.conversion.rows import rows, variables
from flax_bilstm.conversion.tree import dotted

PAGE = Path(__file__).parents[1] / "docs" / "layer-kinds.md"

RNGS = nnx.Rngs(0)

EXAMPLES: dict[type, Callable[[], nnx.Module]] = {
    fb.LSTM: lambda: fb.LSTM(3, 4, bidirectional=True, rngs=RNGS),
    fb.LSTMCell: lambda: fb.LSTMCell(3, 4, proj_size=2, rngs=RNGS),
    nnx.RNN: lambda: nnx.RNN(fb.LSTMCell(3, 4, rngs=RNGS)),
    nnx.Bidirectional: lambda: nnx.Bidirectional(
        nnx.RNN(fb.LSTMCell(3, 4, rngs=RNGS)), nnx.RNN(fb.LSTMCell(3, 4, rngs=RNGS))
    ),
    fb.Attention: lambda: fb.BiLSTMWithAttention(3, 4, 1, rngs=RNGS).attention,
    fb.BiLSTMWithAttention: lambda: fb.BiLSTMWithAttention(3, 4, 1, rngs=RNGS),
    nnx.Linear: lambda: nnx.Linear(3, 4, rngs=RNGS),
    nnx.LinearGeneral: lambda: nnx.LinearGeneral((2, 3), (4, 5), axis=(-2, -1), rngs=RNGS),
    nnx.Embed: lambda: nnx.Embed(5, 4, rngs=RNGS),
    nnx.LayerNorm: lambda: nnx.LayerNorm(4, rngs=RNGS),
    nnx.RMSNorm: lambda: nnx.RMSNorm(4, rngs=RNGS),
    nnx.GroupNorm: lambda: nnx.GroupNorm(4, num_groups=2, rngs=RNGS),
    nnx.InstanceNorm: lambda: nnx.InstanceNorm(4, rngs=RNGS),
    nnx.BatchNorm: lambda: nnx.BatchNorm(4, rngs=RNGS),
    nnx.Conv: lambda: nnx.Conv(4, 6, (3, 2), feature_group_count=2, rngs=RNGS),
    nnx.ConvTranspose: lambda: nnx.ConvTranspose(4, 6, (3, 2), rngs=RNGS),
    nnx.MultiHeadAttention: lambda: nnx.MultiHeadAttention(2, 8, decode=False, rngs=RNGS),
    nnx.PReLU: lambda: nnx.PReLU(),
}
"""A small module of every kind, whose rows and shapes the page shows."""

SETTINGS: dict[type, str] = {
    nnx.LayerNorm: "`epsilon=1e-5`: Flax's default is 1e-6.",
    nnx.RMSNorm: (
        "`epsilon=` torch's `eps`, which is the dtype's machine epsilon (1.2e-7 in float32) "
        "unless named."
    ),
    nnx.GroupNorm: "`epsilon=1e-5`: Flax's default is 1e-6. Channels last.",
    nnx.InstanceNorm: "`epsilon=1e-5`: Flax's default is 1e-6. Channels last.",
    nnx.BatchNorm: (
        "`momentum=0.9` is torch's 0.1: Flax says what is kept. In training torch's running "
        "variance is the unbiased one, Flax's the biased: statistics that are trained on drift "
        "apart by n / (n − 1). Flax has no count of batches: loading adds it as an `fb.Unused`, "
        "which comes back as it was and does not count on. Statistics are float32 whatever "
        "`param_dtype=` says; for others, before loading, "
        "`norm.mean.set_value(norm.mean[...].astype(dtype))`, and `norm.var` alike."
    ),
    nnx.Conv: "`padding=` as in torch: Flax's default is \"SAME\", torch's none. Channels last.",
    nnx.ConvTranspose: '`padding="VALID"` is torch\'s `padding=0`. Channels last.',
    nnx.Embed: (
        "`dtype=None` computes in the weights' dtype. torch's `padding_idx` keeps a row's gradient "
        "at zero, which Flax does not."
    ),
    nnx.MultiHeadAttention: (
        "`decode=False`; and `broadcast_dropout=False` with `dropout_rate=`: by default Flax draws "
        "one mask for all sequences and heads. Of unequal widths torch has `q_proj_weight`, "
        "`k_proj_weight` and `v_proj_weight`. Its mask says where not to look, Flax's where to."
    ),
    nnx.PReLU: "Flax begins at 0.01, torch at 0.25; loading sets it.",
}
"""Arguments or properties of a Flax layer that its variables do not show."""

HEAD = """\
# Layer kinds

<!-- Made by `python -m tools.layer_kinds` from flax_bilstm/conversion/layers.py. -->

`fb.load_state_dict` and all that is built on it know which tensor of a PyTorch layer is which
variable of a Flax layer. A subclass is of the same kind. What is in no known layer is paired by
name as it stands: an `nnx.Param` is the `nn.Parameter`, any other `nnx.Variable` the buffer, of the
same name.
`nnx.List`, `nnx.Dict` and `nnx.Sequential` are `nn.ModuleList`, `nn.ModuleDict` and
`nn.Sequential`; a module that `nnx.vmap` stacked is an `nn.ModuleList`. Random states, caches and
intermediates are no tensors. A plain array is none either: make it an `nnx.Variable` where torch
has a buffer. Whole numbers of 32 bits are torch's of 64, unless JAX was asked for 64 bits.

Every row is exact both ways, which each loading checks. Add a kind with `fb.register_layer`.
"""


def page() -> str:
    """The page's text."""
    lines = [HEAD, "## In the table\n"]
    for kind, entry in KINDS.items():
        lines += _section(kind, entry.torch)
    lines += ["## Not in the table: Flax\n", "| Layer | Why |", "| --- | --- |"]
    lines += [f"| `{_name(kind)}` | {reason} |" for kind, reason in FLAX_WITHOUT.items()]
    lines += ["\n## Not in the table: PyTorch\n", "| Layer | Why |", "| --- | --- |"]
    lines += [f"| {layer} | {reason} |" for layer, reason in TORCH_WITHOUT.items()]
    lines += ["\nAll other layers of `flax.nnx` and `torch.nn` have no tensors of their own.\n"]
    return "\n".join(lines)


def _section(kind: type, torch: str) -> Iterator[str]:
    module = EXAMPLES[kind]()
    found, chosen = variables(module), rows(module)
    shapes = expected_tensors(chosen, found)
    yield f"### `{_name(kind)}` ↔ {torch}\n"
    yield "| Tensor in PyTorch | Shape | Variable in Flax | Shape |"
    yield "| --- | --- | --- | --- |"
    for row in chosen:
        names = ", ".join(f"`{name}`" for name in row.torch_names)
        paths = ", ".join(f"`{dotted(path)}`" for path in row.paths)
        there = [found[path].get_value().shape for path in row.paths if path in found]
        flax = f"{there[0]}" if there else "added by loading"
        yield f"| {names} | {shapes[row.torch_names[0]].shape} | {paths} | {flax} |"
    yield f"\n{SETTINGS[kind]}\n" if kind in SETTINGS else ""


def _name(kind: type) -> str:
    return f"{'fb' if kind.__module__.startswith('flax_bilstm') else 'nnx'}.{kind.__name__}"


if __name__ == "__main__":
    PAGE.write_text(page())
