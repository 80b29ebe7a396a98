"""`parity selftest`: plants every known fault and shows that each is caught, placed and named.

A check that passes everything proves nothing, and neither does one that fails everything. So the
faults of `parity.selftest.faults` are planted one at a time in a small network, and unfaulted
networks of many sizes and seeds are checked beside them (`parity.selftest.false_alarms`).
"""

import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import jax
import numpy as np
import torch

from parity.checks import Progress
from parity.compare import compare_sides
from parity.place import Case
from parity.render.text import verdict
from parity.report import Report
from parity.results import Row
from parity.selftest import false_alarms
from parity.selftest.faults import FAULTS, SHOWS, Fault
from parity.selftest.networks import NETWORKS, OURS
from parity.selftest.networks.network import SEED

STEPS = 3


@dataclass(frozen=True)
class Outcome:
    """The outcome of one planted fault; unlike the fault, it can be pickled.

    Attributes:
        name: the name of the fault.
        caught: whether the report did not pass.
        placed: whether its first divergence is the stage with the fault.
        named: whether its text has the diagnosis from the table, or says that there is none.
        has_name: whether the table has a diagnosis.
        stage: the stage with the fault.
        first: the report's first divergence.
        seconds: the time that the check took.
    """

    name: str
    caught: bool
    placed: bool
    named: bool
    has_name: bool
    stage: str
    first: Row | None
    seconds: float

    @property
    def passed(self) -> bool:
        """Whether the fault was caught, placed and named."""
        return self.caught and self.placed and self.named


def plant(fault: Fault) -> Report:
    """Run the whole check with the fault in force, and return the report.

    Operations are compiled one by one and shared by all faults; whole programs would each have to
    be compiled anew, which would take most of the time.
    """
    network = NETWORKS[fault.case]
    model = network.reference()
    held = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    rng = np.random.default_rng(SEED)
    first = network.draw(rng)
    fault.check_sizes(first, held)
    optimizers = [fault.optimizer] if fault.optimizer else []
    batches = [network.draw(rng) for _ in range(STEPS)] if optimizers else []
    with jax.disable_jit(), as_users_write_it(), fault.plant():
        sides = network.pair(model, first, fault.loss)
        return compare_sides(
            sides.holding(held, fault.hold(held)),
            first,
            optimizers=optimizers,
            batches=batches,
            case=Case(fault.case),
        )


@contextmanager
def as_users_write_it() -> Iterator[None]:
    """Use JAX's default rules for adding a bias to a batch, and integers to floats."""
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


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
        has_name=fault.has_name,
        stage=fault.stage,
        first=first,
        seconds=time.monotonic() - started,
    )


def unfaulted(case: str) -> str:
    """The verdict on one of the networks without a fault; "" if it passes."""
    torch.set_num_threads(1)
    report = plant(Fault("nothing", "", "forward", case=case))
    return "" if report.passed else verdict(report)


def run(clean_runs: int, jobs: int, say: Callable[[str], None], progress: Progress) -> bool:
    """Plant every fault, check unfaulted networks, and print the results.

    Args:
        clean_runs: the number of unfaulted networks to check, spread evenly over the shapes.
        jobs: the number of processes.
        say: called with every line of the result.
        progress: called with what has been done so far.

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
        alarms = [words for words in pool.imap(unfaulted, NETWORKS) if words]
        tasks = false_alarms.tasks(clean_runs)
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
    for words, flags in _score(outcomes).items():
        say(f"{sum(flags):4} of {len(flags):3} {words}")
    runs = clean_runs + len(NETWORKS)
    say(f"{len(alarms):4} false alarms in {runs} runs of unfaulted networks")
    say(f"{time.monotonic() - started:.0f} s")
    return all(o.passed for o in outcomes) and not alarms


def _score(outcomes: Sequence[Outcome]) -> dict[str, list[bool]]:
    """Words for each thing that is counted → whether each fault that it applies to has it.

    A name is counted only for faults that have a diagnosis in the table.
    """
    rows = list(zip(outcomes, FAULTS, strict=True))
    score = {
        f"passed that show {words}": [o.passed for o, fault in rows if fault.shows == shows]
        for shows, words in SHOWS.items()
    }
    return {
        **score,
        "passed in networks that are not ours": [o.passed for o, f in rows if f.case not in OURS],
        "caught": [o.caught for o in outcomes],
        "placed": [o.placed for o in outcomes],
        "named, of those that a known mistake explains": [o.named for o in outcomes if o.has_name],
        "said to be unknown, of the others": [o.named for o in outcomes if not o.has_name],
    }


def _line(one: Outcome) -> str:
    """One fault in two lines of text: the verdict, and what the report says of it."""
    missing = [w for w in ("caught", "placed", "named") if not getattr(one, w)]
    judged = f"FAILED, not {missing[0]}" if missing else "ok"
    place = "" if one.first is None else one.first.name
    if one.first is not None and not one.placed:
        place += f" (it is {one.stage})"
    note = "" if one.first is None else one.first.note
    return f"{judged}: {one.name} → {place}\n    {note}"
