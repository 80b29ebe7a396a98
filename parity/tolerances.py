"""How far apart is too far: the rule that decides, its constants, and their reasons.

The truth is the reference in float64. A candidate's distance from it, max |candidate − truth|
over all elements of an array, is allowed

    distance ≤ k · own distance + floor · unit,      unit = max(ε · scale, smallest normal number)

with scale = max |truth| and ε the dtype's machine epsilon: a unit is one ULP of the array's scale.
A candidate beyond that has failed.

**Own distance** measures how accurate the reference's arithmetic is: the largest distance from the
truth among its run in that dtype and a few nudged runs (`parity.nudging`), in which all data but
marks such as −1, and every value of σ, tanh and the like, are moved by one ULP of themselves. Data
stored in a dtype is uncertain by that much, and so are functions that every library rounds in its
own way, so no program can be held to a tighter bound (backward error: Higham, Accuracy and
Stability of Numerical Algorithms, 2nd ed., section 1.5).
The nudged runs carry the problem's conditioning into the bound —
cancellation in a small output, saturated gates and softmaxes, Adam's division by a root near zero,
long training. They also make the bound steady: a single run may be exact by luck, and a bound from
it would fail right candidates. For the same reason a few runs are not enough to fail a candidate.
Runs are made in rounds (`parity.nudging.rounds`), and the bound comes from all runs so far: first
a quick one, whose bound is the tightest; if anything fails, as many as the dtype's row asks for,
and one more; and if none fails by more than the row's `rechecked` times its bound, `MORE_NUDGES`
more. So what fails has been judged by all of them.

**Undetermined.** If k · own distance is above ceiling · scale, only rounding determines the array:
chaotic training, saturated gates, a gradient that is zero but for cancellation. The reference does
not determine it, so a candidate within the bound is neither right nor wrong there. The row says so,
with the reason, and is counted; a check that has no determined array does not pass. An undetermined
array beyond the bound has failed, like any other, but k is at least `UNDETERMINED_K` there: the
runs are noise, of which the candidate's may be the largest. Outside training, the elements of such
an array that are determined, by the same rule with `ONE_ELEMENT` · k instead of k, must each be
right. So no error is hidden by an array that is uncertain only in parts: the first steps of a
chaotic sequence, the finite elements beside a NaN.

**Numbers below the smallest normal one** are kept by some programs (PyTorch) and replaced by zero
in others (XLA). Every other nudged run replaces them by zero, so that the effect is part of the own
distance; the unit is never less than the smallest normal number.

**Integers and booleans** must be equal wherever all runs of the reference agree.

The two sides sum the same products in different orders, so that k need not be large; it stays below
the 2¹² ULP or more by which lowered precision (TF32, bfloat16) or wrong semantics move a float32.
"""

from dataclasses import dataclass

from jax.numpy import finfo


@dataclass(frozen=True)
class Tolerance:
    """One row; the module's docstring has the rule. `trains`: whether training is judged in it.

    `rechecked` times the bound: what rounding alone may reach by bad luck. Not more, to save time.
    """

    k: float
    floor: float
    ceiling: float
    nudges: int
    rechecked: float
    reason: str
    trains: bool = True


TOLERANCES = {
    "float64": Tolerance(
        k=16.0,
        floor=64.0,
        ceiling=1e-10,
        nudges=4,
        rechecked=1e8,
        reason="judges meaning: sums of a few hundred terms in another order differ by tens of "
        "ULP at most, a wrong formula by millions; where more than 1e-10 of the scale would be "
        "allowed, the array is undetermined",
    ),
    "float32": Tolerance(
        k=8.0,
        floor=8.0,
        ceiling=1e-2,
        nudges=4,
        rechecked=1e4,
        reason="judges arithmetic: as good as the reference's own float32 up to the order of its "
        "sums; TF32 (2^13 ULP) and bfloat16 (2^16 ULP) lie far outside",
    ),
    "bfloat16": Tolerance(
        k=1.0,
        floor=2.0,
        ceiling=1.0,
        nudges=4,
        rechecked=1e4,
        reason="judges arithmetic where parameters and inputs are bfloat16: products are exact in "
        "float32 and few values are rounded, so that k is 1, and 2 ULP are for where a framework "
        "rounds: right networks were within 0.9. Weights of 3 significant bits lie outside, of 4 "
        "at the edge (0.8 to 1.4 times the bound in four networks). The ceiling is the scale "
        "itself: of a difference of two values near each other, 2^-8 each may leave nothing. No "
        "training: Adam's 0.999 rounds to 1 in it and small steps are lost: nobody trains so",
        trains=False,
    ),
}

ADAM_STEP_ROUNDING = 1 / 8 / (1 - 0.999)
"""By how many ULP Adam may round the length of its step; nudged runs move it by as much. Adam
divides its second moment by 1 − 0.999^t. torch computes that in Python's floats, optax in the
dtype, where storing 0.999 alone costs up to ε/4 and the difference thus ε/4 / (1 − 0.999); the
square root halves it."""

MORE_NUDGES = 16
"""Computed for normal noise: the largest of 4 nudged runs is less than 1/16 of the next run in 1 of
50,000 numbers, the largest of 20 in fewer than 1 of 10¹⁵. Where only rounding determines a sign,
and Adam takes a whole step by it, or two saturated gates cancel, 4 runs agree in 1 case of 16, 20
runs in 1 of a million. The gradient of a saturated gate then moves by 1e-8 of itself in float64,
which is 1e6 bounds, in a port that is right; a wrong formula is off by far more."""

ONE_ELEMENT = 64.0
"""An undetermined array has many elements, and a run gives only one number for each: the largest of
4 is less than 1/1024 of the next in 1 of 10¹²."""

UNDETERMINED_K = 8.0
"""The least k for an undetermined array; it matters for bfloat16, whose k is 1. Of the
candidate's run and the reference's, all of which are noise, each is the largest as often as any
other: with k = 1, the gradient of a bias before a softmax, zero but for rounding, failed right
ports."""

REQUIRED_ACCURACY = 0.95
"""The reference's accuracy on the digits' test images: an untrained one would prove nothing."""

TRUTH = "float64"
DTYPES = ("float64", "float32")
"""The dtypes of a check by default."""


def epsilon(dtype: str) -> float:
    """The dtype's machine epsilon, of bfloat16 too."""
    return float(finfo(dtype).eps)


def smallest(dtype: str) -> float:
    """The dtype's smallest normal number."""
    return float(finfo(dtype).smallest_normal)


def bound(dtype: str, own: float, scale: float) -> float:
    """The largest distance that is allowed, in the array's own unit."""
    row = TOLERANCES[dtype]
    k = row.k if determined(dtype, own, scale) else max(row.k, UNDETERMINED_K)
    return k * own + row.floor * max(epsilon(dtype) * scale, smallest(dtype))


def determined(dtype: str, own: float, scale: float) -> bool:
    """Whether the array is determined: the reference's runs agree closely enough."""
    row = TOLERANCES[dtype]
    return row.k * own <= max(row.ceiling * scale, row.floor * smallest(dtype))
