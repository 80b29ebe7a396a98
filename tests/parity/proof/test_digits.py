import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("sklearn")

from parity.proof import digits


def test_the_split_covers_the_data_set_evenly_and_without_overlap():
    training, test = digits.load()
    assert len(training.x) + len(test.x) == 1797
    assert training.x.shape[1:] == (8, 8)
    assert training.x.dtype == np.float32
    assert (training.x.min(), training.x.max()) == (0, 1)
    counts = np.bincount(test.y, minlength=10)
    assert counts.min() >= 34
    # Pixels are rows of the image: the first image of scikit-learn's set is a zero, open inside.
    from sklearn.datasets import load_digits

    first = load_digits().images[0].astype(np.float32) / 16
    assert any(np.array_equal(first, image) for image in np.concatenate([training.x, test.x]))


def test_batches_go_through_each_epoch_once():
    training, _ = digits.load()
    steps = digits.batches(training, 2)
    per_epoch = len(training.x) // digits.BATCH
    assert len(steps) == 2 * per_epoch
    seen = np.concatenate([batch["x"] for batch in steps[:per_epoch]]).reshape(-1, 64)
    every = {image.tobytes() for image in training.x.reshape(-1, 64)}
    assert len({image.tobytes() for image in seen}) >= len(every) - digits.BATCH
    assert not np.array_equal(steps[0]["x"], steps[per_epoch]["x"])


def test_too_little_training_fails_for_its_accuracy_and_for_nothing_else(tmp_path, monkeypatch):
    monkeypatch.setattr(digits, "HIDDEN_DIM", 6)
    monkeypatch.setattr(digits, "BATCH", 700)
    report = digits.prove(epochs=1, lockstep_epochs=1)
    failed = [row for row in report.rows if not row.passed]
    assert [row.check for row in failed] == ["predictions"]
    assert failed[0].name.startswith("test accuracy")
    assert "classes" in {row.name for row in report.rows}
    (drawn,), (attention,) = report.figures["loss_curves"], report.figures["attention"]
    assert (drawn["case"], drawn["dtype"]) == ("digits: lockstep", "float32")
    assert drawn["loss"] == "cross entropy"
    assert len(drawn["reference"]) == len(drawn["candidate"]) == 2
    np.testing.assert_allclose(drawn["candidate"], drawn["reference"], rtol=1e-5)
    assert 2 < drawn["reference"][0] < 3  # ln 10 before anything is learnt
    assert np.array(attention["candidate"]).shape == (8, 8)

    plot = tmp_path / "loss.png"
    digits.draw_losses(report, plot)
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in tmp_path.iterdir()] == ["loss.png"]
