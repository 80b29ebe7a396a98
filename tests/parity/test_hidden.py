"""Faults that one thing hides behind another: a number, a name, a part of a complex number."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from flax import nnx

import flax_bilstm as fb
import parity
from parity.sides.losses import INNER_PRODUCT

X = np.random.default_rng(0).standard_normal((3, 4), dtype=np.float32)
pytestmark = pytest.mark.usefixtures("lenient", "quickly_compiled")
OPTIONS = {"dtypes": ["float64"], "training_steps": 0}


class Reference(torch.nn.Module):
    """What a function makes of the input and one parameter, whose name is given."""

    def __init__(self, function, name="weight"):
        super().__init__()
        self.function, self.name = function, name
        self.register_parameter(name, torch.nn.Parameter(torch.tensor([0.5, -1.0, 2.0, 3.0])))

    def forward(self, *args, **kwargs):
        return self.function(getattr(self, self.name), *args, **kwargs)


def failing(report):
    return {(row.check, row.name) for row in report.rows if row.failed and not row.explains}


@pytest.mark.parametrize("fill", [-1e9, "smallest"])
def test_the_fill_of_a_mask_hides_no_other_element(fill):
    def of(library, x):
        return library.finfo(x.dtype).min if fill == "smallest" else fill

    def theirs(w, x):
        y = w * x
        return {"scores": y, "masked": y.masked_fill(x > 0, of(torch, x))}

    def ours(error):
        def port(w, x):
            y = w["weight"] * x
            return {"scores": y, "masked": jnp.where(x > 0, of(jnp, x), y + error)}

        return port

    scores = parity.Loss("scores", lambda o, _: o["scores"].sum(), lambda o, _: o["scores"].sum())
    options = {**OPTIONS, "loss": scores, "dtypes": ["float64", "float32"]}
    right = parity.check(Reference(theirs), ours(0.0), X, **options)
    right.assert_passed()
    assert not right.undetermined
    wrong = parity.check(Reference(theirs), ours(1e-7), X, **options)
    assert failing(wrong) >= {("forward", "output.masked")}


@pytest.mark.parametrize("beside", [False, True], ids=["alone", "beside a real output"])
def test_both_parts_of_complex_numbers_are_compared(beside):
    def theirs(w, x):
        y = torch.fft.rfft(w * x)
        return (y.abs(), y) if beside else y

    def ours(change):
        def port(w, x):
            y = change(jnp.fft.rfft(w["weight"] * x))
            return (jnp.abs(y), y) if beside else y

        return port

    options = {**OPTIONS, "training_steps": 1, "optimizers": [parity.optimizers.SGD]}
    right = parity.check(Reference(theirs), ours(lambda y: y), X, **options)
    right.assert_passed()
    assert not right.undetermined
    name = "output.1" if beside else "output"
    for change in (jnp.conj, lambda y: y.real.astype(y.dtype)):
        report = parity.check(Reference(theirs), ours(change), X, **options)
        assert ("forward", name) in failing(report)


@pytest.mark.parametrize(("parameter", "keyword"), [("x", None), ("scale", "scale")])
def test_a_parameter_may_have_the_name_of_an_input(parameter, keyword):
    def port(stop):
        def function(w, x, **given):
            return stop(w[parameter]) * x + sum(given.values())

        return function

    keywords = {keyword: X} if keyword else {}
    reference = Reference(lambda w, x, **given: w * x + sum(given.values()), parameter)
    right = parity.check(reference, port(lambda w: w), X, keywords=keywords, **OPTIONS)
    right.assert_passed()
    assert ("gradients", f"input {parameter}") in {(row.check, row.name) for row in right.rows}
    wrong = parity.check(reference, port(jax.lax.stop_gradient), X, keywords=keywords, **OPTIONS)
    assert failing(wrong) == {("gradients", parameter)}


def test_two_outputs_of_one_name_are_refused():
    def both(y):
        return {"a.b": y, "a": {"b": y}}

    reference = Reference(lambda w, x: both(w * x))
    with pytest.raises(ValueError, match=r"two arrays of the output are called output\.a\.b"):
        parity.check(reference, lambda w, x: both(w["weight"] * x), X, **OPTIONS)


class TorchOutput(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.output = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.Linear(5, 4))

    def forward(self, x):
        return torch.log_softmax(self.output(x), -1)


class Output(nnx.Module):
    def __init__(self, axis):
        rngs = nnx.Rngs(0)
        self.output = nnx.Sequential(nnx.Linear(4, 5, rngs=rngs), nnx.Linear(5, 4, rngs=rngs))
        self.axis = axis

    def __call__(self, x):
        return jax.nn.log_softmax(self.output(x), self.axis)


@pytest.mark.parametrize("axis", [-1, 0])
def test_a_layer_may_be_called_output(axis):
    reference, port, names = TorchOutput(), Output(axis), {"output.layers": "output"}
    fb.load_state_dict(port, reference.state_dict(), names=names)
    report = parity.check(
        reference, port, X, names={**names, "output": "output"}, loss=INNER_PRODUCT, **OPTIONS
    )
    assert report.passed == (axis == -1)
    assert {row.name for row in report.rows if row.check == "local"} >= {"output", "the output"}
    if axis == 0:
        assert report.first_divergence.name == "the output"


class TorchPart(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.head = torch.nn.Linear(4, 4)

    def forward(self, x):
        return {"head": 2 * self.head(x)}


class TorchParent(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.part = TorchPart()

    def forward(self, x):
        return self.part(x)["head"]


class Part(nnx.Module):
    def __init__(self, factor):
        self.head, self.factor = nnx.Linear(4, 4, rngs=nnx.Rngs(0)), factor

    def __call__(self, x):
        return {"head": self.factor * self.head(x)}


class Parent(nnx.Module):
    def __init__(self, factor):
        self.part = Part(factor)

    def __call__(self, x):
        return self.part(x)["head"]


@pytest.mark.parametrize("factor", [2, 3])
def test_a_key_may_have_the_name_of_a_layer(factor):
    reference, port = TorchParent(), Parent(factor)
    fb.load_state_dict(port, reference.state_dict())
    report = parity.check(reference, port, X, **OPTIONS)
    wrong = {name for check, name in failing(report) if check in ("local", "forward")}
    assert wrong == (set() if factor == 2 else {"output"})


def notes(report):
    return [note for facts in report.cases.values() for note in facts.get("notes", ())]


class Counting(nnx.Module):
    """Starts from what the last call left."""

    def __init__(self):
        self.weight, self.last = nnx.Param(jnp.zeros(4)), nnx.Variable(jnp.zeros(4))

    def __call__(self, x):
        y = self.weight[...] * x + self.last[...]
        self.last[...] = y[0]
        return y


def test_variables_that_a_call_changes_are_noted():
    port, reference = Counting(), Reference(lambda w, x: w * x)
    reference.register_buffer("last", torch.zeros(4))
    fb.load_state_dict(port, reference.state_dict())
    report = parity.check(reference, port, X, **OPTIONS)
    assert notes(report) == ["flax_model changes last, so only first calls are compared"]


def test_what_is_ignored_is_noted():
    reference = Reference(lambda w, x: w * x)
    report = parity.check(reference, lambda w, x: w["weight"] * x, X, ignore=["*"], **OPTIONS)
    assert notes(report) == ["ignored, so neither compared nor trained alike: weight"]


def _dropout(w, x, training):
    return torch.nn.functional.dropout(w * x, 0.5, training)


class OnlyTraining(Reference):
    def forward(self, x):
        return self.function(self.weight, x, self.training)


@pytest.mark.parametrize("function", [_dropout, lambda w, x, training: w * x * (2 - training)])
def test_what_only_training_mode_computes_is_noted(function):
    reference = OnlyTraining(function)
    factor = 1.0 if function is _dropout else 2.0
    report = parity.check(reference, lambda w, x: factor * w["weight"] * x, X, **OPTIONS)
    what = "Dropout" if function is _dropout else "what only training mode does"
    why = f"training mode is not run, since the candidate is a function: {what}"
    assert why in notes(report)


def test_whole_numbers_of_64_bits_are_no_difference():
    """A count of batches, or positions, which JAX holds in 32 bits."""
    reference = Reference(lambda w, x: w * x)
    reference.register_buffer("ids", torch.arange(4))
    options = {"training_steps": 1, "optimizers": [parity.optimizers.SGD]}
    parity.check(reference, lambda w, x: w["weight"] * x, X, **options).assert_passed()


@pytest.mark.parametrize("use", [lambda f, w, x, m: w * x, lambda f, w, x, m: w * x * (m > 0)])
def test_an_input_without_a_gradient_is_no_difference(use):
    """PyTorch has None for it, JAX zeros."""
    mask = np.array([1.0, 0.0, 1.0, 0.5], np.float32)
    reference = Reference(lambda w, x, m: use(torch, w, x, m))
    parity.check(
        reference, lambda w, x, m: use(jnp, w["weight"], x, m), (X, mask), **OPTIONS
    ).assert_passed()


def test_a_reference_without_finite_numbers_is_refused():
    with pytest.raises(ValueError, match="no finite number"):
        parity.check(Reference(lambda w, x: w * x / 0), lambda w, x: w["weight"] * x, X, **OPTIONS)
