"""In a float64 run, what code makes or converts in float32 is in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from jax._src import dtypes
from torch.nn.functional import one_hot

import parity
from parity.sides.in_float64 import flax_in, torch_in
from tests.parity.two_layers import Port, Reference, X, check, failing

TOKENS = np.random.default_rng(0).integers(0, 3, (6,))


class Recurrent(torch.nn.Module):
    """An LSTM whose initial state is made in the forward pass, and a sum over what a mask keeps."""

    def __init__(self):
        super().__init__()
        self.lstm = torch.nn.LSTM(3, 4, batch_first=True)

    def forward(self, x):
        state = torch.zeros(1, len(x), 4), torch.zeros(1, len(x), 4)
        kept = (x[..., 0] > 0).float()
        return torch.einsum("bt,bth->bh", kept, self.lstm(x, state)[0])


def recurrent(p, x):
    weights = [p[f"lstm.{name}_l0"] for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
    state = jnp.zeros((2, len(x), 4), jnp.float32)

    def step(state, x):
        gates = x @ weights[0].T + state[0] @ weights[1].T + (weights[2] + weights[3])[None]
        i, f, g, o = jnp.split(gates, 4, axis=-1)
        c = jax.nn.sigmoid(f) * state[1] + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return jnp.stack((h, c)), h

    y = jax.lax.scan(step, state, x.swapaxes(0, 1))[1].swapaxes(0, 1)
    return jnp.einsum("bt,bth->bh", (x[..., 0] > 0).astype(y.dtype), y)


def test_an_initial_state_and_a_mask_that_the_model_makes(quickly_compiled):
    x = np.random.default_rng(0).standard_normal((2, 5, 3), dtype=np.float32)
    parity.check(Recurrent(), recurrent, x, training_steps=1).assert_passed()


def rms(x):
    wide = x.to(torch.float32)
    return (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)).type_as(x)


def flax_rms(x):
    wide = x.astype(jnp.float32)
    return (wide * jax.lax.rsqrt((wide**2).mean(-1, keepdims=True) + 1e-6)).astype(x.dtype)


FUNCTIONS = {
    "a norm in float32": (rms, flax_rms),
    "by the name of a type": (
        lambda x: torch.sin(x.type(torch.FloatTensor)),
        lambda x: jnp.sin(x.astype("float32")),
    ),
    "a number made as a tensor": (
        lambda x: x / torch.sqrt(torch.FloatTensor([3])),
        lambda x: x / 3**0.5,
    ),
    "by keyword": (
        lambda x: x.softmax(-1, dtype=torch.float32),
        lambda x: jax.nn.softmax(jnp.asarray(x, dtype=jnp.float32)),
    ),
    "a default": (
        lambda x: x * (torch.arange(4) / torch.tensor(3.0)).exp(),
        lambda x: x * jnp.exp(jnp.arange(4, dtype=jnp.float32) / 3)[None],
    ),
}


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("wrong", [0, 1e-9])
def test_functions_that_say_float32(quickly_compiled, name, wrong):
    theirs, ours = FUNCTIONS[name]
    report = check(
        Reference(lambda m, x: m.b(theirs(m.a(x)))),
        Port(lambda m, x: m.b(ours(m.a(x)) * (1 + wrong))),
    )
    assert ("forward" in failing(report)) == bool(wrong)
    assert report.passed == (not wrong)


def test_whole_numbers_as_floats(quickly_compiled):
    reference = Reference(lambda m, x: m.b(m.a(one_hot(x, 3).float())))
    check(reference, Port(lambda m, x: m.b(m.a(jax.nn.one_hot(x, 3)))), TOKENS).assert_passed()


def test_of_a_model_in_float64_float32_stays_what_it_is(quickly_compiled, lenient):
    reference = Reference(lambda m, x: m.b(m.a(x))).double()
    for narrow in (False, True):

        def ours(m, x, narrow=narrow):
            y = m.a(x)
            return m.b(y.astype(jnp.float32).astype(y.dtype) if narrow else y)

        with jax.enable_x64(True):
            port = Port(ours)
            for leaf in (port.a.kernel, port.a.bias, port.b.kernel, port.b.bias):
                leaf.set_value(leaf[...].astype(jnp.float64))
            report = check(reference, port, X.astype(np.float64))
        assert ("forward" in failing(report)) == narrow


def test_all_is_put_back():
    def own():
        return (
            torch.get_default_dtype(),
            torch.FloatTensor,
            dtypes.check_and_canonicalize_user_dtype,
        )

    before = own()
    with torch_in("float64", True), flax_in("float64", True):
        assert torch.zeros(1).dtype == torch.float64
        assert jnp.zeros(1, jnp.float32).dtype == jnp.float64
        assert all(now is not then for now, then in zip(own(), before, strict=True))
    assert own() == before


@pytest.mark.parametrize(
    ("dtype", "wide"), [("float64", False), ("float32", True), ("bfloat16", True)]
)
def test_other_runs_are_left_alone(dtype, wide):
    with torch_in(dtype, wide), flax_in(dtype, wide):
        assert torch.zeros(1).dtype == torch.float32
        assert jnp.zeros(1, jnp.float32).dtype == jnp.float32
