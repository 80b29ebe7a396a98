"""The rows of one run in training mode: output, gradients, what it leaves, and its masks.

Fixed numbers take the place of Dropout (`parity.sides.fixed_masks`).
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial

from parity.distance import Value
from parity.judge import judge_run, raised
from parity.place import Case, Place
from parity.results import Row, without_distance
from parity.sides import fresh
from parity.sides.fixed_masks import POSITIONS, VALUES
from parity.sides.side import AFTER, Arrays, Pair, Side, beside, outputs
from parity.sides.training_mode import ONLY
from parity.tolerances import TRUTH

BY_VALUES = (
    "Dropout has another layout or order of calls: it was compared by numbers that depend on the "
    "values; they do not show how many masks there are, which elements share one, what depends on "
    "which are 0, nor gradients through it"
)
DIFFERENT = "what only training mode does is different"


def in_training_mode(
    pair: Pair, inputs: Arrays, dtype: str, case: Case, unseen: list[str]
) -> list[Row]:
    """The rows; `unseen` gets notes on what they do not show.

    Only if the output is right by positions, gradients are compared: they mean nothing by values.
    What is still 0 or 1 has other values (`parity.sides.fresh`): a factor of 0 hides a Dropout.
    """
    pair = _on_others(pair, inputs)
    reference, place = pair.reference, Place(case, "training mode", dtype)
    name = reference.output if pair.only == ONLY else "dropout"

    def run(side: Side, to: str, by: str) -> Mapping[str, Value]:
        found = side.in_training(by, side.parameters, inputs, to)
        returned = outputs(found, reference.output)
        named = {f"{name}{n.removeprefix(reference.output)}": found[n] for n in returned}
        trained = set(side.parameters).difference(reference.buffers)
        unread = {*returned, *(f"{n}{AFTER}" for n in trained)}
        others = {n: a for n, a in found.items() if n not in unread}
        if by == VALUES:  # PyTorch differentiates its own product
            others = {n: a for n, a in others.items() if n.endswith(AFTER)}
        return {**named, **beside(named, others)}

    judged = judge_run(pair, partial(run, by=POSITIONS), place)
    names = outputs(judged.truth, name)
    by_positions = not any(row.failed for row in judged.rows if row.name in names)
    if not by_positions and judged.candidate and pair.only != ONLY:
        judged = judge_run(pair, partial(run, by=VALUES), place)
        unseen += [] if judged.failure else [BY_VALUES]
    if not judged.candidate:  # it raised an error
        return list(judged.rows)
    rows = [_in_words(row, row.name in names, pair.only) for row in judged.rows]
    returned = [row for row in rows if row.name in names]
    if not all(row.passed for row in returned):
        return returned
    if any(row.determined for row in returned):
        place = replace(place, name="dropout masks")
        rows += _masks(pair, inputs, place, by_positions)
    return rows


def _on_others(pair: Pair, inputs: Arrays) -> Pair:
    """The pair with other values for what is still 0 or 1, if the reference runs on them."""
    other = fresh.moved(pair)
    try:
        other.reference.in_training(POSITIONS, other.reference.parameters, inputs, TRUTH)
    except Exception:  # the user's code can raise anything, and did not on its own values
        return pair
    return other


def _in_words(row: Row, returned: bool, only: str) -> Row:
    """The row, with a note if it differs."""
    if row.passed:
        return row
    words = (
        f": {row.note}" if row.note else f" differs by {row.distance:.3g}, allowed {row.bound:.3g}"
    )
    kind = "output" if returned else "array" if row.name.endswith(AFTER) else "gradient"
    if only == ONLY:
        return replace(row, note=f"in training mode, the {kind}{words}: {DIFFERENT}")
    why = DIFFERENT
    if returned:
        why = (
            "one is missing, is called elsewhere or more often, or has another rate, "
            f"broadcast_dims or broadcast_dropout; or {why}"
        )
    note = f"with fixed numbers for every Dropout, the {kind}{words}: {why}; {only}"
    return replace(row, note=note)


def _masks(pair: Pair, inputs: Arrays, place: Place, by_positions: bool) -> Iterator[Row]:
    """The row of the masks that the candidate draws, if it draws any: each must be another one.

    Calls with one key have the same mask, which is right only if the reference has one mask for
    both; by positions, it has two; else, it has another one for each if it draws as many.
    """
    candidate = pair.candidate
    try:
        runs = candidate.drawn_keys(candidate.parameters, inputs, place.dtype)
    except Exception as error:  # any error that the candidate raises is its failure
        yield raised(error, place)
        return
    if not any(runs):
        if not by_positions:
            yield without_distance(place, "the reference draws masks, and the candidate none")
        return
    keys = [key for _, key in runs[0] if key]
    least = min(len(keys), pair.reference.masks)
    callers: dict[bytes, set[int]] = {}
    for call, key in {(call, key) for call, key in runs[0] if key}:
        callers.setdefault(key, set()).add(call + 1)
    again = sorted({call + 1 for call, key in runs[1] if key in callers})
    shared = sorted({tuple(sorted(calls)) for calls in callers.values() if len(calls) > 1})
    words = []
    if again:
        words.append(
            f"when the candidate is called again, calls {again} of its Dropout draw a mask that "
            "was drawn before: give the layers rngs, or each call another key"
        )
    if shared and by_positions:
        words.append(
            f"calls {list(map(list, shared))} of its Dropout draw from one key, so the same mask, "
            "and the reference does not: give each layer rngs of its own, nnx.Rngs with another "
            "seed, or one nnx.Rngs to all"
        )
    elif len(set(keys)) < least:
        words.append(
            f"{len(keys)} calls of its Dropout draw from {len(set(keys))} keys, and the reference "
            f"draws {pair.reference.masks} masks: give each call another key"
        )
    yield Row(**vars(place), passed=not words, note="; ".join(words))
