"""The control for the rule: PyTorch against PyTorch with its hidden units in another order.

Both programs are right by construction, and differ as two frameworks do: they add the same products
in another order. The rule must not fail one against the other, whatever the weights, inputs and
training. `cases` is a population far wider than networks in use: inputs from 1e-38 to 1e10, weights
from 0 to 100 times as large as PyTorch draws them, chaotic and saturated training.

    parity selftest --false-alarms 3000

counts the alarms, of which there must be none, and the undetermined cases.
"""

import multiprocessing
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

import torch_ref
from parity import place
from parity.checks import Progress
from parity.compare import compare_sides
from parity.render import text
from parity.report import Report
from parity.sides.optimizers import OPTIMIZERS
from parity.sides.side import TARGET, Pair
from parity.sides.torch_side import TorchSide

ALARM = "alarms"
OUTCOMES = ("passed", "undetermined in parts", "undetermined", ALARM)


class ReorderedLSTM(torch.nn.LSTM):
    """An LSTM under the same names that computes with features and hidden units in another order.

    Args:
        lstm: bidirectional, batch first, one layer.
        rng: draws the orders.
    """

    def __init__(self, lstm: torch.nn.LSTM, rng: np.random.Generator) -> None:
        super().__init__(lstm.input_size, lstm.hidden_size, batch_first=True, bidirectional=True)
        self.load_state_dict(lstm.state_dict())
        self.features = torch.from_numpy(rng.permutation(lstm.input_size))
        self.units = [torch.from_numpy(rng.permutation(lstm.hidden_size)) for _ in range(2)]

    def forward(self, x: Any, hx: Any = None) -> Any:
        """What the LSTM computes from a zero state."""
        hidden, weights = self.hidden_size, []
        for suffix, units in zip(("", "_reverse"), self.units, strict=True):
            rows = torch.cat([units + gate * hidden for gate in range(4)])
            ih, hh, *biases = (
                getattr(self, f"{name}_l0{suffix}")[rows]
                for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
            )
            weights += [ih[:, self.features], hh[:, units], *biases]
        zeros = x.new_zeros(2, len(x), hidden)
        y, h, c = torch._VF.lstm(
            x[..., self.features], (zeros, zeros), weights, True, 1, 0.0, False, True, True
        )
        back = [torch.argsort(units) for units in self.units]
        y = torch.cat([part[..., to] for part, to in zip(y.chunk(2, -1), back, strict=True)], -1)
        h, c = (torch.stack([s[i][:, to] for i, to in enumerate(back)]) for s in (h, c))
        return y, (h, c)


class Reordered(torch.nn.Module):
    """The reference network under the same names with every sum in another order."""

    def __init__(self, network: torch_ref.BiLSTMWithAttention, rng: np.random.Generator) -> None:
        super().__init__()
        self.lstm = ReorderedLSTM(network.lstm, rng)
        self.attention, self.fc = network.attention, network.fc
        self.units = torch.from_numpy(rng.permutation(network.fc.in_features))

    def forward(self, x: Tensor) -> Tensor:
        """The head's output for each sequence, from its last step's context."""
        y, _ = self.lstm(x)
        last, keys = y[:, -1:, self.units], y.flip(1)[..., self.units]
        weights = torch.softmax(last @ keys.transpose(1, 2), dim=-1)
        context = (weights @ keys)[:, 0]
        return torch.nn.functional.linear(context, self.fc.weight[:, self.units], self.fc.bias)


@dataclass(frozen=True)
class Case:
    """One network of the population.

    Attributes:
        loudness: the size of the inputs.
        gain: the size of the weights, relative to PyTorch's initial ones.
        steps: the number of training steps.
    """

    seed: int
    input_dim: int
    hidden_dim: int
    output_dim: int
    batch: int
    time: int
    loudness: float
    gain: float
    steps: int
    optimizer: str
    dtype: str


def cases(seeds: range) -> Iterator[Case]:
    """Case `seed` is the same in every range."""
    for seed in seeds:
        rng = np.random.default_rng(seed)
        pick = rng.integers
        sizes = {
            "input_dim": int(pick(1, 9)),
            "hidden_dim": int(pick(1, 13)),
            "output_dim": int(pick(1, 5)),
            "batch": int(pick(1, 5)),
            "time": int(pick(1, 13)),
        }
        loudness = rng.choice(
            [1.0, 20.0, 255.0, 10 ** rng.uniform(-38, 10), 10 ** rng.uniform(-3, 3)]
        )
        gain = rng.choice([0.0, 1.0, 30.0, 10 ** rng.uniform(-3, 2), 10 ** rng.uniform(0, 2)])
        steps = int(rng.choice([0, 0, 0, 1, 3, 10, 50], p=[0.2, 0.2, 0.2, 0.1, 0.15, 0.1, 0.05]))
        optimizer = OPTIMIZERS[pick(len(OPTIMIZERS))].name
        dtype = str(rng.choice(["float64", "float32", "bfloat16"], p=[0.5, 0.4, 0.1]))
        yield Case(
            seed, **sizes, loudness=float(loudness), gain=float(gain), steps=steps,
            optimizer=optimizer, dtype=dtype,
        )  # fmt: skip


def check(case: Case) -> Report:
    """The report on the network of a case against its reordered copy."""
    rng = np.random.default_rng([case.seed, 1])
    network = torch_ref.BiLSTMWithAttention(case.input_dim, case.hidden_dim, case.output_dim)
    drawn = weights(network, case, rng)
    network.load_state_dict({name: torch.from_numpy(array) for name, array in drawn.items()})
    return compared(Pair(TorchSide(network), TorchSide(Reordered(network, rng))), case, rng)


def weights(
    network: torch.nn.Module, case: Case, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """A state dict whose weights have the case's size."""
    size = case.gain / case.hidden_dim**0.5
    return {
        name: (size * rng.uniform(-1, 1, tensor.shape)).astype(np.float32)
        for name, tensor in network.state_dict().items()
    }


def compared(pair: Pair, case: Case, rng: np.random.Generator) -> Report:
    """The report on two sides that compute the same, with the case's inputs and training."""

    def batch() -> dict[str, np.ndarray]:
        x = case.loudness * rng.standard_normal((case.batch, case.time, case.input_dim))
        target = rng.standard_normal((case.batch, case.output_dim))
        return {"x": x.astype(np.float32), TARGET: target.astype(np.float32)}

    return compare_sides(
        pair,
        batch(),
        dtypes=[case.dtype],
        optimizers=[o for o in OPTIMIZERS if o.name == case.optimizer and case.steps],
        batches=[batch() for _ in range(case.steps)],
        case=place.Case(str(case)),
    )


def outcome(seed: int) -> tuple[str, str]:
    """The outcome of a case, one of OUTCOMES, and the report's verdict in words."""
    torch.set_num_threads(1)
    report = check(next(cases(range(seed, seed + 1))))
    return kind(report), text.verdict(report)


def kind(report: Report) -> str:
    """The outcome that the report on a right program counts as, one of OUTCOMES."""
    if report.first_divergence is not None:
        return ALARM
    if report.unproven:
        return "undetermined"
    return "undetermined in parts" if report.undetermined else "passed"


def run(
    outcome: Callable[[int], tuple[str, str]],
    what: str,
    number: int,
    jobs: int,
    say: Callable[[str], None],
    progress: Progress,
) -> bool:
    """Check `number` cases, and print the outcomes.

    Args:
        outcome: seed → one of OUTCOMES, and the verdict in words.
        what: words for what is checked.
        number: the number of cases, from the first one on.
        jobs: the number of processes.
        say: called with every alarm, and with the counts.
        progress: called with what has been done so far.

    Returns:
        Whether none raised an alarm.
    """
    counts: Counter[str] = Counter()
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        for done, (became, words) in enumerate(pool.imap(outcome, range(number)), start=1):
            counts[became] += 1
            if became == ALARM:
                say(f"FALSE ALARM: {words}")
            progress(f"{what}: checked {done} of {number} networks")
    say(f"{what}, {number} networks")
    for became in OUTCOMES:
        say(f"{counts[became]:6} {became}")
    return not counts[ALARM]
