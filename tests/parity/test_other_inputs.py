"""Where models differ on other inputs than theirs, the report has a note, and nothing fails."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch.nn import functional as F

import parity

from .two_layers import Port, Reference, X, check, notes, plain

pytestmark = pytest.mark.usefixtures("quickly_compiled")


def elsewhere(theirs, ours, x=X, **options):
    report = check(Reference(theirs), Port(ours), x, **options)
    report.assert_passed()
    return [note for note in notes(report) if "elsewhere" in note]


def clipped(m, x):
    return m.b(jnp.clip(m.a(x), -5, 5))


def plain_exp(m, x):
    return m.b(jnp.minimum(jnp.exp(30 * m.a(x)), 1e300))


def rectified(m, x):
    return m.b(F.relu(m.a(x))) + x[:, :2].abs()


DIFFERENT = {
    "a limit of the candidate": (plain, clipped, "30 times the inputs, forward output differs by"),
    "a limit of the reference": (
        lambda m, x: m.b(F.relu6(m.a(x))), lambda m, x: m.b(jax.nn.relu(m.a(x))),
        "30 times the inputs, forward output differs by",
    ),
    "a limit of gradients": (
        plain, lambda m, x: m.b(limited(m.a(x))), "30 times the inputs, gradients",
    ),
    "a guard": (
        lambda m, x: m.b(m.a(x) + 1e-6 / (x**2 + 1e-16).sum(-1, keepdim=True)),
        lambda m, x: m.b(m.a(x) + 1e-6 / (x**2).sum(-1, keepdims=True)),
        "a thousandth of the inputs, forward output differs by",
    ),
    "no number": (
        plain, lambda m, x: m.b(m.a(x) + 0 * jnp.sqrt(100 - (x**2).sum(-1, keepdims=True))),
        "30 times the inputs, forward output",
    ),
}  # fmt: skip


@jax.custom_vjp
def limited(x):
    return x


limited.defvjp(lambda x: (x, None), lambda _, slope: (jnp.clip(slope, -1, 1),))


@pytest.mark.parametrize("name", DIFFERENT)
def test_a_difference_is_noted_by_its_first_row(name):
    theirs, ours, words = DIFFERENT[name]
    found = elsewhere(theirs, ours)
    assert any(f"elsewhere the models differ: on {words}" in note for note in found)


def test_numbers_that_are_all_positive():
    words = "elsewhere the models differ: on the negative inputs, forward output differs by"
    (note,) = elsewhere(rectified, lambda m, x: m.b(jax.nn.relu(m.a(x))) + x[:, :2], np.abs(X))
    assert note.startswith(words)


def test_other_lengths():
    def theirs(m, x, lengths):
        return plain(m, x) * (torch.arange(6) < lengths[:, None])[..., None]

    def ours(m, x, lengths):
        return plain(m, x)

    x = {"x": np.stack([X, X + 1]), "lengths": np.array([6, 6])}
    found = elsewhere(theirs, ours, x)
    for lengths, note in zip(("other", "shorter"), found, strict=True):
        assert note.startswith(f"elsewhere the models differ: on {lengths} lengths, forward output")


def test_shorter_lengths_by_position():
    class Padding(torch.nn.Module):
        def forward(self, x, lengths):
            steps = torch.arange(int(lengths.max()))
            return (x[:, : len(steps)] * (steps < lengths[:, None])).softmax(-1)[:, 0]

    def ours(w, x, lengths):
        kept = jnp.arange(x.shape[1])[None] < lengths[:, None]
        return jax.nn.softmax(x * kept.astype(x.dtype))[:, 0]

    x = np.concatenate([X, X], 1)[:3]
    report = parity.check(Padding(), ours, (x, np.array([6, 3, 4])), dtypes=["float64"])
    report.assert_passed()
    found = [note for note in report.notes if "elsewhere" in note]
    for words, note in zip(("shorter lengths", "another number of steps"), found, strict=True):
        assert note.startswith(f"elsewhere the models differ: on {words}, forward output")


STEPS = np.stack([X, X[::-1], X + 1])  # (batch 3, time, features)


def to_the_longest(m, x, mask):
    """The mean of the steps up to the longest sequence."""
    return plain(m, x[:, : int(mask.sum(1).max())]).mean(1)


def at_most_six(m, x):
    positions = torch.arange(6.0, dtype=x.dtype).expand(len(x), 6)
    return plain(m, x).sum(1) + positions[:, : x.shape[1]].reshape(x.shape[:2]).mean(1)[:, None]


def hard_coded_six(m, x):
    return plain(m, x).sum(1) + 2.5


def padded_pool(m, x):
    y = plain(m, x)
    y = jnp.pad(y, ((0, 0), (0, x.shape[1] % 2), (0, 0)))
    return y.reshape(len(x), -1, 2, 2).mean(2)


OF_OTHER_SIZES = {
    "the longest sequence": (
        to_the_longest, lambda m, x, mask: plain(m, x).mean(1), (STEPS, np.ones((3, 6), bool)),
    ),
    "a hard-coded number of steps": (
        lambda m, x: plain(m, x).sum(1) / x.shape[1], lambda m, x: plain(m, x).sum(1) / 6, STEPS,
    ),
    "at most six steps": (at_most_six, hard_coded_six, STEPS),
    "a pool that leaves out an odd step": (
        lambda m, x: F.avg_pool1d(plain(m, x).mT, 2).mT, padded_pool, STEPS,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", OF_OTHER_SIZES)
def test_another_number_of_steps(name):
    *_, note = elsewhere(*OF_OTHER_SIZES[name])
    words = "elsewhere the models differ: on another number of steps, forward output"
    assert note.startswith(words)


def counts(m, x, tokens):
    ones = torch.ones(tokens.shape, dtype=x.dtype)
    return plain(m, x).mean(1) * torch.zeros(3, 2, dtype=x.dtype).index_put(
        (torch.arange(3)[:, None], tokens % 2), ones, accumulate=True
    )


def is_there(m, x, tokens):
    places = jnp.zeros((3, 2), x.dtype).at[jnp.arange(3)[:, None], tokens % 2].set(1)
    return plain(m, x).mean(1) * places


def masked(m, x, tokens):
    kept = (tokens != 0)[..., None]
    kept = kept.to(x.dtype) if isinstance(x, torch.Tensor) else kept.astype(x.dtype)
    return (plain(m, x) * kept).mean(1)


def first_steps(m, x, mask):
    kept = jnp.arange(6)[None] < mask.sum(1)[:, None]
    return (plain(m, x) * kept[..., None].astype(x.dtype)).mean(1)


REDRAWN = {
    "a token twice": (counts, is_there, np.array([[1, 2], [2, 3], [4, 1]]), "whole numbers"),
    "padding": (masked, lambda m, x, _: plain(m, x).mean(1), 1 + np.arange(18).reshape(3, 6),
                "whole numbers"),
    "a mask that is no length": (
        lambda m, x, mask: (plain(m, x) * mask[..., None]).mean(1), first_steps,
        np.arange(6) < np.array([[2], [6], [3]]), "masks",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REDRAWN)
def test_other_whole_numbers_and_masks(name):
    theirs, ours, whole, words = REDRAWN[name]
    note, *_ = elsewhere(theirs, ours, (STEPS, whole))
    assert note.startswith(f"elsewhere the models differ: on other {words}, forward output")


def test_right_ports_have_no_note_on_other_tokens():
    assert not elsewhere(masked, masked, (STEPS, np.arange(18).reshape(3, 6)))


UNDEFINED = {
    "infinite": (lambda m, x: m.b((30 * m.a(x)).exp()), plain_exp),
    "no number": (
        lambda m, x: m.b(m.a(x) + (x + 3)[:, :1].log()),
        lambda m, x: m.b(m.a(x) + jnp.log(jnp.abs(x + 3)[:, :1])),
    ),
    "an error": (lambda m, x: plain(m, x) if x.max() < 3 else x.nothing, clipped),
}  # fmt: skip


@pytest.mark.parametrize("name", UNDEFINED)
def test_where_the_reference_is_not_defined_nothing_is_noted(name):
    found = elsewhere(*UNDEFINED[name])
    assert not [note for note in found if "30 times" in note or "negative" in note]


def test_inputs_that_become_smaller_than_any_normal_number_are_left_out():
    def theirs(m, x):
        return plain(m, 1e30 * x) + x[:, :1] * (x.abs().max() < 1e-38)

    tiny = np.sign(X) * np.float32(1e-36)
    assert not elsewhere(theirs, lambda m, x: plain(m, 1e30 * x), tiny, dtypes=["float32"])


def test_nothing_is_noted_of_models_that_differ():
    wrong = check(Reference(plain), Port(lambda m, x: 2 * clipped(m, x)), X)
    assert not [note for note in notes(wrong) if "elsewhere" in note]


def test_nothing_is_noted_of_variants():
    def wide(m, x):
        return m.b(jnp.clip(m.a(x), -200, 200))  # of 30 times 30 times the inputs

    report = check(Reference(plain), Port(wide), X, variants=("loud",))
    report.assert_passed()
    every = [note for facts in report.cases.values() for note in facts.get("notes", ())]
    assert not [note for note in every if "elsewhere" in note]
