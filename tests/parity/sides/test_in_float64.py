"""In a float64 run, what code makes or converts in float32 is in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from jax._src import dtypes
from torch.nn.functional import one_hot

import parity
from parity.nudging import moved_functions
from parity.sides.in_float64 import flax_in, torch_in
from parity.tolerances import epsilon
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


KEY = jax.random.key(0)
FUNCTIONS = {
    "a norm in float32": (rms, flax_rms),
    "facts by keyword": (
        lambda x: x * torch.finfo(type=x.dtype).eps,
        lambda x: x * jnp.finfo(dtype=x.dtype).eps,
    ),
    "softplus by keyword": (
        lambda x: torch.nn.functional.softplus(input=30 * x),
        lambda x: jax.nn.softplus(30 * x),
    ),
    "in place": (
        lambda x: (y := x.clone(), torch.nn.functional.hardsigmoid(y, inplace=True), y)[-1],
        jax.nn.hard_sigmoid,
    ),
    "the dtype of a key": (
        lambda x: x,
        lambda x: x + 0 * jax.random.normal(jnp.asarray(KEY, dtype=KEY.dtype), x.shape, x.dtype),
    ),
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


@pytest.mark.parametrize(("beta", "threshold"), [(1, 20), (2, 20)])
def test_softplus_is_exact_above_pytorch_s_threshold(beta, threshold):
    x = torch.tensor([1.0, 12.0, 25.0], dtype=torch.float64, requires_grad=True)
    exact = torch.logaddexp(beta * x.detach(), torch.zeros(())) / beta
    with torch_in("float64", True):
        value = torch.nn.functional.softplus(x, beta, threshold)
        (slope,) = torch.autograd.grad(value.sum(), x)
    close = {"rtol": 1e-15, "atol": 0}
    torch.testing.assert_close(value, exact, **close)
    torch.testing.assert_close(slope, torch.sigmoid(beta * x.detach()), **close)


def test_the_slope_of_hardsigmoid_is_exact():
    x = torch.tensor([-4.0, -2.5, 0.5, 3.5], dtype=torch.float64, requires_grad=True)
    with torch_in("float64", True):
        (slope,) = torch.autograd.grad(torch.nn.functional.hardsigmoid(x).sum(), x)
    assert slope.tolist() == [0.0, 1 / 6, 1 / 6, 0.0]


@pytest.mark.parametrize(("epsilon", "right"), [(2.0**-23, True), (1e-6, False)])
def test_the_default_epsilon_of_rms_norm_is_that_of_float32(quickly_compiled, epsilon, right):
    norm = torch.nn.RMSNorm(4)
    reference = Reference(lambda m, x: m.b(norm.to(x.dtype)(m.a(x))))

    def ours(m, x):
        y = m.a(x)
        return m.b(y * jax.lax.rsqrt((y**2).mean(-1, keepdims=True) + epsilon))

    assert check(reference, Port(ours)).passed == right


class Encoder(torch.nn.Module):
    """Its layer has a fast path for evaluation, which returns zeros for what is padded."""

    def __init__(self):
        super().__init__()
        layer = torch.nn.TransformerEncoderLayer(4, 2, 5, 0.0, batch_first=True)
        self.encoder = torch.nn.TransformerEncoder(layer, 1)

    def forward(self, x, padded):
        return self.encoder(x, src_key_padding_mask=padded)


def flax_encoder(p, x, padded):
    p = {name.removeprefix("encoder.layers.0."): array for name, array in p.items()}

    def layer(name, x):
        return x @ p[f"{name}.weight"].T + p[f"{name}.bias"]

    def norm(name, x):
        x = (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + 1e-5)
        return x * p[f"{name}.weight"] + p[f"{name}.bias"]

    projected = x @ p["self_attn.in_proj_weight"].T + p["self_attn.in_proj_bias"]
    q, k, v = (a.reshape(*x.shape[:2], 2, 2) for a in jnp.split(projected, 3, -1))
    scores = jnp.einsum("bqhd,bkhd->bhqk", q, k) / 2**0.5
    weights = jax.nn.softmax(jnp.where(padded[:, None, None], -jnp.inf, scores))
    attended = jnp.einsum("bhqk,bkhd->bqhd", weights, v).reshape(x.shape)
    x = norm("norm1", x + layer("self_attn.out_proj", attended))
    return norm("norm2", x + layer("linear2", jax.nn.relu(layer("linear1", x))))


def test_what_is_padded_is_not_zero_in_a_fast_path(quickly_compiled, lenient):
    x = np.random.default_rng(0).standard_normal((3, 5, 4), dtype=np.float32)
    inputs = {"x": x, "padded": np.arange(5) >= np.array([[5], [3], [2]])}
    parity.check(Encoder(), flax_encoder, inputs, training_steps=1).assert_passed()
    assert torch.backends.mha.get_fastpath_enabled()


def test_a_quotient_of_small_integers(quickly_compiled):
    """JAX computes that of uint8 in float32, PyTorch in its default dtype."""
    image = np.random.default_rng(0).integers(0, 256, (3, 4)).astype(np.uint8)
    layer = torch.nn.Linear(4, 3)
    reference = torch.nn.Sequential(Scaled(), layer)
    parity.check(
        reference,
        lambda w, x: (x / 255) @ w["1.weight"].T + w["1.bias"][None],
        image,
        training_steps=1,
    ).assert_passed()


class Scaled(torch.nn.Module):
    def forward(self, x):
        return x / 255


def test_all_is_put_back():
    def own():
        return (
            torch.get_default_dtype(),
            torch.FloatTensor,
            dtypes.check_and_canonicalize_user_dtype,
            dtypes.to_inexact_dtype,
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


class Rotated(torch.nn.Module):
    """Rotates pairs of features by angles that a complex buffer holds."""

    def __init__(self):
        super().__init__()
        self.a = torch.nn.Linear(4, 4)
        angles = torch.arange(6.0)[:, None] * torch.tensor([1.0, 0.1])
        self.register_buffer("turns", torch.polar(torch.ones(6, 2), angles), persistent=False)

    def forward(self, x):
        pairs = torch.view_as_complex(self.a(x).unflatten(-1, (2, 2)))
        return torch.view_as_real(pairs * self.turns.to(pairs.dtype)).flatten(-2)


@pytest.mark.parametrize("sine", [1.0, 0.0])
def test_complex_buffers_stay_complex(quickly_compiled, lenient, sine):
    def rotated(p, x):
        y = (x @ p["a.weight"].T + p["a.bias"]).reshape(6, 2, 2)
        angles = np.arange(6.0)[:, None] * np.array([1.0, 0.1], np.float32)
        cos, sin = np.cos(angles), sine * np.sin(angles)
        turned = (y[..., 0] * cos - y[..., 1] * sin, y[..., 0] * sin + y[..., 1] * cos)
        return jnp.stack(turned, -1).reshape(6, 4)

    x = np.random.default_rng(0).standard_normal((6, 4), dtype=np.float32)
    report = parity.check(Rotated(), rotated, x, dtypes=["float32"], training_steps=0)
    assert report.passed == (sine == 1)


def test_facts_of_float64_are_those_of_float32():
    with torch_in("float64", True), flax_in("float64", True):
        assert torch.finfo(torch.float64).eps == jnp.finfo(jnp.float64).eps == 2**-23
        assert jnp.finfo(jnp.float64).min.dtype == np.float64
        assert jnp.finfo(jnp.bfloat16).bits == 16
        assert torch.finfo().eps == 2**-23
        assert torch.finfo(torch.bfloat16).eps == jnp.finfo(jnp.bfloat16).eps == 2**-7
        assert torch.zeros(1, dtype=torch.cfloat).dtype == torch.complex128
        assert jnp.zeros(1, jnp.complex64).dtype == jnp.complex128
        one = torch.ones(9, dtype=torch.float64)
        with moved_functions("float64", seed=7):  # by those of its own
            assert 0 < (one.exp() / np.e - 1).abs().max() < 1e-15
        assert epsilon("float64") == 2**-52
