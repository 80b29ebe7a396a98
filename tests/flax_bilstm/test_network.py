"""The network against the PyTorch reference, float64 and float32, padded and alone."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from hypothesis import example, given, settings
from hypothesis import strategies as st

import flax_bilstm as fb
from flax_bilstm.recurrence import IMPLEMENTATIONS

torch = pytest.importorskip("torch")

import torch_ref


def pair(input_dim, hidden_dim, output_dim, dtype="float64", score="dot", **options):
    """A PyTorch network and its conversion."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs = torch_ref.BiLSTMWithAttention(input_dim, hidden_dim, output_dim, score=score)
    theirs = theirs.to(getattr(torch, dtype))
    return theirs, fb.from_state_dict(theirs.state_dict(), score=score, **options)


def draw(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def run_torch(model, x):
    """Output, and gradients of its sum of squares for x and every parameter."""
    x = torch.tensor(x, requires_grad=True)
    output = model(x)
    (output**2).sum().backward()
    gradients = {name: p.grad.numpy() for name, p in model.named_parameters() if p.grad is not None}
    return {"output": output.detach().numpy(), "x": x.grad.numpy()} | gradients


@nnx.jit
def run_flax(model, x):
    def loss(model, x):
        output = model(x)
        return (output**2).sum(), output

    (_, output), gradients = nnx.value_and_grad(loss, argnums=(0, 1), has_aux=True)(model, x)
    return output, gradients


@nnx.jit
def forward(model, x):
    return model(x)


@given(st.integers(1, 3), st.integers(1, 4), st.sampled_from(["float16", "bfloat16", "float32"]))
@example(1, 1, "float32")
@settings(max_examples=6)  # each compiles
def test_every_compute_dtype_is_near_float64(batch, time, dtype):
    _, model = pair(3, 4, 2, dtype="float32")
    x = draw(batch, time, 3).astype("f4")
    low = fb.from_state_dict(fb.state_dict(model), dtype=dtype)
    output = forward(low, jnp.asarray(x))
    assert output.dtype == dtype
    # Outputs are of order 1; an epsilon is lost at each of a few roundings.
    np.testing.assert_allclose(
        np.asarray(output, "f8"),
        np.asarray(forward(model, x), "f8"),
        rtol=0,
        atol=8 * jnp.finfo(dtype).eps,
    )


@pytest.mark.usefixtures("x64")
@settings(max_examples=8)  # each compiles
@example(sizes=(1, 1, 1), batch=1, time=1, implementation="fused")
@given(
    sizes=st.tuples(*[st.integers(1, 5)] * 3), batch=st.integers(1, 4), time=st.integers(1, 6),
    implementation=st.sampled_from(sorted(IMPLEMENTATIONS)),
)  # fmt: skip
def test_forward_and_gradients_in_float64(
    assert_close, under_torch_names, sizes, batch, time, implementation
):
    theirs, ours = pair(*sizes, implementation=implementation)
    x = draw(batch, time, sizes[0])
    expected = run_torch(theirs, x)
    output, (d_model, d_x) = run_flax(ours, jnp.asarray(x))
    actual = {"output": output, "x": d_x} | under_torch_names(ours, d_model)
    # A tensor that cancels to nearly nothing has a scale of its own: compare at the sum's.
    floor = 1e-13 * max(np.abs(value).max() for value in expected.values())
    for name, truth in expected.items():
        error = np.abs(np.asarray(actual[name]) - truth).max()
        assert error <= 1e-12 * np.abs(truth).max() + floor, name
    assert actual.keys() == expected.keys()


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("score", ["dot", "general"])
def test_published_size_in_float64(assert_close, under_torch_names, score):
    theirs, ours = pair(128, 64, 1, score=score)
    x = draw(4, 20, 128)
    output, (d_model, d_x) = run_flax(ours, jnp.asarray(x))
    actual = {"output": output, "x": d_x} | under_torch_names(ours, d_model)
    expected = run_torch(theirs, x)
    assert ("attention.attn.weight" in expected) == (score == "general")
    assert_close(actual, expected, 1e-12)


def test_published_size_in_float32_is_as_near_the_truth_as_pytorch_is():
    theirs, ours = pair(128, 64, 1, dtype="float32")
    x = draw(4, 20, 128).astype("f4")
    with torch.no_grad():
        own = theirs(torch.from_numpy(x)).numpy()
        truth = theirs.double()(torch.from_numpy(x).double()).numpy()
    scale = np.abs(truth).max()
    error = np.abs(forward(ours, x) - truth).max() / scale
    own_error = np.abs(own - truth).max() / scale
    assert error <= 4 * own_error + 4 * np.finfo(np.float32).eps


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_each_padded_sequence_gives_what_it_gives_alone(assert_close, implementation):
    """Outputs and gradients, against the reference run on each sequence by itself."""
    theirs, ours = pair(3, 4, 2, implementation=implementation)
    lengths = np.array([6, 1, 4])
    x = draw(3, 6, 3)
    x[np.arange(6) >= lengths[:, None]] = np.nan
    expected, gradients = [], np.zeros_like(x)
    for b, n in enumerate(lengths):
        alone = torch.tensor(x[b : b + 1, :n], requires_grad=True)
        output = theirs(alone)
        (output**2).sum().backward()
        expected.append(output[0].detach().numpy())
        gradients[b, :n] = alone.grad[0].numpy()

    def loss(x):
        output, weights = ours(x, lengths=jnp.asarray(lengths), return_attention=True)
        return (output**2).sum(), (output, weights)

    gradient, (output, weights) = jax.jit(jax.grad(loss, has_aux=True))(jnp.asarray(x))
    assert_close({"y": output, "dx": gradient}, {"y": np.stack(expected), "dx": gradients}, 1e-12)
    np.testing.assert_allclose(weights.sum(axis=1), 1, rtol=1e-14)
    np.testing.assert_array_equal(weights[1, 1:], 0)


@pytest.mark.usefixtures("x64")
def test_attention_weights_are_the_last_steps():
    theirs, ours = pair(3, 4, 2)
    x = draw(2, 5, 3)
    output, weights = ours(jnp.asarray(x), return_attention=True)
    with torch.no_grad():
        y, _ = theirs.lstm(torch.from_numpy(x))
        whole = torch.softmax(torch.bmm(y, y.transpose(1, 2)), dim=-1)
    np.testing.assert_allclose(weights, whole[:, -1].numpy(), rtol=0, atol=1e-14)
    np.testing.assert_array_equal(output, ours(jnp.asarray(x)))


@pytest.mark.usefixtures("x64")
def test_vmap_over_batches():
    _, ours = pair(3, 4, 2)
    x = jnp.asarray(draw(5, 2, 6, 3))
    mapped = nnx.jit(nnx.vmap(lambda model, x: model(x), in_axes=(None, 0)))(ours, x)
    np.testing.assert_allclose(mapped, jnp.stack([forward(ours, part) for part in x]), atol=1e-14)


@pytest.mark.usefixtures("standard_promotion")
@pytest.mark.parametrize("tx", [optax.adamw(0.1, weight_decay=0.5), optax.sgd(0.1)])
def test_no_optimizer_moves_the_unused_linear(tx):
    _, model = pair(3, 4, 2, dtype="float32")
    before = fb.state_dict(model)
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    x = jnp.asarray(draw(2, 5, 3), jnp.float32)

    @nnx.jit
    def step(model, optimizer):
        gradients = nnx.grad(lambda model: (model(x) ** 2).sum())(model)
        assert "attention" not in gradients
        optimizer.update(model, gradients)

    for _ in range(3):
        step(model, optimizer)
    after = fb.state_dict(model)
    for name in before:
        same = before[name].tobytes() == after[name].tobytes()
        assert same == name.startswith("attention.attn"), name


def test_a_checkpoint_from_the_notebooks_own_classes(tmp_path, request):
    """Saved by torch, loaded here, saved again, loaded by torch: bit for bit, and equal outputs."""
    path = request.path.parents[1] / "torch_ref" / "notebook.py"
    names = {}
    exec(compile(path.read_text(), path, "exec"), names)
    original = names["BiLSTMWithAttention"](6, 5, 3)
    torch.save(original.state_dict(), tmp_path / "notebook.pt")
    model = fb.load(tmp_path / "notebook.pt")
    fb.save(model, tmp_path / "back.pt")
    back = names["BiLSTMWithAttention"](6, 5, 3)
    back.load_state_dict(torch.load(tmp_path / "back.pt", weights_only=True), strict=True)
    for name, tensor in original.state_dict().items():
        assert torch.equal(tensor, back.state_dict()[name]), name
    x = draw(3, 7, 6).astype("f4")
    with torch.no_grad():
        expected = original(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(model(x), expected, rtol=0, atol=1e-6)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.zeros((5, 3), "f4"), r"x: expected \(batch, time, features\).*\(5, 3\) of rank 2"),
        (np.zeros((2, 5, 4), "f4"), r"x: expected 3 features on the last axis.*\(2, 5, 4\)"),
        (np.zeros((2, 5, 3), "i4"), "x: expected a floating dtype, got int32"),
        (np.zeros((2, 0, 3), "f4"), r"x: expected at least 1 time step on axis 1.*\(2, 0, 3\)"),
    ],
)
def test_errors(x, message):
    model = fb.BiLSTMWithAttention(3, 4, 2, rngs=nnx.Rngs(0))
    for call in (model, jax.jit(model)):
        with pytest.raises(ValueError, match=message):
            call(jnp.asarray(x))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("name", ["input_dim", "hidden_dim", "output_dim"])
def test_constructor_errors(name):
    sizes = {"input_dim": 3, "hidden_dim": 4, "output_dim": 2, name: 0}
    with pytest.raises(ValueError, match=f"{name}: expected an integer of at least 1, got 0"):
        fb.BiLSTMWithAttention(**sizes, rngs=nnx.Rngs(0))
