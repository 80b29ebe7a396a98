"""What a known difference must not hide, and what shows too little to prove anything."""

import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from dataclasses import replace

from flax import nnx

import flax_bilstm as fb
import parity

X = np.random.default_rng(0).standard_normal((6, 3), dtype=np.float32)
SGD = parity.optimizers.SGD
OPTIONS = {"dtypes": ["float64"], "optimizers": [SGD], "training_steps": 2}


class Reference(torch.nn.Module):
    """A LayerNorm, and statistics that are still 0 and 1."""

    def __init__(self):
        super().__init__()
        self.ln, self.bn = torch.nn.LayerNorm(3), torch.nn.BatchNorm1d(3)

    def forward(self, x):
        return self.bn(self.ln(x))


class Added(nnx.BatchNorm):
    """Adds the mean that it should subtract."""

    def __call__(self, x):
        if not self.use_running_average:
            return super().__call__(x)
        mean, var = self.mean[...][None], self.var[...][None]
        y = (x + mean) / jnp.sqrt(var + self.epsilon)
        return y * self.scale[...][None] + self.bias[...][None]


class Port(nnx.Module):
    def __init__(self, norm=nnx.BatchNorm, epsilon=1e-5):
        rngs = nnx.Rngs(0)
        self.ln = nnx.LayerNorm(3, epsilon=epsilon, use_fast_variance=False, rngs=rngs)
        self.bn = norm(3, momentum=0.9, epsilon=1e-5, rngs=rngs)

    def __call__(self, x):
        return self.bn(self.ln(x))


KNOWN = {"local/ln": "another ε", "forward*": "so", "gradients/*": "so", "training*": "so"}


@pytest.mark.usefixtures("lenient")
@pytest.mark.parametrize("norm", [nnx.BatchNorm, Added])
@pytest.mark.parametrize("known", [True, False])
def test_a_known_difference_does_not_hide_another_mistake(quickly_compiled, norm, known):
    reference, candidate = Reference(), Port(norm, 1e-3 if known else 1e-5)
    fb.load_state_dict(candidate, reference.state_dict())
    acknowledged = {k: v for k, v in KNOWN.items() if k != "forward*"} | {
        "forward/*": "so", "forward again/output": "so",
    }  # fmt: skip
    options = {**OPTIONS, "known": acknowledged} if known else OPTIONS
    report = parity.check(reference, candidate, X, **options)
    wrong = {row.name for row in report.failing if row.check == "forward again"}
    assert ("bn" in wrong) == (norm is Added)


def linear(candidate, **options):
    reference = torch.nn.Linear(3, 2)
    return parity.check(reference, candidate, X, **{**OPTIONS, **options})


def product(state, x):
    return x @ state["weight"].T + state["bias"][None]


def test_an_output_that_is_missing_is_never_a_known_difference(quickly_compiled):
    class Two(torch.nn.Linear):
        def forward(self, x):
            y = super().forward(x)
            return {"y": y, "z": 2 * y}

    known = {"output.z": "not ported"}
    report = parity.check(Two(3, 2), lambda s, x: {"y": product(s, x)}, X, known=known, **OPTIONS)
    assert not report.passed


@pytest.mark.filterwarnings("ignore:invalid value")
def test_numbers_that_become_nan_are_never_a_known_difference(quickly_compiled):
    def candidate(state, x):
        weight = state["weight"]
        moved = jnp.abs(weight - jnp.asarray(start, weight.dtype)).max() > 1e-4
        return product(state, x) * jnp.where(moved, jnp.nan, 1.001)

    torch.manual_seed(0)
    reference = torch.nn.Linear(3, 2)
    start = reference.weight.detach().numpy()
    known = {"forward/*": "so", "gradients/*": "so", "training/*": "so", "local/*": "so"}
    options = {**OPTIONS, "training_steps": 4, "known": known}
    report = parity.check(reference, candidate, X, **options)
    values = [row.candidate for row in report.failing if row.check == "training"]
    assert any(np.isnan(value) for value in values if value is not None)


def notes(report):
    (facts,) = report.cases.values()
    return facts.get("notes", [])


def test_inputs_that_are_all_the_same_are_noted(quickly_compiled):
    same = np.ones_like(X)
    report = parity.check(torch.nn.Linear(3, 2), product, same, **OPTIONS)
    assert "all numbers are the same in x, which hides most mistakes" in notes(report)


def test_gradients_that_are_all_0_are_noted(quickly_compiled):
    nothing = parity.Loss("nothing", lambda y, _: 0 * y.sum(), lambda y, _: 0 * y.sum())
    assert "every gradient is 0 at these inputs" in " ".join(notes(linear(product, loss=nothing)))


def test_weights_in_a_dtype_that_nothing_is_computed_in_are_noted(quickly_compiled):
    reference = torch.nn.Linear(3, 2).half()
    report = parity.check(reference, product, X.astype(np.float16), **OPTIONS)
    assert "parameters are stored in float16, but nothing was computed in it" in notes(report)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"ignore": "*.num_batches_tracked"}, "ignore: expected a tuple of patterns"),
        ({"optimizers": (o for o in [SGD])}, "optimizers: expected a tuple"),
        ({"optimizers": [SGD, replace(SGD)]}, "optimizers: .* with different names"),
        ({"dtypes": "float64"}, "dtypes: expected a tuple of words"),
    ],
)
def test_arguments_that_would_check_nothing_are_refused(options, words):
    with pytest.raises(TypeError, match=words):
        linear(product, **options)


def test_longdouble_is_refused():
    with pytest.raises(ValueError, match="expected float64 at most, got longdouble"):
        parity.check(torch.nn.Linear(3, 2), product, X.astype(np.longdouble), **OPTIONS)


def test_a_candidate_that_makes_no_step_fails():
    class Lazy(parity.Side):
        def forward(self, parameters, inputs, dtype):
            return {"output": (inputs["x"] @ parameters["w"]).astype(dtype)}

        def gradients(self, parameters, inputs, dtype):
            return {"w": inputs["x"].sum(0).astype(dtype)}

        def train(self, parameters, batches, optimizer, dtype):
            made = parity.sides.side.Step(np.zeros(()), parameters, {})
            return iter([made] * (len(batches) if self.name == "reference" else 0))

    weights = {"w": np.ones(3)}
    pair = parity.Pair(Lazy("reference", weights), Lazy("candidate", weights))
    inputs = {"x": X.astype(np.float64)}
    report = parity.compare_sides(
        pair, inputs, dtypes=["float64"], optimizers=[SGD], batches=[inputs] * 2
    )
    assert "it makes no step 1, and the reference does" in str(report)
