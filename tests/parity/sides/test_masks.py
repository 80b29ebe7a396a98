"""The masks that a Flax model really draws, and those of PyTorch code that draws its own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from flax import nnx
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from .. import two_layers
from ..two_layers import notes

X = np.random.default_rng(0).standard_normal((6, 5, 3), dtype=np.float32)


class Port(two_layers.Port):
    def __init__(self, forward, rate=0.3, seeds=(0, 1)):
        drop, self.other = (nnx.Dropout(rate, rngs=nnx.Rngs(seed)) for seed in seeds)
        super().__init__(forward, drop)
        self.shared = nnx.Dropout(rate, broadcast_dims=(1,), rngs=nnx.Rngs(4))


def reference_of(forward, rate=0.3):
    return two_layers.Reference(forward, torch.nn.Dropout(rate))


def check(theirs, ours, x=X, **options):
    return two_layers.check(reference_of(theirs), Port(ours, **options), x)


def failing(report):
    return {(row.check, row.name) for row in report.rows if not row.passed}


MASKS = ("training mode", "dropout masks")


@pytest.mark.parametrize("seeds", [(0, 0), (0, 1)])
def test_two_layers_of_one_seed_draw_the_same_masks(quickly_compiled, seeds):
    def theirs(m, x):
        return m.b(m.drop(m.drop(m.a(x)).tanh()))

    def ours(m, x):
        return m.b(m.other(jnp.tanh(m.drop(m.a(x)))))

    report = check(theirs, ours, seeds=seeds)
    assert failing(report) == ({MASKS} if seeds == (0, 0) else set())
    assert ("calls [[1, 2]] of its Dropout draw from one key" in str(report)) == (seeds == (0, 0))


@pytest.mark.parametrize("seeds", [(0, 0), (0, 1)])
def test_two_layers_of_one_seed_in_another_layout(quickly_compiled, seeds):
    def theirs(m, x):
        return m.b(m.drop(m.drop(m.a(x)).tanh()))

    def ours(m, x):
        y = m.a(x.transpose(1, 0, 2))
        return m.b(m.other(jnp.tanh(m.drop(y)))).transpose(1, 0, 2)

    report = check(theirs, ours, seeds=seeds)
    assert failing(report) == ({MASKS} if seeds == (0, 0) else set())
    words = "2 calls of its Dropout draw from 1 keys, and the reference draws 2 masks"
    assert (words in str(report)) == (seeds == (0, 0))


@pytest.mark.parametrize("right", [True, False])
def test_what_a_call_leaves_in_another_layout(quickly_compiled, right):
    def theirs(m, x):
        y = m.drop(m.a(x))
        if m.training:
            m.seen.copy_(y.detach().mean((0, 1)))
        return m.b(y) * m.seen[0]

    def ours(m, x):
        y = m.drop(m.a(x.transpose(1, 0, 2)))
        if not m.drop.deterministic:
            m.seen[...] = jax.lax.stop_gradient(y).mean((0, 1)) + (0 if right else jnp.eye(4)[3])
        return m.b(y).transpose(1, 0, 2) * m.seen[...][0]

    reference, port = reference_of(theirs), Port(ours)
    reference.register_buffer("seen", torch.zeros(4))
    port.seen = nnx.Variable(jnp.zeros(4))
    report = two_layers.check(reference, port, X, training_steps=1, optimizers=())
    wrong = failing(report)
    assert wrong == (set() if right else {("training mode", "seen after")})


@pytest.mark.parametrize("same", [True, False])
def test_one_key_for_all_steps_of_a_loop(quickly_compiled, same):
    def theirs(m, x):
        return m.b(torch.stack([m.drop(y) for y in m.a(x).unbind(1)], 1))

    def ours(m, x):
        key = m.drop.rngs()
        steps = [m.a(x)[:, t] for t in range(5)]
        keys = [key if same else jax.random.fold_in(key, t) for t in range(5)]
        made = [m.drop(y, rngs=k) for y, k in zip(steps, keys, strict=True)]
        return m.b(jnp.stack(made, 1))

    assert failing(check(theirs, ours)) == ({MASKS} if same else set())


class Jitted(nnx.Module):
    def __init__(self, seed):
        self.drop = nnx.Dropout(0.3, rngs=nnx.Rngs(seed))

    @nnx.jit
    def __call__(self, x):
        return self.drop(x)


class TwoJitted(Port):
    def __init__(self, forward, rate=0.3):
        super().__init__(forward, rate)
        self.drop, self.other = Jitted(0), Jitted(1)


def test_a_block_that_is_compiled_keeps_nothing_of_the_check(quickly_compiled):
    def theirs(m, x):
        return m.b(m.drop(m.drop(m.a(x)).tanh()))

    def ours(m, x):
        return m.b(m.other(jnp.tanh(m.drop(m.a(x)))))

    for _ in range(2):
        candidate = TwoJitted(ours)
        report = two_layers.check(reference_of(theirs), candidate, X)
        report.assert_passed()
        assert not [note for note in notes(report) if "layout" in note]
        candidate.train()
        first, second = candidate(X), candidate(X)
        assert not np.array_equal(first, second)


def without(m, x):
    return m.b(m.a(x))


def where_ones_are_kept(m, x):
    y = m.a(x)
    return m.b(y * (m.drop(torch.ones_like(y)) > 0))


def shared_by_hand(m, x):
    y = m.a(x)
    if m.training:
        mask = torch.empty(6, 1, 4, dtype=y.dtype).bernoulli_(0.7).expand_as(y) / 0.7
        y = y * mask
    return m.b(y)


def complement(m, x):
    y = m.a(x)
    return m.b(y * (1 - torch.bernoulli(torch.full_like(y, 0.3))) / 0.7 if m.training else y)


def scaled_wrongly(m, x):
    y = m.a(x)
    return m.b(y * torch.bernoulli(torch.full_like(y, 0.7)) / 0.3 if m.training else y)


def recomputed(m, x):
    return checkpoint(lambda y: m.b(m.drop(y).tanh()), m.a(x), use_reentrant=False)


def own(m, x):
    return m.b(m.drop(m.a(x)))


def shared(m, x):
    return m.b(m.shared(m.a(x)))


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (shared_by_hand, shared),
        (complement, own),
        (recomputed, lambda m, x: m.b(jnp.tanh(m.drop(m.a(x))))),
    ],
)
def test_masks_of_ones_own_that_are_right(quickly_compiled, theirs, ours):
    report = check(theirs, ours)
    report.assert_passed()
    assert not [note for note in notes(report) if "layout" in note]


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [(where_ones_are_kept, without), (scaled_wrongly, own), (own, without)],
)
def test_masks_of_ones_own_that_are_not(quickly_compiled, theirs, ours):
    assert "training mode" in {check for check, _ in failing(check(theirs, ours))}


def test_a_mask_that_is_shared_in_the_reference_alone_is_noted(quickly_compiled):
    assert any("which elements share one" in note for note in notes(check(shared_by_hand, own)))


def test_a_dropout_of_zeros_and_ones_fails_if_it_is_left_out(quickly_compiled):
    def theirs(m, x):
        return m.b(m.a(m.drop(x)))

    binary = (X > 0).astype(np.float32)
    assert ("training mode", "dropout") in failing(check(theirs, without, binary))
    assert not failing(check(theirs, lambda m, x: m.b(m.a(m.drop(x))), binary))


def test_it_may_be_a_function_of_torch_func(quickly_compiled):
    def theirs(m, x):
        return m.b(torch.func.vmap(m.a)(x))

    check(theirs, without).assert_passed()


def test_a_dropout_in_place_of_a_function(quickly_compiled):
    def theirs(m, x):
        y = m.a(x)
        functional.dropout(y, 0.3, m.training, inplace=True)
        return m.b(y)

    check(theirs, own).assert_passed()
    assert failing(check(theirs, without))
