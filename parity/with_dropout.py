"""The rows of training mode with Dropout: output and gradients, with fixed numbers for every mask.

See `parity.sides.dropout` for the numbers.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial

from parity.distance import Value
from parity.judge import judge_run, raised
from parity.place import Case, Place
from parity.results import Row
from parity.sides.dropout import POSITIONS, VALUES
from parity.sides.side import Arrays, Pair, Side, beside, outputs

BY_VALUES = (
    "Dropout has another layout or order of calls: it was compared by numbers that depend on the "
    "values, which do not show which elements share a mask"
)


def with_dropout(pair: Pair, inputs: Arrays, dtype: str, case: Case) -> tuple[list[Row], list[str]]:
    """The rows, and notes on what they do not show.

    Only if the output is right by positions, the gradients are compared: they mean nothing by
    values.
    """

    def run(side: Side, to: str, by: str) -> Mapping[str, Value]:
        found = side.in_training(by, side.parameters, inputs, to)
        returned = outputs(found, output)
        named = {f"dropout{n.removeprefix(output)}": found[n] for n in returned}
        slopes = {n: a for n, a in found.items() if n not in returned and by == POSITIONS}
        return {**named, **beside(named, slopes)}

    output, place = pair.reference.output, Place(case, "training mode", dtype)
    judged = judge_run(pair, partial(run, by=POSITIONS), place)
    # A row that an error makes has a name of its own.
    named = set(outputs(judged.truth, "dropout"))
    wrong = [
        row for row in judged.rows if row.failed and (row.name in named or not judged.candidate)
    ]
    notes = []
    if wrong:
        judged = judge_run(pair, partial(run, by=VALUES), place)
        notes = [] if judged.failure else [BY_VALUES]
    if not judged.candidate:  # it raised an error
        return list(judged.rows), notes
    rows = list(_in_words(judged.rows, named, pair.dropout))
    if any(not row.passed and row.name in named for row in rows):
        return [row for row in rows if row.name in named], notes
    if any(row.passed and row.determined for row in rows):
        rows.append(_masks(pair.candidate, inputs, replace(place, name="dropout masks")))
    return rows, notes


def _in_words(rows: tuple[Row, ...], named: set[str], rates: str) -> Iterator[Row]:
    """The rows, with a note on each that differs."""
    for row in rows:
        words = row.note or f"differs by {row.distance:.3g}, allowed {row.bound:.3g}"
        what, why = "the output", (
            "one is missing, is called elsewhere or more often, or has another rate or "
            "broadcast_dims"
        )  # fmt: skip
        if row.name not in named:
            what, why = "the gradient", "what only training mode does, stops or changes it"
        note = f"with fixed numbers for every Dropout, {what} {words}: {why}; {rates}"
        yield row if row.passed else replace(row, note=note)


def _masks(candidate: Side, inputs: Arrays, place: Place) -> Row:
    """The row that fails if a call of Dropout draws the same mask each time the candidate runs."""
    try:
        calls = candidate.repeated_masks(candidate.parameters, inputs, place.dtype)
    except Exception as error:  # any error that the candidate raises is its failure
        return raised(error, place)
    note = (
        f"whenever the candidate is called, calls {calls} of its Dropout draw the mask that they "
        "drew before: give the layers rngs, or each call another key"
    )
    return Row(**vars(place), passed=not calls, note=note if calls else "")
