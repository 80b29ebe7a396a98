"""A right port with Flax's attention, which by default computes its softmax in float32."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from flax import nnx

import flax_bilstm as fb
import parity
from parity.sides.attention import NOTE

X = np.random.default_rng(0).standard_normal((3, 5, 4), dtype=np.float32)


class Reference(torch.nn.Module):
    def __init__(self, rate=0.0, other=0.0):
        super().__init__()
        self.attention = torch.nn.MultiheadAttention(4, 2, batch_first=True, dropout=rate)
        self.drop = torch.nn.Dropout(other)

    def forward(self, x):
        return self.drop(self.attention(x, x, x)[0])


class Port(nnx.Module):
    def __init__(self, other=0.0, **options):
        self.drop = nnx.Dropout(other, rngs=nnx.Rngs(0))
        self.attention = nnx.MultiHeadAttention(2, 4, decode=False, rngs=nnx.Rngs(0), **options)

    def __call__(self, x):
        return self.drop(self.attention(x))


def softmax_in_float32(query, key, value, **options):
    return jax.nn.dot_product_attention(query, key, value)


@pytest.mark.parametrize("options", [{}, {"attention_fn": softmax_in_float32}])
def test_the_layer_s_own_softmax_is_no_difference_and_any_other_is(quickly_compiled, options):
    reference, port = Reference(), Port(**options)
    fb.load_state_dict(port, reference.state_dict())
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        report = parity.check(reference, port, X, training_steps=1)
    (facts,) = report.cases.values()
    assert report.passed == (not options)
    one_sided, *others = facts["notes"]
    assert one_sided.startswith("stages of one side only, left out: attention")
    assert others == ([] if options else [NOTE])
    assert {row.dtype for row in report.rows if not row.passed} <= {"float64"}
    assert port.attention.attention_fn is options.get("attention_fn", nnx.dot_product_attention)
    assert jnp.allclose(port(X), reference(torch.from_numpy(X)).detach().numpy(), atol=1e-6)


@pytest.mark.parametrize(
    ("rate", "other", "wrong"),
    [(0.2, 0.3, []), (0.1, 0.3, ["dropout rate of attention"]), (0.2, 0.1, ["dropout"])],
)
@pytest.mark.parametrize("theirs", [0.2, 0.0])
def test_of_its_dropout_the_rate_is_compared(quickly_compiled, theirs, rate, other, wrong):
    if not theirs:  # the port alone has one, of a rate that another layer has
        wrong = ["dropout rate of attention", *(name for name in wrong if name == "dropout")]
    reference, port = Reference(theirs, 0.3), Port(other, dropout_rate=rate)
    fb.load_state_dict(port, reference.state_dict())
    options = {"training_steps": 1, "optimizers": [parity.optimizers.SGD], "dtypes": ["float64"]}
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        report = parity.check(reference, port, X, **options)
    assert [row.name for row in report.rows if not row.passed] == wrong
