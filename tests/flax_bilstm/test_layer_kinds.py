"""Every layer kind of the table against PyTorch's layer: bit-exact both ways, the same numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import flax_bilstm as fb
from flax_bilstm.conversion.layers import KINDS
from flax_bilstm.conversion.rows import variables

torch = pytest.importorskip("torch")
from torch import nn

pytestmark = pytest.mark.usefixtures("x64", "standard_promotion")

D = {"param_dtype": jnp.float64, "dtype": None}


@pytest.fixture(autouse=True)
def _as_users_write_it():
    """Biases are added to batches without a word, as in JAX's default."""
    with jax.numpy_rank_promotion("allow"):
        yield


def channels_last(layer):
    """Call a PyTorch layer, whose channels are axis 1, with channels last."""

    def call(x):
        return layer(x.movedim(-1, 1)).movedim(1, -1)

    return call


def heads_own(query, key, value, **_):
    """JAX's own attention takes its softmax in float32."""
    scores = jnp.einsum("...qhd,...khd->...hqk", query, key) / np.sqrt(query.shape[-1])
    return jnp.einsum("...hqk,...khd->...qhd", jax.nn.softmax(scores), value)


def attention(rngs, **options):
    return nnx.MultiHeadAttention(
        2, 8, decode=False, attention_fn=heads_own, rngs=rngs, **options, **D
    )


def cell(rngs):
    return fb.LSTMCell(3, 4, param_dtype=jnp.float64, rngs=rngs)


def case(name, layer, port, *shapes, call=lambda layer: layer, out=lambda y: y, flax_out=None):
    flax_out = flax_out or (lambda y: y)
    return pytest.param(layer, port, shapes, call, out, flax_out, id=name)


def first(y):
    return y[0]


def conv(torch_layer, flax_layer, window, torch_options=None, **options):
    torch_options = torch_options or {}
    return case(
        f"{torch_layer.__name__} {options}",
        lambda: torch_layer(4, 6, window, **torch_options),
        lambda rngs: flax_layer(4, 6, window, rngs=rngs, padding="VALID", **options, **D),
        (2, *(5 for _ in window), 4),
        call=channels_last,
    )


def norm(torch_layer, flax_layer, *shape, call=channels_last):
    return case(torch_layer.__name__, lambda: torch_layer(4), flax_layer, shape, call=call)


CASES = [
    case("Linear", lambda: nn.Linear(3, 4), lambda r: nnx.Linear(3, 4, rngs=r, **D), (2, 3)),
    case(
        "Linear without bias",
        lambda: nn.Linear(3, 4, bias=False),
        lambda r: nnx.Linear(3, 4, use_bias=False, rngs=r, **D),
        (2, 3),
    ),
    case(
        "LinearGeneral",
        lambda: nn.Linear(6, 8),
        lambda r: nnx.LinearGeneral((2, 3), (4, 2), axis=(-2, -1), rngs=r, **D),
        (5, 2, 3),
        call=lambda layer: lambda x: layer(x.flatten(1)).unflatten(1, (4, 2)),
    ),
    conv(nn.Conv1d, nnx.Conv, (3,)),
    conv(nn.Conv2d, nnx.Conv, (3, 2)),
    conv(nn.Conv2d, nnx.Conv, (3, 2), {"groups": 2}, feature_group_count=2),
    conv(nn.Conv3d, nnx.Conv, (3, 2, 1), {"bias": False}, use_bias=False),
    conv(nn.ConvTranspose1d, nnx.ConvTranspose, (3,)),
    conv(nn.ConvTranspose2d, nnx.ConvTranspose, (3, 2), {"stride": 2}, strides=(2, 2)),
    case(
        "ConvTranspose with transpose_kernel",
        lambda: nn.ConvTranspose2d(4, 4, (3, 2)),
        lambda r: nnx.ConvTranspose(
            4, 4, (3, 2), padding="VALID", transpose_kernel=True, rngs=r, **D
        ),
        (2, 5, 5, 4),
        call=channels_last,
    ),
    norm(
        nn.BatchNorm1d,
        lambda r: nnx.BatchNorm(4, use_running_average=True, rngs=r, **D),
        2,
        5,
        4,
    ),
    norm(
        nn.BatchNorm2d,
        lambda r: nnx.BatchNorm(4, use_running_average=True, rngs=r, **D),
        2,
        3,
        5,
        4,
    ),
    norm(
        nn.LayerNorm,
        lambda r: nnx.LayerNorm(4, epsilon=1e-5, rngs=r, **D),
        2,
        4,
        call=lambda layer: layer,
    ),
    case(
        "RMSNorm",
        lambda: nn.RMSNorm(4, eps=1e-6),
        lambda r: nnx.RMSNorm(4, rngs=r, **D),
        (2, 4),
    ),
    case(
        "GroupNorm",
        lambda: nn.GroupNorm(2, 4),
        lambda r: nnx.GroupNorm(4, num_groups=2, epsilon=1e-5, rngs=r, **D),
        (2, 5, 4),
        call=channels_last,
    ),
    case(
        "InstanceNorm",
        lambda: nn.InstanceNorm1d(4, affine=True),
        lambda r: nnx.InstanceNorm(4, epsilon=1e-5, rngs=r, **D),
        (2, 5, 4),
        call=channels_last,
    ),
    case("PReLU", nn.PReLU, lambda r: nnx.PReLU(param_dtype=jnp.float64), (2, 4)),
    case(
        "MultiheadAttention",
        lambda: nn.MultiheadAttention(8, 2, batch_first=True),
        attention,
        (2, 3, 8),
        (2, 5, 8),
        (2, 5, 8),
        out=first,
    ),
    case(
        "MultiheadAttention without biases",
        lambda: nn.MultiheadAttention(8, 2, bias=False, batch_first=True),
        lambda r: attention(r, use_bias=False),
        (2, 3, 8),
        (2, 5, 8),
        (2, 5, 8),
        out=first,
    ),
    case(
        "MultiheadAttention of other widths",
        lambda: nn.MultiheadAttention(8, 2, kdim=6, vdim=6, batch_first=True),
        lambda r: attention(r, in_kv_features=6),
        (2, 3, 8),
        (2, 5, 6),
        (2, 5, 6),
        out=first,
    ),
    case(
        "LSTM",
        lambda: nn.LSTM(3, 4, 2, bidirectional=True, batch_first=True, proj_size=2),
        lambda r: fb.LSTM(
            3, 4, num_layers=2, bidirectional=True, proj_size=2, param_dtype=jnp.float64, rngs=r
        ),
        (2, 5, 3),
        out=first,
        flax_out=first,
    ),
    case(
        "LSTM run by nnx.RNN",
        lambda: nn.LSTM(3, 4, batch_first=True),
        lambda r: nnx.RNN(cell(r)),
        (2, 5, 3),
        out=first,
    ),
    case(
        "LSTM run by nnx.Bidirectional",
        lambda: nn.LSTM(3, 4, bidirectional=True, batch_first=True),
        lambda r: nnx.Bidirectional(nnx.RNN(cell(r)), nnx.RNN(cell(r))),
        (2, 5, 3),
        out=first,
    ),
]


@pytest.mark.parametrize(("layer", "port", "shapes", "call", "out", "flax_out"), CASES)
def test_a_layer_computes_the_same_and_comes_back(layer, port, shapes, call, out, flax_out):
    torch.manual_seed(0)
    reference, module = layer().double().eval(), port(nnx.Rngs(1))
    with torch.no_grad():
        for tensor in reference.state_dict().values():  # no ones and zeros
            tensor.uniform_(0.5, 2) if tensor.is_floating_point() else tensor.fill_(7)
    for variable in variables(module).values():  # Flax makes statistics in float32, always
        variable.set_value(variable.get_value().astype(jnp.float64))
    fb.load_state_dict(module, reference.state_dict())
    back = fb.state_dict(module)
    assert list(back) == list(reference.state_dict())
    for name, tensor in reference.state_dict().items():
        np.testing.assert_array_equal(back[name], tensor.numpy(), strict=True)
    rng = np.random.default_rng(0)
    inputs = [rng.standard_normal(shape) for shape in shapes]
    with torch.no_grad():
        expected = out(call(reference)(*map(torch.tensor, inputs))).numpy()
    actual = flax_out(module(*map(jnp.asarray, inputs)))
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-12)


def test_a_cell_and_an_embedding():
    torch.manual_seed(0)
    reference, module = nn.LSTMCell(3, 4).double(), cell(nnx.Rngs(1))
    fb.load_state_dict(module, reference.state_dict())
    x, h, c = (np.random.default_rng(i).standard_normal((2, n)) for i, n in enumerate((3, 4, 4)))
    with torch.no_grad():
        expected = reference(torch.tensor(x), (torch.tensor(h), torch.tensor(c)))
    (cell_state, hidden), _ = module((jnp.asarray(c), jnp.asarray(h)), jnp.asarray(x))
    np.testing.assert_allclose(hidden, expected[0], rtol=0, atol=1e-12)
    np.testing.assert_allclose(cell_state, expected[1], rtol=0, atol=1e-12)
    embedding = nn.Embedding(5, 4).double()
    port = nnx.Embed(5, 4, rngs=nnx.Rngs(0), **D)
    fb.load_state_dict(port, embedding.state_dict())
    np.testing.assert_array_equal(port(np.arange(5)), embedding.weight.detach(), strict=False)


def test_every_kind_is_tried_here():
    tried = {type(parameters.values[1](nnx.Rngs(0))) for parameters in CASES}
    elsewhere = {fb.LSTMCell, nnx.Embed, fb.Attention, fb.BiLSTMWithAttention}
    assert tried | elsewhere == set(KINDS)
