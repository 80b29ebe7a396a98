"""How far apart is too far: the one table that decides, and its reasons.

The truth is the reference in float64. A candidate's distance from it, max |candidate − truth|
over all elements, passes when

    distance ≤ min(k · own distance + floor · ε · scale, ceiling · scale),     scale = max |truth|

where ε is the dtype's machine epsilon, so that ε · scale is one ULP of the tensor's scale.

**Own distance** is what the reference's arithmetic itself is worth: the largest distance from the
truth among its run in that dtype and a few nudged ones (`parity.nudging`), in which everything
given and every value of σ, tanh and their like is moved by at most one ULP of itself. Data stored
in a dtype is uncertain by that much, and so are functions that every library rounds in its own way,
so no program can be held to more (backward error: Higham, Accuracy and Stability of Numerical
Algorithms, 2nd ed., section 1.5). The nudged runs carry the problem's conditioning into the bound —
cancellation in a small output, saturated gates and softmaxes, Adam's division by a root near zero,
long training — and they make it steady: one run alone may be right by luck, and a lucky reference
would accuse everyone.

An array can be cancellation alone: the gradient of an attention's key bias is zero, and what any
program computes for it is rounding. Where the reference's own distance is above the ceiling, such
an array has no scale of its own, and the largest element of all arrays of the check stands for it.

Both sides sum the same products in another order, so that k need not be large; it stays below
the 2¹² ULP or more by which lowered precision (TF32, bfloat16) or wrong semantics move a float32.
"""

from dataclasses import dataclass

import jax.numpy as jnp


@dataclass(frozen=True)
class Tolerance:
    """One row: see the module's text for the rule. `trains`: whether training is judged in it."""

    k: float
    floor: float
    ceiling: float
    nudges: int
    reason: str
    trains: bool = True


TOLERANCES = {
    "float64": Tolerance(
        k=16.0,
        floor=64.0,
        ceiling=1e-10,
        nudges=4,
        reason="judges meaning: sums of a few hundred terms in another order differ by tens of "
        "ULP at most, a wrong formula by millions; nothing may reach 1e-10 of the scale",
    ),
    "float32": Tolerance(
        k=8.0,
        floor=8.0,
        ceiling=1e-2,
        nudges=4,
        reason="judges arithmetic: as good as the reference's own float32 up to the order of its "
        "sums; TF32 (2^13 ULP) and bfloat16 (2^16 ULP) lie far outside",
    ),
    "bfloat16": Tolerance(
        k=1.0,
        floor=2.0,
        ceiling=1.0,
        nudges=4,
        reason="judges arithmetic where parameters and inputs are bfloat16: products are exact in "
        "float32 and few values are rounded, so that k is 1, and 2 ULP are for where a framework "
        "rounds: right networks were within 0.9. Values of 4 significant bits mostly lie "
        "outside; with k = 2 and 4 ULP most lay inside. The ceiling is the scale itself: of a "
        "difference of two values near each other, 2^-8 each may leave nothing. No training: "
        "Adam's 0.999 rounds to 1 in it and small steps are lost, so that nobody trains so",
        trains=False,
    ),
}

ADAM_STEP_ROUNDING = 1 / 8 / (1 - 0.999)
"""By how many ULP the step's length may be rounded in Adam, by which the nudged runs move it. Adam
divides its second moment by 1 − 0.999^t. torch computes that in Python's floats, optax in the
dtype, where storing 0.999 alone costs up to ε/4 and the difference thus ε/4 / (1 − 0.999); the
square root halves it."""

REQUIRED_ACCURACY = 0.95
"""Of the reference on the digits' test images: an untrained one would prove nothing."""

TRUTH = "float64"
DTYPES = ("float64", "float32")
"""What is computed in unless something else is asked for."""


def epsilon(dtype: str) -> float:
    """The dtype's machine epsilon, of bfloat16 too."""
    return float(jnp.finfo(dtype).eps)


def bound(dtype: str, own: float, scale: float) -> float:
    """The largest distance that passes, in the tensor's own unit."""
    row = TOLERANCES[dtype]
    return min(row.k * own + row.floor * epsilon(dtype) * scale, row.ceiling * scale)


def undetermined(dtype: str, own: float, scale: float) -> bool:
    """Whether the reference itself does not know the array: its own runs differ by too much."""
    return own > TOLERANCES[dtype].ceiling * scale
