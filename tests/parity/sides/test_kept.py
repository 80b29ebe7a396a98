"""What training keeps outside of the state dict is noted."""

import copy
import time
from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from .. import two_layers
from ..two_layers import notes, plain


class Keeping(two_layers.Reference):
    """Keeps an average that no state dict has."""

    def __init__(self):
        super().__init__(None)
        self.register_buffer("mean", torch.zeros(4), persistent=False)

    def forward(self, x):
        y = self.a(x)
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * y.detach().mean(0)
        return self.b(y if self.training else y - self.mean)


def test_what_is_kept_outside_of_the_state_dict_is_noted(quickly_compiled):
    report = two_layers.check(Keeping(), two_layers.Port(plain))
    report.assert_passed()
    assert notes(report) == [
        "torch_model keeps what no state dict has, so it is not compared: mean"
    ]


class Average:
    """A helper of the user's."""

    def __init__(self):
        self.mean = torch.zeros(4)


def _append(m, y):
    m.kept.append(y.mean().item())


KEPT = {
    "a number": (0.5, lambda m, y: setattr(m, "kept", 0.9 * m.kept + y.mean().item()), "kept"),
    "a count": (0, lambda m, y: setattr(m, "kept", m.kept + 1), "kept"),
    "numbers in a list": ([0.0], _append, "kept[1], kept[2]"),
    "an array": (np.zeros(4), lambda m, y: m.kept.__iadd__(y.detach().mean(0).numpy()), "kept"),
    "a namespace": (
        SimpleNamespace(mean=0.0), lambda m, y: setattr(m.kept, "mean", y.mean().item()),
        "kept.mean",
    ),
    "a helper": (
        Average(), lambda m, y: setattr(m.kept, "mean", m.kept.mean + y.detach().mean(0)),
        "kept.mean",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", KEPT)
def test_whatever_training_keeps_is_noted(quickly_compiled, name):
    start, keep, words = KEPT[name]

    def forward(m, x):
        y = m.a(x)
        if m.training:
            keep(m, y)
        return m.b(y)

    reference = two_layers.Reference(forward)
    reference.kept = copy.deepcopy(start)
    report = two_layers.check(reference, two_layers.Port(plain))
    report.assert_passed()
    assert notes(report) == [
        f"torch_model keeps what no state dict has, so it is not compared: {words}"
    ]


def test_sizes_and_clocks_that_are_kept_are_no_matter(quickly_compiled):
    def forward(m, x):
        m.batch = len(x)
        if m.training:
            m.clock.time = time.perf_counter()
        return plain(m, x)

    reference = two_layers.Reference(forward)
    reference.clock = SimpleNamespace(time=0.0)
    (note,) = notes(two_layers.check(reference, two_layers.Port(plain)))
    assert note.endswith("so it is not compared: clock.time")


class Queueing(two_layers.Reference):
    """Keeps what it computed in a list, in a dict, and in place of a number."""

    def __init__(self):
        super().__init__(None)
        self.last, self.scale = torch.zeros(()), torch.tensor(0.1)

    def forward(self, x):
        y = self.a(x)
        self.queue, self.parts, self.last = [y.mean()], {"last": x.sum()}, y.sum()
        return self.b(y)


def test_tensors_in_containers_are_noted(quickly_compiled):
    report = two_layers.check(Queueing(), two_layers.Port(plain))
    report.assert_passed()
    words = "torch_model keeps what no state dict has, so it is not compared: "
    assert f"{words}last, queue[0], parts[last]" in notes(report)
