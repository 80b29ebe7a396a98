"""Mistakes within one step: misplaced weights, and equations that differ from the LSTM's."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import permutations

import torch
from torch import Tensor
from torch.nn.functional import gelu, hardsigmoid, hardtanh, linear, softsign

from parity.diagnosis.lstm import reference as right
from parity.diagnosis.lstm.gates import GATES
from parity.diagnosis.lstm.reference import Cell, StepOf, plain
from parity.diagnosis.mistakes.rounding import SIGNIFICANT_BITS, rounded
from torch_ref.weights import CellWeights

Known = Iterator[tuple[str, Callable[..., Tensor]]]
_WORDS = tuple(gate.removesuffix("_gate") for gate in GATES)


def reordered(order: Sequence[int]) -> str:
    """A permutation of the gates in words."""
    moved = [i for i in range(4) if order[i] != i]
    if len(moved) == 2:
        return f"{_WORDS[moved[0]]} and {_WORDS[moved[1]]} gates are exchanged"
    return f"gates are taken in the order {', '.join('ifgo'[i] for i in order)}, not i, f, g, o"


def blocks(array: Tensor, order: Sequence[int]) -> Tensor:
    """The four gates' blocks along the first axis, in another order."""
    parts = array.chunk(4)
    return torch.cat([parts[i] for i in order])


def with_weights(change: Callable[[CellWeights], CellWeights]) -> StepOf:
    """The cell's equations on changed weights."""
    return lambda weights, x, h, c: plain(change(weights), x, h, c)


def _permuted(order: Sequence[int]) -> Callable[[CellWeights], CellWeights]:
    def change(weights: CellWeights) -> CellWeights:
        stacked = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        held = {name: getattr(weights, name) for name in stacked}
        return weights._replace(**{n: blocks(a, order) for n, a in held.items() if a is not None})

    return change


def _times(factors: Mapping[str, float]) -> Callable[[CellWeights], CellWeights]:
    def change(weights: CellWeights) -> CellWeights:
        if weights.bias_ih is None:
            raise ValueError("there are no biases")
        return weights._replace(**{n: k * getattr(weights, n) for n, k in factors.items()})

    return change


def _detached(*names: str) -> Callable[[CellWeights], CellWeights]:
    def change(weights: CellWeights) -> CellWeights:
        held = {name: getattr(weights, name) for name in names}
        return weights._replace(**{n: t.detach() for n, t in held.items() if t is not None})

    return change


def _transposed_blocks(weights: CellWeights) -> CellWeights:
    turned = [block.T for block in weights.weight_hh.chunk(4)]
    if turned[0].shape != weights.weight_hh.chunk(4)[0].shape:
        raise ValueError("the blocks are not square")
    return weights._replace(weight_hh=torch.cat(turned))


_ORDERS = [order for order in permutations(range(4)) if order != (0, 1, 2, 3)]

WEIGHTS: dict[str, Callable[[CellWeights], CellWeights]] = {
    "the hidden-to-hidden matrix of each gate is transposed": _transposed_blocks,
    "bias_ih is missing": _times({"bias_ih": 0}),
    "bias_hh is missing": _times({"bias_hh": 0}),
    "both biases are missing": _times({"bias_ih": 0, "bias_hh": 0}),
    "bias_ih is added twice": _times({"bias_ih": 2}),
    "bias_hh is added twice": _times({"bias_hh": 2}),
    "both biases are added twice": _times({"bias_ih": 2, "bias_hh": 2}),
    "bias_hh gets no gradient, as where both biases are folded into one": _detached("bias_hh"),
    "bias_ih gets no gradient, as where both biases are folded into one": _detached("bias_ih"),
    "weight_ih gets no gradient": _detached("weight_ih"),
    "weight_hh gets no gradient": _detached("weight_hh"),
}


def equations(
    weights: CellWeights,
    x: Tensor,
    hidden: Tensor,
    cell: Tensor,
    *,
    sigmoid: Callable[[Tensor], Tensor] = torch.sigmoid,
    candidate: Callable[[Tensor], Tensor] = torch.tanh,
    squash: Callable[[Tensor], Tensor] = torch.tanh,
    forget_bias: float = 0.0,
    detach: str = "",
    update: Callable[..., Tensor] = lambda i, f, g, c: f * c + i * g,
    shown: Callable[[Tensor, Tensor], Tensor] = lambda new, old: new,
) -> dict[str, Tensor]:
    """The cell's equations, with arguments for mistakes; `detach` names gates without gradient."""
    z = linear(x, weights.weight_ih, weights.bias_ih)
    z = z + linear(hidden, weights.weight_hh, weights.bias_hh)
    i, f, g, o = z.chunk(4, dim=-1)
    gates = {
        "i": sigmoid(i), "f": sigmoid(f + forget_bias), "g": candidate(g), "o": sigmoid(o),
    }  # fmt: skip
    i, f, g, o = (value.detach() if n in detach else value for n, value in gates.items())
    new = update(i, f, g, cell)
    out = o * squash(shown(new, cell))
    return {"cell": new, "hidden": out if weights.weight_hr is None else out @ weights.weight_hr.T}


def _same(z: Tensor) -> Tensor:
    return z


def _identity_slope(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """The function with its value, but with the derivative of the identity."""
    return lambda z: z + (function(z) - z).detach()


def _precisions(words: str, bits: int) -> Iterator[tuple[str, str, StepOf]]:
    """The step with some of its numbers rounded."""

    def low(weights: CellWeights) -> CellWeights:
        kernels = {name: getattr(weights, name) for name in ("weight_ih", "weight_hh", "weight_hr")}
        return weights._replace(
            **{n: rounded(k, bits) for n, k in kernels.items() if k is not None}
        )

    def products(w: CellWeights, x: Tensor, h: Tensor, c: Tensor) -> Mapping[str, Tensor]:
        return plain(low(w), rounded(x, bits), rounded(h, bits), c)

    def everything(w: CellWeights, x: Tensor, h: Tensor, c: Tensor) -> Mapping[str, Tensor]:
        new = products(w, x, h, c)
        return {"cell": new["cell"], "hidden": rounded(new["hidden"], bits)}

    def state(w: CellWeights, x: Tensor, h: Tensor, c: Tensor) -> Mapping[str, Tensor]:
        return equations(w, x, h, c, update=lambda i, f, g, c: rounded(f * c + i * g, bits))

    yield f"the matrix products are computed in {words}", _INPUT, products
    yield f"weights, input and hidden state are rounded to {words}", _INPUT, everything
    yield f"the cell state is rounded to {words}", "cell", state


_INPUT, _FORGET, _CELL, _OUTPUT = GATES

# What is wrong, the first part of the step that is affected ("" for all), the step with it.
EQUATIONS: tuple[tuple[str, str, StepOf], ...] = (
    ("the tanh on the new cell state is missing", "hidden", partial(equations, squash=_same)),
    ("the gates' sigmoid is the hard one, clip(z/6 + 1/2)", _INPUT,
     partial(equations, sigmoid=hardsigmoid)),
    ("the gates' sigmoid is the hard one, clip(z/5 + 1/2)", _INPUT,
     partial(equations, sigmoid=lambda z: (z / 5 + 0.5).clamp(0, 1))),
    ("the gates use tanh for sigmoid", _INPUT, partial(equations, sigmoid=torch.tanh)),
    ("the cell gate uses sigmoid for tanh", _CELL, partial(equations, candidate=torch.sigmoid)),
    ("the cell gate uses relu for tanh", _CELL, partial(equations, candidate=torch.relu)),
    ("the cell gate's tanh is missing", _CELL, partial(equations, candidate=_same)),
    ("the cell gate uses x / (1 + |x|) for tanh", _CELL, partial(equations, candidate=softsign)),
    ("the cell gate uses clip(x, −1, 1) for tanh", _CELL, partial(equations, candidate=hardtanh)),
    ("the cell gate uses GELU for tanh", _CELL, partial(equations, candidate=gelu)),
    ("the cell gate uses GELU by tanh, JAX's default, for tanh", _CELL,
     partial(equations, candidate=partial(gelu, approximate="tanh"))),
    ("1 is added to the forget gate's bias", _FORGET, partial(equations, forget_bias=1.0)),
    ("the input gate is 1 − the forget gate", _INPUT,
     partial(equations, update=lambda i, f, g, c: f * c + (1 - f) * g)),
    ("the forget gate also multiplies what is added", "cell",
     partial(equations, update=lambda i, f, g, c: f * (c + i * g))),
    ("the input gate is not applied", _INPUT,
     partial(equations, update=lambda i, f, g, c: f * c + g)),
    ("the forget gate is not applied", _FORGET,
     partial(equations, update=lambda i, f, g, c: c + i * g)),
    ("the output reads the old cell state", "hidden",
     partial(equations, shown=lambda new, old: old)),
    ("h and c are exchanged", "", lambda w, x, h, c: _exchanged(w, x, h, c)),
    ("the previous hidden state is not read", "", lambda w, x, h, c: plain(w, x, 0 * h, c)),
    ("the previous cell state is not read", "carry", lambda w, x, h, c: plain(w, x, h, 0 * c)),
    ("no gradient flows into the previous hidden state", "",
     lambda w, x, h, c: plain(w, x, h.detach(), c)),
    ("no gradient flows into the previous cell state", "carry",
     lambda w, x, h, c: plain(w, x, h, c.detach())),
    ("no gradient flows into the input", "", lambda w, x, h, c: plain(w, x.detach(), h, c)),
    ("the derivative of the cell gate's tanh is missing", _CELL,
     partial(equations, candidate=_identity_slope(torch.tanh))),
    ("the derivative of the tanh on the new cell state is missing", "hidden",
     partial(equations, squash=_identity_slope(torch.tanh))),
    ("the derivative of the gates' sigmoid is missing", _INPUT,
     partial(equations, sigmoid=_identity_slope(torch.sigmoid))),
    *(row for words, bits in SIGNIFICANT_BITS.items() for row in _precisions(words, bits)),
    *((f"no gradient flows through the {gate} gate", f"{gate}_gate",
       partial(equations, detach=letter)) for gate, letter in zip(_WORDS, "ifgo", strict=True)),
)  # fmt: skip


def _exchanged(
    weights: CellWeights, x: Tensor, hidden: Tensor, cell: Tensor
) -> Mapping[str, Tensor]:
    if hidden.shape != cell.shape:
        raise ValueError("h and c have other sizes")
    return plain(weights, x, cell, hidden)


def _steps() -> Iterator[tuple[str, str, StepOf]]:
    for order in _ORDERS:
        first = next(i for i in range(4) if order[i] != i)
        yield reordered(order), GATES[first], with_weights(_permuted(order))
    for words, change in WEIGHTS.items():
        yield words, "", with_weights(change)
    yield from EQUATIONS


def of_step(cell: Cell) -> Iterator[tuple[str, Callable[..., Tensor], str]]:
    """What can be wrong in a single step of the recurrence, and in which part of it."""
    for words, part, step in _steps():
        function = partial(right.quantity, cell=cell, name="step", step=step)
        yield words, function, f"{cell.name}.{part}" if part else ""
