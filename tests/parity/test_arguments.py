"""What nothing can be checked with is refused in one sentence of ours."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen

torch = pytest.importorskip("torch")

import parity
from parity.sides.losses import CROSS_ENTROPY

X = np.ones((3, 4), np.float32)
LINEAR = torch.nn.Linear(4, 4)


def port(w, x):
    return x @ w["weight"].T + w["bias"][None]


def loss(torch_loss):
    return parity.Loss("mine", torch_loss, lambda output, inputs: output.sum())


def raising(output, inputs):
    raise RuntimeError("no")


BAD = {
    "loss: expected a parity.Loss": {"loss": "mse"},
    "known: expected a mapping": {"known": ["a"]},
    "optimizers: expected a tuple of parity.Optimizer": {"optimizers": ["sgd"]},
    "optimizers: expected a tuple of": {"optimizers": parity.optimizers.SGD},
    "training_steps: expected a whole number from 0, got -1": {"training_steps": -1},
    "training_steps: expected a whole number from 0, got 1.5": {"training_steps": 1.5},
    "seed: expected a whole number from 0": {"seed": "a"},
    "progress: expected a function": {"progress": None},
    "keywords: expected a mapping": {"keywords": [1, 2]},
    "targets: expected a mapping": {"targets": [X]},
    "targets: expected a mapping, a name → an array, got ndarray": {"targets": X},
    "stages: expected a mapping": {"stages": ["fc"]},
    "names: expected none for a function": {"names": {"a": "b"}},
    "names: expected none for a function, which": {"names": [("a", "b")]},
    "optimizers: expected a tuple of parity.Optimizer with": {
        "optimizers": [parity.Optimizer("mine", torch.optim.SGD, "sgd")],
    },
    "keywords: m: expected a tensor or array, got NoneType": {"keywords": {"m": None}},
    r"keywords: \['x'\] are also names of inputs by position": {"keywords": {"x": X}},
    "'target' is the name of what the loss compares": {"keywords": {"target": X}},
    "'target' is the name of what the loss": {"x": {"x": X, "target": X}},
    "x: expected a tensor or array, got NoneType": {"x": (X, None)},
    "loss: mine, on the output of torch_model, raises RuntimeError: no": {"loss": loss(raising)},
    "loss: mine, on the output of torch_model, gives torch.Size": {"loss": loss(lambda o, i: o)},
    "loss: mine, on the output of torch_model, gives 1.0": {"loss": loss(lambda o, i: 1.0)},
    "loss: cross entropy, .* expected targets=": {"loss": CROSS_ENTROPY},
    "loss: mean squared error, .* targets: expected 'target' of": {"targets": {"target": X[:, :3]}},
}


@pytest.mark.parametrize("words", BAD)
def test_bad_arguments_are_named(words, quickly_compiled):
    options = {"training_steps": 0, "dtypes": ["float64"], **BAD[words]}
    with pytest.raises((TypeError, ValueError), match=words):
        parity.check(LINEAR, port, options.pop("x", X), **options)


class Classes(torch.nn.Linear):
    def forward(self, x):
        return super().forward(x).argmax(-1)


def test_a_model_without_floating_outputs_needs_a_loss():
    with pytest.raises(ValueError, match="loss: torch_model returns no floating numbers"):
        parity.check(Classes(4, 4), port, X)


def test_complex_parameters_are_refused():
    model = torch.nn.Module()
    model.w = torch.nn.Parameter(torch.ones(3, dtype=torch.complex64))
    with pytest.raises(ValueError, match="expected real parameters, got complex \\['w'\\]"):
        parity.check(model, port, X)


@pytest.mark.parametrize(
    "x",
    [
        torch.ones(3, 4, requires_grad=True),
        torch.ones(3, 4, dtype=torch.bfloat16),
        jnp.ones((3, 4)),
    ],
    ids=["with a gradient", "bfloat16", "of JAX"],
)
def test_tensors_of_any_kind_are_inputs(x, quickly_compiled):
    parity.check(LINEAR, port, x, training_steps=0).assert_passed()


class Frozen(torch.nn.Module):
    def __init__(self, weights):
        super().__init__()
        if weights:
            self.linear = torch.nn.Linear(4, 4).requires_grad_(False)

    def forward(self, x):
        return self.linear(x) if hasattr(self, "linear") else 2 * x


def frozen(w, x):
    return x @ w["linear.weight"].T + w["linear.bias"][None] if w else 2 * x


@pytest.mark.parametrize("weights", [True, False], ids=["frozen", "without parameters"])
def test_what_is_not_trained_is_compared_all_the_same(weights, quickly_compiled):
    with jax.numpy_dtype_promotion("standard"):
        parity.check(Frozen(weights), frozen, X, training_steps=1).assert_passed()


def test_inputs_of_which_nothing_comes_are_refused():
    with pytest.raises(ValueError, match=r"x: torch_model returns no numbers .* \[\(0, 4\)\]"):
        parity.check(LINEAR, port, X[:0])


class Kept(torch.nn.Module):
    """Random, or carrying its output from call to call."""

    def __init__(self, random):
        super().__init__()
        self.linear, self.random, self.last = torch.nn.Linear(4, 4), random, 0.0

    def forward(self, x):
        y = self.linear(x) + self.last
        self.last = 0.0 if self.random else y.detach()
        return torch.nn.functional.dropout(y, 0.5) if self.random else y


@pytest.mark.parametrize("random", [True, False], ids=["random", "stateful"])
def test_a_reference_that_differs_from_call_to_call_is_refused(random):
    with pytest.raises(ValueError, match="torch_model: called twice with the same inputs"):
        parity.check(Kept(random), frozen, X)


class Blocked(torch.nn.Linear):
    def forward(self, x):
        if torch.is_grad_enabled():
            raise RuntimeError("only for inference")
        return super().forward(x)


def test_a_reference_that_has_no_gradients_is_refused():
    with pytest.raises(ValueError, match="torch_model: it cannot be differentiated: RuntimeError"):
        parity.check(Blocked(4, 4), port, X, training_steps=0)


class InPlace(torch.nn.Linear):
    def forward(self, x):
        x += 1
        return super().forward(x)


def test_a_reference_may_change_its_input_in_place(quickly_compiled):
    x = X.copy()
    options = {"training_steps": 1, "optimizers": [parity.optimizers.SGD], "dtypes": ["float64"]}
    parity.check(InPlace(4, 4), lambda w, x: port(w, x + 1), x, **options).assert_passed()
    np.testing.assert_array_equal(x, X)
    assert not parity.check(InPlace(4, 4), port, x, **options).passed


def test_a_target_may_not_have_the_name_of_an_input():
    with pytest.raises(ValueError, match=r"targets: \['x'\] are also names of the models' inputs"):
        parity.check(torch.nn.Linear(2, 2), lambda p, x: x, X, targets={"x": X})


@pytest.mark.parametrize("loss", [parity.losses.CROSS_ENTROPY, parity.losses.SQUARES])
def test_a_target_that_the_loss_does_not_read_is_refused(loss):
    reads = "reads none" if loss == parity.losses.SQUARES else "reads 'target'"
    words = rf"targets: {loss.name} does not read \['labels'\]: it {reads}"
    with pytest.raises(ValueError, match=words):
        parity.check(LINEAR, port, X, targets={"labels": X}, loss=loss)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"dtypes": [np.float32]}, r'dtypes: .* such as "float32", got \(float32\)'),
        ({"optimizers": ["sgd"]}, r"optimizers: .* got \('sgd'\)"),
    ],
)
def test_what_is_wrong_in_a_list_is_shown(options, words):
    with pytest.raises(TypeError, match=words):
        parity.check(LINEAR, port, X, **options)


def test_several_inputs_in_a_list_are_refused():
    with pytest.raises(ValueError, match=r"x: expected an array, or a tuple .* list of 2 arrays"):
        parity.check(LINEAR, port, [X, X[0]])


def test_an_array_of_objects_is_refused():
    with pytest.raises(ValueError, match="x: expected an array of numbers, got one of objects"):
        parity.check(LINEAR, port, X.astype(object))


def test_a_parameter_without_a_shape_is_refused():
    words = r"torch_model: expected parameters that have shapes, got \['weight', 'bias'\]"
    with pytest.raises(ValueError, match=words):
        parity.check(torch.nn.LazyLinear(4), port, X)


def test_a_pattern_of_ignored_names_that_fits_nothing_is_noted(quickly_compiled):
    options = {"training_steps": 0, "dtypes": ["float64"], "ignore": ["head.*"]}
    with jax.numpy_dtype_promotion("standard"):
        report = parity.check(LINEAR, port, X, **options)
    assert report.notes[0] == "ignore: torch_model has no tensor called head.*"


def test_the_arrays_that_only_the_candidate_returns_are_named(quickly_compiled):
    options = {"training_steps": 0, "dtypes": ["float64"]}
    with jax.numpy_rank_promotion("allow"):
        report = parity.check(LINEAR, lambda w, x: {"logits": port(w, x)}, X, **options)
    words = "the candidate has no array of this name; it alone has output.logits"
    assert any(row.note == words for row in report.failing)


def test_a_module_of_linen_is_refused():
    with pytest.raises(TypeError, match=r"a module of flax\.linen; wrap it: nnx\.bridge\.ToNNX"):
        parity.check(torch.nn.Linear(2, 2), linen.Dense(2), X)
