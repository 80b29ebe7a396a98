"""Real input: scikit-learn's handwritten digits, each image an 8-step sequence of 8 pixels.

1,797 images of 8 × 8 pixels (0 to 16) in 10 classes, bundled with scikit-learn:
https://scikit-learn.org/stable/datasets/toy_dataset.html#digits-dataset. The reference is trained
in PyTorch and converted; then both sides are trained from the same start over the same batches.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import flax_bilstm as fb
import torch_ref
from flax_bilstm.checkpoints.replacing import replacing
from parity.checks import Progress
from parity.compare import compare_sides
from parity.comparison import identical
from parity.environment import pinned_precision
from parity.place import Case, Place
from parity.proof import figures
from parity.render.drawings import Line, curves, png
from parity.report import Report
from parity.results import Row, without_distance
from parity.sides import pair
from parity.sides.losses import CROSS_ENTROPY
from parity.sides.optimizers import adam
from parity.sides.side import TARGET
from parity.tolerances import REQUIRED_ACCURACY

SEED = 0
HIDDEN_DIM = 32
BATCH = 64
ADAM = adam(1e-2)
TRAINED, LOCKSTEP = Case("digits", "trained"), Case("digits", "lockstep")


@dataclass(frozen=True)
class Split:
    """Images (batch, 8, 8) in [0, 1], float32, and their classes."""

    x: Float[np.ndarray, "batch 8 8"]
    y: Int[np.ndarray, " batch"]


def draw_losses(report: Report, path: Path) -> None:
    """The loss curves of both sides' training in one plot, and their difference below, as a PNG.

    Args:
        report: a report that contains what `prove` returned.
        path: the path of the PNG.
    """
    (drawn,) = (c for c in report.figures["loss_curves"] if c["case"] == str(LOCKSTEP))
    theirs, ours = Line("PyTorch", drawn["reference"]), Line("Flax", drawn["candidate"])
    figure = curves(theirs, ours, drawn["loss"])
    figure.suptitle(
        "Handwritten digits: both are trained from the same parameters over the same batches"
    )
    with replacing(path) as temporary:
        temporary.write_bytes(png(figure))


def load() -> tuple[Split, Split]:
    """The training and the test images: four fifths and one fifth, with classes in proportion."""
    digits = load_digits()
    images = (digits.images / 16).astype(np.float32)
    parts = train_test_split(
        images, digits.target, test_size=0.2, random_state=SEED, stratify=digits.target
    )
    return Split(parts[0], parts[2]), Split(parts[1], parts[3])


def batches(data: Split, epochs: int) -> list[dict[str, np.ndarray]]:
    """Batches of equal size, in a new random order every epoch; the remainder is left out."""
    rng = np.random.default_rng(SEED)
    indices = [
        order[start : start + BATCH]
        for order in (rng.permutation(len(data.x)) for _ in range(epochs))
        for start in range(0, len(data.x) - BATCH + 1, BATCH)
    ]
    return [{"x": data.x[index], TARGET: data.y[index]} for index in indices]


def new_reference() -> torch_ref.BiLSTMWithAttention:
    """An untrained network for the digits, always the same one."""
    with torch.random.fork_rng():
        torch.manual_seed(SEED)
        return torch_ref.BiLSTMWithAttention(8, HIDDEN_DIM, 10)


def train_reference(
    data: Split, epochs: int, progress: Progress = lambda what: None
) -> torch_ref.BiLSTMWithAttention:
    """The network, trained by an ordinary PyTorch loop."""
    model = new_reference()
    optimizer = ADAM.torch(model.parameters())
    steps = batches(data, epochs)
    for number, batch in enumerate(steps):
        if number % 50 == 0:
            progress(f"digits: training the reference, step {number} of {len(steps)}")
        optimizer.zero_grad()
        output = model(torch.from_numpy(batch["x"]))
        torch.nn.functional.cross_entropy(output, torch.from_numpy(batch[TARGET])).backward()
        optimizer.step()
    return model


def prove(
    progress: Progress = lambda what: None, *, epochs: int = 40, lockstep_epochs: int = 3
) -> Report:
    """Train, convert, compare every test image; then train both sides in lockstep.

    Args:
        progress: called with what comes next.
        epochs: how long to train the reference until it is accurate.
        lockstep_epochs: how long to train both sides with Adam, compared after every step.
    """
    training, test = load()
    trained = train_reference(training, epochs, progress)
    sides = _pair(trained, test.x)
    inputs = {"x": test.x, TARGET: test.y}
    facts = {"seed": SEED, "input_dim": 8, "hidden_dim": HIDDEN_DIM, "output_dim": 10}
    converted = compare_sides(
        sides, inputs, case=TRAINED, facts={**facts, "epochs": epochs}, progress=progress
    )
    predictions = Report(tuple(_predictions(sides, test)), {})

    steps = batches(training, lockstep_epochs)
    start = _pair(new_reference(), steps[0]["x"])
    lockstep = compare_sides(
        start, steps[0], optimizers=[ADAM], batches=steps, case=LOCKSTEP,
        facts={**facts, "epochs": lockstep_epochs}, progress=progress,
    )  # fmt: skip
    weights = figures.attention(sides.torch_model, sides.flax_model, test.x, str(TRAINED))
    drawn = Report((), {}, {"attention": [weights]})
    return Report.joined([converted, predictions, lockstep, drawn])


def _pair(reference: torch_ref.BiLSTMWithAttention, x: np.ndarray) -> pair.ModulePair:
    candidate = fb.from_state_dict(reference.state_dict())
    return pair.of_modules(reference, candidate, {"x": x}, loss=CROSS_ENTROPY)


def _predictions(sides: pair.ModulePair, test: Split) -> list[Row]:
    """The reference's accuracy, and that both sides give every image the same class in float32."""
    with pinned_precision():
        theirs, ours = (
            side.forward(side.parameters, {"x": test.x}, "float32")["output"].argmax(axis=-1)
            for side in (sides.reference, sides.candidate)
        )
    accuracy = float(np.mean(theirs == test.y))
    score = Place(TRAINED, "predictions", "float32", f"test accuracy {accuracy:.2%}")
    return [
        Row(**vars(score), passed=True)
        if accuracy >= REQUIRED_ACCURACY
        else without_distance(score, f"expected at least {REQUIRED_ACCURACY:.0%}"),
        identical(theirs, ours, replace(score, name="classes"), "an image has another class"),
    ]
