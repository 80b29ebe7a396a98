"""Two pairs to plant faults in: a linear layer in NumPy alone, and the network, small."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from types import SimpleNamespace

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch")

import flax_bilstm as fb
import torch_ref
from parity import Pair, Side
from parity.compare import compare_sides
from parity.sides import pair as pairs
from parity.sides.side import Step, cast


class Linear(Side):
    """output = x weightᵀ + bias, trained by descending its mean squared error at rate 0.1.

    `spare` is never used. Each hook is one through which a test can plant a fault.
    """

    def __init__(
        self,
        name: str,
        parameters,
        stage: Callable[[str, np.ndarray], np.ndarray] = lambda name, value: value,
        gradient: Callable[[str, np.ndarray | None], np.ndarray | None] = lambda name, value: value,
        update: Callable[[int, str, np.ndarray], np.ndarray] = lambda step, name, value: value,
    ):
        super().__init__(name, parameters)
        self.stage, self.gradient, self.change = stage, gradient, update

    def forward(self, parameters, inputs, dtype):
        p, i = cast(parameters, dtype), cast(inputs, dtype)
        product = self.stage("product", i["x"] @ p["weight"].T)
        return {"product": product, "output": self.stage("output", product + p["bias"])}

    def gradients(self, parameters, inputs, dtype):
        p, i = cast(parameters, dtype), cast(inputs, dtype)
        output = self.forward(parameters, inputs, dtype)["output"]
        cotangent = 2 * (output - i["target"]) / output.size
        found = {
            "spare": None,
            "bias": cotangent.sum(axis=0),
            "weight": cotangent.T @ i["x"],
            "x": cotangent @ p["weight"],
        }
        return {name: self.gradient(name, value) for name, value in found.items()}

    def train(self, parameters, batches: Sequence, optimizer, dtype) -> Iterator[Step]:
        held = cast(parameters, dtype)
        for number, batch in enumerate(batches, start=1):
            output = self.forward(held, batch, dtype)["output"]
            loss = np.mean(np.square(output - cast(batch, dtype)["target"]))
            gradients = self.gradients(held, batch, dtype)
            for name in held:
                if gradients[name] is not None:
                    held[name] = held[name] - held[name].dtype.type(0.1) * gradients[name]
                held[name] = self.change(number, name, held[name])
            yield Step(np.asarray(loss), dict(held), {})


@pytest.fixture
def linear():
    """A function of the candidate's hooks → the pair; and inputs and batches for it."""
    rng = np.random.default_rng(0)

    def draw(*shape):
        return rng.standard_normal(shape, dtype=np.float32)

    parameters = {"weight": draw(3, 4), "bias": draw(3), "spare": draw(2)}

    def pair(**faults) -> Pair:
        held = faults.pop("parameters", parameters)
        return Pair(Linear("a", parameters), Linear("b", held, **faults))

    batches = [{"x": draw(5, 4), "target": draw(5, 3)} for _ in range(4)]
    return SimpleNamespace(pair=pair, parameters=parameters, inputs=batches[0], batches=batches)


@pytest.fixture(scope="session")
def network():
    """The reference network and its conversion, small but with no two sizes alike."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        reference = torch_ref.BiLSTMWithAttention(5, 4, 3)
    candidate = fb.from_state_dict(reference.state_dict())
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 6, 5), dtype=np.float32)
    target = rng.standard_normal((2, 3), dtype=np.float32)
    return SimpleNamespace(
        reference=reference,
        candidate=candidate,
        pair=pairs.of_modules(reference, candidate, {"x": x}),
        x=x,
        inputs={"x": x, "target": target},
    )


@pytest.fixture
def lenient():
    """Promotion as users have it, not as this suite asks of the library; Flax relies on it."""
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture
def operation_by_operation(quickly_compiled, unchecked):
    """Operations are compiled once for all that is planted; whole programs would be, one by one.

    They are thousands of calls: the annotations of flax_bilstm are checked in its own tests.
    """
    with jax.disable_jit():
        yield


@pytest.fixture
def float64(quickly_compiled):
    """The check in float64 alone."""
    return partial(compare_sides, dtypes=["float64"])


@pytest.fixture(scope="session")
def forward_failures():
    """The names of a report's stages that failed."""
    return lambda report: [
        row.name
        for row in report.rows
        if row.check == "forward" and not row.passed and not row.explains
    ]


@pytest.fixture(scope="session")
def instead():
    """(side, method=function, ...) → the side with those methods replaced."""

    def instead(side, **methods):
        other = side.holding(side.parameters)
        vars(other).update(methods)
        return other

    return instead
