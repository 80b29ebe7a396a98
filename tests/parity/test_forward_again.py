"""What only other numbers show: what training leaves, and what is still 0 when it is checked."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from flax import nnx
from torch.nn.functional import linear

from . import two_layers
from .two_layers import check, failing

pytestmark = pytest.mark.usefixtures("quickly_compiled")


class Averaging(two_layers.Reference):
    """Its evaluation uses an average of the second layer's weights, which begins as their copy."""

    def __init__(self, frozen=False):
        super().__init__(None)
        start = self.b.weight.detach().clone()
        if frozen:
            self.mean = torch.nn.Parameter(start, requires_grad=False)
        else:
            self.register_buffer("mean", start)

    def forward(self, x):
        y = torch.tanh(self.a(x))
        if self.training:
            with torch.no_grad():
                self.mean.lerp_(self.b.weight, 0.1)
            return self.b(y)
        return linear(y, self.mean + self.b.weight - self.b.weight.detach(), self.b.bias)


class Port(two_layers.Port):
    deterministic = False

    def __init__(self, averages, use):
        super().__init__(None)
        self.mean, self.averages, self.use = nnx.BatchStat(jnp.zeros((2, 4))), averages, use

    def __call__(self, x):
        y, weight = jnp.tanh(self.a(x)), self.b.kernel[...].T
        still = jax.lax.stop_gradient(weight)
        if not self.deterministic:
            self.mean[...] = self.averages(self.mean[...], still)
            return self.b(y)
        return y @ (self.use(self.mean[...], still) + weight - still).T + self.b.bias[...][None]


def lerp(mean, weight):
    return mean + 0.1 * (weight - mean)


def weighted(mean, weight):
    return 0.9 * mean + 0.1 * weight  # is off by one ULP where both are equal


def the_mean(mean, weight):
    return mean


def the_weight(mean, weight):
    return weight


@pytest.mark.parametrize("averages", [lerp, weighted])
def test_what_training_leaves_is_used_in_evaluation(averages):
    check(Averaging(), Port(averages, the_mean), training_steps=4).assert_passed()


@pytest.mark.parametrize("frozen", [False, True])
def test_a_copy_of_the_weights_that_is_not_used_in_evaluation_fails(frozen):
    report = check(Averaging(frozen), Port(lerp, the_weight), training_steps=4)
    assert failing(report) == {"forward", "forward again", "forward after training"}
    assert report.first_divergence.explains
    untrained = check(Averaging(frozen), Port(lerp, the_weight), training_steps=0)
    assert failing(untrained) == {"forward", "forward again"}


def test_without_buffers_there_is_no_such_pass():
    plain = check(two_layers.Reference(two_layers.plain), two_layers.Port(two_layers.plain))
    assert "forward after training" not in {row.check for row in plain.rows}


class Adapted(two_layers.Reference):
    """A low-rank adapter, whose second matrix is still 0."""

    def __init__(self):
        super().__init__(None)
        self.down, self.up = (
            torch.nn.Parameter(v) for v in (torch.ones(2, 3) / 3, torch.zeros(4, 2))
        )

    def forward(self, x):
        return self.b(torch.tanh(self.a(x) + x @ self.down.T @ self.up.T))


class FlaxAdapted(two_layers.Port):
    def __init__(self, down):
        super().__init__(None)
        self.down, self.up = nnx.Param(jnp.zeros((2, 3))), nnx.Param(jnp.zeros((4, 2)))
        self.use = down

    def __call__(self, x):
        adapted = x @ self.use(self.down[...]).T @ self.up[...].T
        return self.b(jnp.tanh(self.a(x) + adapted))


USES = {
    "right": (lambda down: down, set()),
    "half of it": (lambda down: 0.5 * down, {"gradients"}),
    "no gradient": (jax.lax.stop_gradient, {"gradients", "gradients again"}),
}


@pytest.mark.parametrize("use", USES)
def test_what_a_matrix_of_0_multiplies_shows_without_training(use):
    changed, wrong = USES[use]
    report = check(Adapted(), FlaxAdapted(changed), training_steps=0)
    assert failing(report) == wrong


def test_gradients_at_inputs_are_compared_on_other_values(lenient):
    """A gate of 0: training moves it, but compares no gradients at inputs."""

    class Gated(two_layers.Reference):
        def __init__(self):
            super().__init__(lambda m, x: m.b(m.a(x) + m.gate * m.a(x.tanh())))
            self.gate = torch.nn.Parameter(torch.zeros(1))

    class FlaxGated(two_layers.Port):
        def __init__(self, stop):
            super().__init__(lambda m, x: m.b(m.a(x) + m.gate[...] * m.a(jnp.tanh(stop(x)))))
            self.gate = nnx.Param(jnp.zeros(1))

    assert not failing(check(Gated(), FlaxGated(lambda x: x)))
    report = check(Gated(), FlaxGated(jax.lax.stop_gradient))
    assert failing(report) == {"gradients", "gradients again"}
    assert {row.name for row in report.rows if row.failed and not row.explains} == {"x"}


class Switched(two_layers.Reference):
    """A layer with a mean and a scale, of one number each, that are still 0 and 1."""

    def __init__(self, shape):
        super().__init__(None)
        self.register_buffer("mean", torch.zeros(shape))
        self.register_buffer("scale", torch.ones(shape))

    def forward(self, x):
        return self.b((self.a(x) - self.mean) / self.scale)


@pytest.mark.parametrize("shape", [(), (1,)])
@pytest.mark.parametrize(
    "use",
    [
        lambda y, mean, scale: (y - mean) / scale,
        lambda y, mean, scale: (y + mean) / scale,
        lambda y, mean, scale: (y - mean) * scale,
    ],
    ids=["right", "mean added", "scale multiplied"],
)
def test_single_numbers_are_moved(lenient, shape, use, request):
    right = request.node.callspec.id.startswith("right")

    class FlaxSwitched(two_layers.Port):
        def __init__(self):
            super().__init__(None)
            self.mean, self.scale = (nnx.BatchStat(v) for v in (jnp.zeros(shape), jnp.ones(shape)))

        def __call__(self, x):
            return self.b(use(self.a(x), self.mean[...], self.scale[...]))

    report = check(Switched(shape), FlaxSwitched(), training_steps=0)
    assert failing(report) == (set() if right else {"forward", "forward again"})


def test_a_zero_branch_with_dropout_in_another_layout():
    def theirs(m, x):
        return m.b(torch.tanh(m.a(x)) + m.gate * m.drop(torch.relu(m.a(x)).mT).mT)

    def ours(drop):
        return lambda m, x: m.b(jnp.tanh(m.a(x)) + m.gate[...] * drop(m, jax.nn.relu(m.a(x))))

    class Gated(two_layers.Reference):
        def __init__(self):
            super().__init__(theirs, torch.nn.Dropout(0.4))
            self.gate = torch.nn.Parameter(torch.zeros(1, 1, 1))

    class FlaxGated(two_layers.Port):
        def __init__(self, drop):
            super().__init__(ours(drop), nnx.Dropout(0.4, rngs=nnx.Rngs(0)))
            self.gate = nnx.Param(jnp.zeros((1, 1, 1)))

    x = np.random.default_rng(0).standard_normal((6, 5, 3), dtype=np.float32)
    check(Gated(), FlaxGated(lambda m, y: m.drop(y)), x).assert_passed()
    assert failing(check(Gated(), FlaxGated(lambda m, y: y), x)) == {"training mode"}
