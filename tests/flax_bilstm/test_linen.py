"""The Linen models give the NNX models' numbers, train the same and convert without loss."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx, serialization
from flax.training.train_state import TrainState

import flax_bilstm as fb
import flax_bilstm.linen

# Two ways to the same program are compared here; how it rounds is judged elsewhere.
pytestmark = pytest.mark.usefixtures("quickly_compiled")

X = jax.random.normal(jax.random.key(7), (3, 3, 4))
LENGTHS = jnp.array([3, 1, 2])
NETWORK = (4, 3, 2)


def apply(model: linen.Module, variables: Any, *args: Any, rngs: Any = None, **static: Any) -> Any:
    """`model.apply`, compiled."""
    return jax.jit(partial(model.apply, **static))(variables, *args, rngs=rngs)


def network() -> tuple[flax_bilstm.linen.Bridged, dict[str, Any]]:
    """The network and variables of its own; `init`, which takes longer to compile, is apart."""
    module = fb.BiLSTMWithAttention(*NETWORK, rngs=nnx.Rngs(0))
    return fb.linen.BiLSTMWithAttention(*NETWORK), fb.linen.to_variables(module)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_layers": 2, "bidirectional": True, "proj_size": 2},
        {"num_layers": 2, "bias": False, "time_major": True, "implementation": "scan"},
        {"dtype": jnp.bfloat16, "dropout": 0.5, "num_layers": 2},
    ],
    ids=str,
)
def test_lstm_gives_the_numbers_of_nnx(
    options: dict[str, Any], assert_identical: Callable[..., None]
) -> None:
    module = fb.LSTM(4, 3, **options, rngs=nnx.Rngs(0))
    module.eval()
    model = fb.linen.LSTM(4, 3, **options)
    count, out = module.num_layers * module.num_directions, module.proj_size or 3
    state = (jnp.ones((count, 3, out)), -jnp.ones((count, 3, 3)))
    got = apply(model, fb.linen.to_variables(module), X, state, LENGTHS, deterministic=True)
    assert_identical(got, nnx.jit(lambda module: module(X, state, LENGTHS))(module))


def test_network_gives_the_numbers_of_nnx(assert_identical: Callable[..., None]) -> None:
    module = fb.BiLSTMWithAttention(*NETWORK, rngs=nnx.Rngs(0))
    model = fb.linen.BiLSTMWithAttention(*NETWORK)
    options = {"lengths": LENGTHS, "return_attention": True}
    got = apply(model, fb.linen.to_variables(module), X, **options)
    assert_identical(got, nnx.jit(lambda module: module(X, **options))(module))


def test_init_makes_what_nnx_makes_and_sets_the_unused_linear_apart() -> None:
    dtypes = {"dtype": jnp.float16, "param_dtype": jnp.float16}
    model = fb.linen.BiLSTMWithAttention(*NETWORK, **dtypes)
    init = jax.jit(model.init)
    variables = init(jax.random.key(0), X)
    module = fb.BiLSTMWithAttention(*NETWORK, **dtypes, rngs=nnx.Rngs(0))
    expected = fb.linen.to_variables(module)
    assert set(variables) == {"params", "Unused"}
    assert set(variables["params"]) == {"lstm", "fc"}
    assert set(variables["Unused"]["attention"]["attn"]) == {"kernel", "bias"}
    assert jax.tree.map(jnp.shape, variables) == jax.tree.map(jnp.shape, expected)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float16)}
    largest = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(variables))
    assert largest <= jnp.float16(3**-0.5)
    again = init(jax.random.key(1), X)
    assert not np.array_equal(again["params"]["fc"]["kernel"], variables["params"]["fc"]["kernel"])


def test_general_score_trains_the_kernel_alone() -> None:
    model = fb.linen.BiLSTMWithAttention(*NETWORK, score="general")
    variables = jax.eval_shape(model.init, jax.random.key(0), X)
    assert set(variables["params"]["attention"]["attn"]) == {"kernel"}
    assert set(variables["Unused"]["attention"]["attn"]) == {"bias"}


@pytest.mark.usefixtures("standard_promotion")
def test_train_state_trains_as_nnx_optimizer_does(assert_identical: Callable[..., None]) -> None:
    module = fb.BiLSTMWithAttention(*NETWORK, rngs=nnx.Rngs(0))
    model = fb.linen.BiLSTMWithAttention(*NETWORK)
    variables = fb.linen.to_variables(module)
    before = jax.tree.map(np.asarray, variables)
    tx = optax.adamw(1e-2, weight_decay=0.1)
    state = TrainState.create(apply_fn=model.apply, params=variables["params"], tx=tx)
    optimizer = nnx.Optimizer(module, tx, wrt=nnx.Param)
    target = jnp.ones((3, 2))

    @jax.jit
    def linen_step(state: TrainState) -> TrainState:
        def loss(params: Any) -> jax.Array:
            return jnp.mean((state.apply_fn({"params": params}, X) - target) ** 2)

        return state.apply_gradients(grads=jax.grad(loss)(state.params))

    @nnx.jit
    def nnx_step(module: fb.BiLSTMWithAttention, optimizer: nnx.Optimizer) -> None:
        gradients = nnx.grad(lambda m: jnp.mean((m(X) - target) ** 2))(module)
        optimizer.update(module, gradients)

    for _ in range(5):
        state = linen_step(state)
        nnx_step(module, optimizer)
    after = fb.linen.to_variables(module)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
        state.params,
        after["params"],
    )
    for moved, still in zip(*map(jax.tree.leaves, (state.params, before["params"])), strict=True):
        assert np.abs(moved - still).max() > 1e-2
    assert_identical(after["Unused"], before["Unused"])


@pytest.mark.parametrize("kind", ["lstm", "network"])
def test_torch_state_dicts_come_in_and_go_out_bit_for_bit(kind: str) -> None:
    torch = pytest.importorskip("torch")
    if kind == "lstm":
        twin = torch.nn.LSTM(4, 3, num_layers=2, bidirectional=True, batch_first=True)
        model = fb.linen.LSTM(4, 3, num_layers=2, bidirectional=True)
    else:
        twin = pytest.importorskip("torch_ref").BiLSTMWithAttention(*NETWORK)
        model = fb.linen.BiLSTMWithAttention(*NETWORK)
    given = twin.state_dict()
    variables = fb.linen.to_variables(fb.from_state_dict(given))
    expected = twin(torch.tensor(np.asarray(X)))
    got = apply(model, variables, X)
    if kind == "lstm":
        expected, got = expected[0], got[0]
    np.testing.assert_allclose(got, expected.detach().numpy(), rtol=1e-5, atol=1e-6)
    back = fb.state_dict(fb.linen.to_module(model, variables))
    assert list(back) == list(given)
    for name, tensor in given.items():
        np.testing.assert_array_equal(back[name], tensor.numpy())


def dropout_model() -> tuple[flax_bilstm.linen.Bridged, Any]:
    model = fb.linen.LSTM(4, 3, num_layers=2, dropout=0.5)
    return model, fb.linen.to_variables(fb.LSTM(4, 3, num_layers=2, rngs=nnx.Rngs(0)))


def test_dropout_takes_its_masks_from_the_dropout_rng(
    assert_identical: Callable[..., None],
) -> None:
    model, variables = dropout_model()
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    made = jax.eval_shape(partial(model.init, deterministic=True), keys, X)
    # The same as without dropout: no random state among the variables.
    assert jax.tree.map(jnp.shape, made) == jax.tree.map(jnp.shape, variables)
    dropped = jax.jit(partial(model.apply, deterministic=False))

    def outputs(key: int) -> np.ndarray:
        rngs = {"dropout": jax.random.key(key)}
        return np.asarray(dropped(variables, X, rngs=rngs)[0])

    np.testing.assert_array_equal(outputs(1), outputs(1))
    assert not np.array_equal(outputs(1), outputs(2))
    plain = fb.linen.LSTM(4, 3, num_layers=2)
    still = apply(model, variables, X, deterministic=True)
    assert_identical(still, apply(plain, variables, X))
    assert not np.array_equal(outputs(1), still[0])


def test_dropout_is_refused_without_a_mode_or_an_rng() -> None:
    model, variables = dropout_model()
    with pytest.raises(ValueError, match=r"deterministic: expected True or False .* 0\.5"):
        model.apply(variables, X, rngs={"dropout": jax.random.key(0)})
    with pytest.raises(ValueError, match=r"rngs: expected one for `dropout`"):
        model.apply(variables, X, deterministic=False)
    with pytest.raises(ValueError, match=r"rngs: expected one for `dropout`"):
        model.init(jax.random.key(0), X, deterministic=True)


def test_params_that_are_missing_or_misshapen_are_refused() -> None:
    model, variables = network()
    params = variables["params"]
    with pytest.raises(ValueError, match=r"\['fc'\]\['kernel'\]: expected \(6, 2\), got nothing"):
        model.apply({"params": {"lstm": params["lstm"]}}, X)
    wide = fb.linen.to_variables(fb.BiLSTMWithAttention(4, 3, 7, rngs=nnx.Rngs(0)))
    with pytest.raises(ValueError, match=r"\['fc'\]\['bias'\]: expected \(2,\), got \(7,\)"):
        model.apply(wide, X)
    with pytest.raises(ValueError, match=r"\['gate'\]: expected nothing, got \(1,\)"):
        model.apply({"params": {**params, "gate": jnp.ones(1)}}, X)
    with pytest.raises(ValueError, match=r"\['Unused'\].*\['kernel'\].* got nothing"):
        fb.linen.to_module(model, {"params": params})


class Classifier(linen.Module):
    """Two models of this library inside somebody's Linen module."""

    @linen.compact
    def __call__(self, x: jax.Array, deterministic: bool) -> jax.Array:
        encoder = fb.linen.LSTM(4, 3, num_layers=2, dropout=0.5, name="encoder")
        outputs, _ = encoder(x, deterministic=deterministic)
        return fb.linen.BiLSTMWithAttention(3, 2, 1, name="head")(outputs)


def test_models_are_submodules_of_linen_modules() -> None:
    model = Classifier()
    encoder = fb.LSTM(4, 3, num_layers=2, rngs=nnx.Rngs(0))
    head = fb.BiLSTMWithAttention(3, 2, 1, rngs=nnx.Rngs(1))
    modules = {"encoder": encoder, "head": head}
    params = {name: fb.linen.to_variables(module)["params"] for name, module in modules.items()}
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    made = jax.eval_shape(partial(model.init, deterministic=True), keys, X)["params"]
    assert jax.tree.map(jnp.shape, made) == jax.tree.map(jnp.shape, params)
    expected = nnx.jit(lambda encoder, head: head(encoder(X)[0]))(encoder, head)
    got = apply(model, {"params": params}, X, deterministic=True)
    np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_variables_survive_flax_serialization(assert_identical: Callable[..., None]) -> None:
    _, variables = network()
    other = jax.tree.map(jnp.zeros_like, variables)
    assert_identical(
        serialization.from_bytes(other, serialization.to_bytes(variables)),
        jax.tree.map(np.asarray, variables),
    )


class Tagger(nnx.Module):
    """A network of the user's own, with statistics, dropout and an LSTM."""

    def __init__(self, features: int, *, rngs: nnx.Rngs):
        self.norm = nnx.BatchNorm(features, rngs=rngs)
        self.lstm = fb.LSTM(features, 3, bidirectional=True, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.head = nnx.Linear(6, 2, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.head(self.dropout(self.lstm(self.norm(x))[0]))


def test_any_module_is_bridged(assert_identical: Callable[..., None]) -> None:
    module, model = Tagger(4, rngs=nnx.Rngs(0)), fb.linen.bridge(Tagger, 4)
    state_dict = fb.state_dict(module)
    fb.load_state_dict(module, state_dict)
    variables = fb.linen.to_variables(module)
    assert variables.keys() == {"params", "batch_stats"}
    with jax.numpy_rank_promotion("allow"):
        module.eval()
        with pytest.raises(ValueError, match="deterministic"):
            model.apply(variables, X)
        got = apply(model, variables, X, deterministic=True)
        assert_identical(got, nnx.jit(lambda module: module(X))(module))
    assert_identical(fb.state_dict(fb.linen.to_module(model, variables)), state_dict)
    del variables["batch_stats"]["norm"]["mean"]
    with pytest.raises(ValueError, match=r"batch_stats.*norm.*mean.*expected \(4,\), got nothing"):
        fb.linen.to_module(model, variables)
