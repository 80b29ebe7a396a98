"""`parity selftest`: plants every known fault and shows that each is caught, placed and named.

A harness that passes everything proves nothing, and one that fails everything proves no more. So
the faults of `parity.selftest.faults` are planted one at a time in a small network, and unfaulted
networks of many sizes and seeds are checked beside them (`parity.selftest.false_alarms`).
"""

import multiprocessing
import time
from collections.abc import Callable
from dataclasses import dataclass

import jax
import numpy as np
import torch

import flax_bilstm as fb
import torch_ref
from parity.compare import Progress, compare_sides
from parity.report import Report, Row
from parity.selftest import false_alarms
from parity.selftest.faults import FAULTS, SHOWS, Fault
from parity.sides import pair
from parity.sides.side import TARGET

# Where two sizes are equal a transposed matrix fits: the most treacherous sizes.
INPUT_DIM, HIDDEN_DIM, OUTPUT_DIM = 4, 4, 8
BATCH, TIME = 3, 20
STEPS = 3
SEED = 0
CASES = ("plain", "padded", "large")


@dataclass(frozen=True)
class Outcome:
    """What became of one planted fault; picklable, which the fault is not.

    Attributes:
        name: of the fault.
        caught: the report did not pass.
        placed: its first divergence is the stage with the fault.
        named: its text holds the diagnosis that the table asks for.
        stage: where the fault is.
        first: the report's first divergence.
        seconds: how long it took.
    """

    name: str
    caught: bool
    placed: bool
    named: bool
    stage: str
    first: Row | None
    seconds: float

    @property
    def passed(self) -> bool:
        """Whether the harness did all it must."""
        return self.caught and self.placed and self.named


def reference() -> torch_ref.BiLSTMWithAttention:
    """The network in PyTorch as it is initialised, but for the LSTM's weights, doubled."""
    with torch.random.fork_rng():
        torch.manual_seed(SEED)
        model = torch_ref.BiLSTMWithAttention(INPUT_DIM, HIDDEN_DIM, OUTPUT_DIM)
    with torch.no_grad():
        for parameter in model.lstm.parameters():
            parameter.mul_(2)
    return model


def batch(rng: np.random.Generator, case: str) -> dict[str, np.ndarray]:
    """Inputs of a case: "plain", "padded" (with rubbish in the padding) or "large" (saturated)."""
    x = rng.standard_normal((BATCH, TIME, INPUT_DIM), dtype=np.float32)
    target = rng.standard_normal((BATCH, OUTPUT_DIM), dtype=np.float32)
    if case == "large":
        x *= 1000
    if case != "padded":
        return {"x": x, TARGET: target}
    lengths = np.array([TIME, 7, 13])
    x[np.arange(TIME)[None] >= lengths[:, None]] = 30
    return {"x": x, TARGET: target, "lengths": lengths}


def plant(fault: Fault) -> Report:
    """The report of the whole check with the fault in force.

    Operations are compiled one by one and shared by all faults; whole programs would each have to
    be compiled anew, which would take most of the time.
    """
    model = reference()
    held = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    rng = np.random.default_rng(SEED)
    inputs = batch(rng, fault.case)
    optimizers = [fault.optimizer] if fault.optimizer else []
    batches = [batch(rng, fault.case) for _ in range(STEPS)] if optimizers else []
    with jax.disable_jit(), fault.plant():
        candidate = fb.from_state_dict(model.state_dict())
        sides = pair.of_modules(
            model, candidate, {n: a for n, a in inputs.items() if n != TARGET}, loss=fault.loss
        )
        return compare_sides(
            sides.holding(held, fault.hold(held)),
            inputs,
            optimizers=optimizers,
            batches=batches,
            case=fault.case,
        )


def outcome(number: int) -> Outcome:
    """Plant the fault of that number in the table, and judge the report."""
    torch.set_num_threads(1)
    fault = FAULTS[number]
    started = time.monotonic()
    first = plant(fault).first_divergence
    return Outcome(
        fault.name,
        caught=first is not None,
        placed=first is not None and first.name == fault.stage,
        named=first is not None and fault.says in first.note,
        stage=fault.stage,
        first=first,
        seconds=time.monotonic() - started,
    )


def run(clean_runs: int, jobs: int, say: Callable[[str], None], progress: Progress) -> bool:
    """Plant everything, check the unfaulted, and say what came of it.

    Args:
        clean_runs: unfaulted networks to check, spread evenly over the shapes that it takes.
        jobs: processes at once.
        say: told every line of the result.
        progress: told what has been done so far.

    Returns:
        Whether every fault was caught, placed and named, and every unfaulted network passed.
    """
    started = time.monotonic()
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        outcomes = []
        for one in pool.imap(outcome, range(len(FAULTS))):
            outcomes.append(one)
            say(_line(one))
            progress(f"planted {len(outcomes)} of {len(FAULTS)} faults")
        tasks = false_alarms.tasks(clean_runs)
        alarms: list[str] = []
        done = 0
        for (_, seeds), found in zip(
            tasks, pool.imap(false_alarms.failures_of, tasks), strict=True
        ):
            alarms += found
            done += len(seeds)
            progress(f"checked {done} of {clean_runs} unfaulted networks")
    for alarm in alarms:
        say(f"FALSE ALARM: {alarm}")
    say("")
    for shows, words in SHOWS.items():
        of_kind = [o for o, m in zip(outcomes, FAULTS, strict=True) if m.shows == shows]
        say(f"{sum(o.passed for o in of_kind):4} of {len(of_kind):2} that show {words}")
    for what in ("caught", "placed", "named"):
        say(f"{sum(getattr(o, what) for o in outcomes):4} of {len(outcomes)} faults {what}")
    say(f"{len(alarms):4} false alarms in {clean_runs} runs of unfaulted networks")
    say(f"{time.monotonic() - started:.0f} s")
    return all(o.passed for o in outcomes) and not alarms


def _line(one: Outcome) -> str:
    """One fault in two lines of text: the verdict, and what the report says of it."""
    missing = [w for w in ("caught", "placed", "named") if not getattr(one, w)]
    verdict = f"FAILED, not {missing[0]}" if missing else "ok"
    place = "" if one.first is None else one.first.name
    if one.first is not None and not one.placed:
        place += f" (it is {one.stage})"
    note = "" if one.first is None else one.first.note
    return f"{verdict}: {one.name} → {place}\n    {note}"
