"""Pairs of networks that are not ours, with planted faults."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

torch = pytest.importorskip("torch")

import flax_bilstm as fb
import parity
from parity.sides import pair as pairs
from parity.sides.intercept import AnyModule, Taps, intercepted_nnx, intercepted_torch


class TorchGRU(torch.nn.Module):
    """The published equations, torch.nn.GRU's order: the reset gate acts after the product."""

    def __init__(self):
        super().__init__()
        self.embed = torch.nn.Embedding(7, 3)
        self.gru = torch.nn.GRU(3, 4, batch_first=True)
        self.norm = torch.nn.LayerNorm(4)

    def forward(self, tokens, h_0):
        y, h_n = self.gru(self.embed(tokens), h_0)
        return self.norm(self.norm(y)), h_n


class FlaxGRUCell(nnx.Module):
    """torch's names and layout, kept as they are."""

    def __init__(self, rngs, fault):
        self.weight_ih_l0 = nnx.Param(jnp.zeros((12, 3)))
        self.weight_hh_l0 = nnx.Param(jnp.zeros((12, 4)))
        self.bias_ih_l0, self.bias_hh_l0 = nnx.Param(jnp.zeros(12)), nnx.Param(jnp.zeros(12))
        self.fault = fault

    def __call__(self, x, h_0):
        def step(h, x_t):
            from_x = x_t @ self.weight_ih_l0.T + self.bias_ih_l0
            from_h = h @ self.weight_hh_l0.T + self.bias_hh_l0
            (r, z, n), (r_h, z_h, n_h) = jnp.split(from_x, 3, -1), jnp.split(from_h, 3, -1)
            r, z = jax.nn.sigmoid(r + r_h), jax.nn.sigmoid(z + z_h)
            if self.fault == "reset gate before the product":
                n_h = (r * h) @ self.weight_hh_l0[8:].T + self.bias_hh_l0[8:]
                n = jnp.tanh(n + n_h)
            else:
                n = jnp.tanh(n + r * n_h)
            h = (1 - z) * n + z * h
            return h, h

        h_n, y = jax.lax.scan(step, h_0[0], jnp.swapaxes(x, 0, 1))
        return jnp.swapaxes(y, 0, 1), h_n[None]


class FlaxGRU(nnx.Module):
    def __init__(self, rngs, fault=None):
        self.embed = nnx.Embed(7, 3, rngs=rngs)
        self.gru = FlaxGRUCell(rngs, fault)
        self.norm = nnx.LayerNorm(4, epsilon=1e-5, rngs=rngs)
        self.fault = fault

    def __call__(self, tokens, h_0):
        x = self.embed(tokens)
        if self.fault == "embedding scaled":
            x = x * 3**0.5
        y, h_n = self.gru(x, h_0)
        y = self.norm(y)
        if self.fault == "second norm halved":
            y = y / 2
        y = self.norm(y)
        return y, (h_n * 2 if self.fault == "final state doubled" else h_n)


@pytest.fixture(scope="module")
def reference():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return TorchGRU()


TOKENS = np.random.default_rng(0).integers(0, 7, (2, 5))
H_0 = np.random.default_rng(1).standard_normal((1, 2, 4), dtype=np.float32)


def check(reference, fault=None, **options):
    candidate = FlaxGRU(nnx.Rngs(0), fault)
    fb.load_state_dict(candidate, reference.state_dict())
    options = {"training_steps": 0, "dtypes": ["float64"], **options}
    return parity.check(reference, candidate, (TOKENS, H_0), **options)


@pytest.mark.usefixtures("lenient")
def test_a_right_port_passes_and_has_all_its_stages(reference):
    report = check(reference, dtypes=["float64", "float32"])
    report.assert_passed()

    def names(check):
        rows = report.rows
        return [row.name for row in rows if (row.check, row.dtype) == (check, "float64")]

    stages = names("local")
    assert stages == [
        "embed.input", "embed",
        "gru.input.0", "gru.input.1", "gru.0", "gru.1",
        "norm.input", "norm", "norm[1].input", "norm[1]",
        "output.0", "output.1",
    ]  # fmt: skip
    assert names("forward") == stages


@pytest.mark.parametrize(
    ("fault", "wrong", "inheriting"),
    [
        ("reset gate before the product", ["gru.0", "gru.1"], "norm.input"),
        ("embedding scaled", ["gru.input.0"], "gru.0"),
        ("second norm halved", ["norm[1].input"], "norm[1]"),
        ("final state doubled", ["output.1"], None),
    ],
)
@pytest.mark.usefixtures("lenient", "quickly_compiled")
def test_a_fault_is_told_from_what_inherits_it(reference, fault, wrong, inheriting):
    report = check(reference, fault)
    assert report.first_divergence.name == wrong[0]
    failing = {"local": [], "forward": []}
    for row in report.rows:
        if not row.passed and row.dtype == "float64" and not row.explains:
            failing.setdefault(row.check, []).append(row.name)
    assert failing["local"] == wrong
    assert inheriting is None or inheriting in failing["forward"]


class Attention(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.query, self.key = torch.nn.Linear(3, 3), torch.nn.Linear(3, 3)

    def forward(self, x):
        return torch.softmax(self.query(x) @ self.key(x).mT, -1) @ x


class FlaxAttention(nnx.Module):
    leak = 0.0

    def __init__(self):
        self.query, self.key = (nnx.Linear(3, 3, rngs=nnx.Rngs(0)) for _ in range(2))

    def __call__(self, x):
        scores = self.query(x) @ jnp.swapaxes(self.key(x), 1, 2)
        return jax.nn.softmax(scores) @ x + self.leak * self.key.bias


@pytest.mark.usefixtures("lenient")
@pytest.mark.parametrize("leak", [0.0, 1e-8])
def test_a_gradient_that_is_rounding_alone_is_undetermined(leak, monkeypatch):
    """The key's bias shifts all scores of a query alike: its gradient is zero but for rounding.

    Nothing larger can hide in it.
    """
    torch.manual_seed(0)
    theirs, ours = Attention(), FlaxAttention()
    fb.load_state_dict(ours, theirs.state_dict())
    monkeypatch.setattr(FlaxAttention, "leak", leak)
    x = np.random.default_rng(0).standard_normal((2, 4, 3), dtype=np.float32)
    report = parity.check(theirs, ours, x, training_steps=0, dtypes=["float64"])
    (row,) = (row for row in report.rows if row.name == "key.bias" and row.check == "gradients")
    assert not row.determined
    assert row.passed == (leak == 0), row


def of_modules(reference, candidate, **options):
    return pairs.of_modules(reference, candidate, {"x0": TOKENS, "x1": H_0}, **options)


def test_tensors_without_a_counterpart_are_all_named(reference):
    candidate = FlaxGRU(nnx.Rngs(0))
    candidate.extra = nnx.Param(jnp.zeros(2))
    candidate.norm = nnx.LayerNorm(5, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="does not fit FlaxGRU") as caught:
        of_modules(reference, candidate)
    for words in ("missing: extra", "shape: norm.weight, expected (5,), got (4,)"):
        assert words in str(caught.value)


def test_stages_that_a_model_does_not_have_are_refused(reference):
    with pytest.raises(ValueError, match=r"flax_model has no \['head'\]; expected any of"):
        of_modules(reference, FlaxGRU(nnx.Rngs(0)), stages={"norm": "head"})


def test_nothing_is_intercepted_afterwards(reference):
    ours = nnx.Linear(2, 2, rngs=nnx.Rngs(0))
    taps = Taps()
    handlers = {name: taps.handler(name, AnyModule()) for name in ("linear", "norm")}
    with (
        intercepted_nnx({"linear": handlers["linear"]}, {"linear": ours}),
        intercepted_torch({"norm": handlers["norm"]}, {"norm": reference.norm}),
    ):
        ours(jnp.zeros((1, 2)))
        reference.norm(torch.zeros(4))
    assert list(taps.own) == ["linear.input", "linear", "norm.input", "norm"]
    ours(jnp.zeros((1, 2)))
    reference.norm(torch.zeros(4))
    assert len(taps.own) == 4
    assert type(ours) is nnx.Linear
    assert "forward" not in vars(reference.norm)


class SharedStorage(torch.nn.Module):
    """Two parameters of one memory, which PyTorch trains as one."""

    def __init__(self):
        super().__init__()
        self.a, self.b = torch.nn.Linear(3, 3), torch.nn.Linear(3, 3)
        self.b.weight.data = self.a.weight.data


def test_parameters_that_share_their_memory_are_refused():
    with pytest.raises(ValueError, match=r"a\.weight and b\.weight share their memory"):
        pairs.of_modules(SharedStorage(), lambda p, x: x, {"x": np.ones((2, 3), np.float32)})


class Biased(nnx.Module):
    def __init__(self):
        self.a = nnx.Linear(3, 3, rngs=nnx.Rngs(0))


def test_ignored_variables_of_either_model_are_noted(quickly_compiled):
    theirs = torch.nn.Module()
    theirs.a, theirs.spare = torch.nn.Linear(3, 3, bias=False), torch.nn.Parameter(torch.ones(1))
    theirs.forward = theirs.a.forward
    Biased.__call__ = lambda self, x: self.a(x)
    x = np.random.default_rng(0).standard_normal((2, 3), dtype=np.float32)
    pair = pairs.of_modules(theirs, Biased(), {"x": x}, ignore=["a.bias", "spare"])
    assert "ignored, so neither compared nor trained alike: spare, a.bias" in pair.notes


class PartlyTrained(torch.nn.Module):
    """A table that is read without its gradient, and a layer that is never called."""

    def __init__(self):
        super().__init__()
        self.table, self.spare = torch.nn.Embedding(5, 3), torch.nn.Linear(3, 3)
        self.a = torch.nn.Linear(3, 2)

    def forward(self, tokens):
        return self.a(self.table(tokens).detach())


@pytest.mark.parametrize("stopped", [True, False])
def test_a_function_trains_what_the_reference_does_and_what_it_has_a_gradient_at(
    quickly_compiled, lenient, stopped
):
    def port(state, tokens):
        table = state["table.weight"]
        table = jax.lax.stop_gradient(table) if stopped else table
        return table[tokens] @ state["a.weight"].T + state["a.bias"]

    tokens = np.array([[0, 3], [4, 1]])
    report = parity.check(PartlyTrained(), port, tokens, dtypes=["float64"], training_steps=2)
    assert report.passed == stopped
    assert {row.name for row in report.rows if row.check == "gradients" and row.failed} == (
        set() if stopped else {"table.weight"}
    )
