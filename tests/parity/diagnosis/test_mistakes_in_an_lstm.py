"""Mistakes in the cell of an LSTM, in its loop over time and in its results are named."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from flax import nnx

import flax_bilstm as fb
from flax_bilstm.conversion.rows import rows
from flax_bilstm.recurrence.equations import State, Weights
from parity.diagnosis import match
from parity.diagnosis.lstm.stages import Stages
from parity.diagnosis.lstm.truth import truth
from parity.diagnosis.stages import first_wrong
from parity.place import Place
from parity.selftest import pieces

from .words import words_of

pytestmark = pytest.mark.usefixtures("operation_by_operation")


class Changed(fb.LSTM):
    """Starts from changed states and returns changed results, if a test sets either function."""

    start = change = staticmethod(lambda *given: given)

    def __call__(self, x, initial_state=None, lengths=None):
        initial_state = None if initial_state is None else self.start(*initial_state)
        y, (h_n, c_n) = super().__call__(x, initial_state, lengths)
        y, h_n, c_n = self.change(y, h_n, c_n)
        return y, (h_n, c_n)


def stepping(between=lambda n, state: state, read=lambda x: x, **mistake):
    """An implementation that steps a cell with a mistake (`pieces.cell`)."""
    step = pieces.cell(**mistake)

    def run(weights, x, state, valid, reverse):
        outputs = []
        for n, x_t in enumerate(x[::-1] if reverse else x):
            state = step(weights, between(n, state), read(x_t))
            outputs.append(state.hidden)
        return jnp.stack(outputs[::-1] if reverse else outputs), state

    return {"implementation": run}


def weighing(*changes):
    """The right implementation on changed weights."""
    right = stepping()["implementation"]

    def run(weights, *rest):
        for change in changes:
            weights = change(weights)
        return right(weights, *rest)

    return {"implementation": run}


def early(weights, x, state, valid, reverse):
    if len(x) > 1:
        x = jnp.pad(x[:-1], ((1, 0), (0, 0), (0, 0))) if reverse else jnp.pad(
            x[1:], ((0, 1), (0, 0), (0, 0)))  # fmt: skip
    return stepping()["implementation"](weights, x, state, valid, reverse)


def joined(mix):
    """The LSTM's output as a function of its halves."""

    def change(y, h, c):
        return jnp.concatenate(mix(*jnp.split(y, 2, axis=-1)), axis=-1), h, c

    return {"change": change}


_HH_TWICE, _IH_TWICE = (pieces.multiplied(name, 2) for name in ("bias_hh", "bias_ih"))


def rounding():
    """The right implementation on weights, x and hidden states of float32."""

    def low(weights):
        return Weights(pieces.float32(weights[0]), pieces.float32(weights[1]), *weights[2:])

    right = stepping(
        read=pieces.float32, between=lambda n, s: State(pieces.float32(s.hidden), s.cell)
    )

    def run(weights, *rest):
        outputs, final = right["implementation"](low(weights), *rest)
        return pieces.float32(outputs), State(pieces.float32(final.hidden), final.cell)

    return {"implementation": run}


IN_LSTMS = {
    "weights, input and hidden state are rounded to float32": rounding(),
    "bias_ih is missing": weighing(pieces.multiplied("bias_ih", 0)),
    "both biases are missing": weighing(*(pieces.multiplied(f"bias_{b}", 0) for b in ("ih", "hh"))),
    "h and c are exchanged between steps": stepping(
        between=lambda n, s: State(s.cell, s.hidden) if n else s
    ),
    "c restarts from 0 every 2 steps": stepping(
        between=lambda n, s: State(s.hidden, 0 * s.cell) if n % 2 == 0 and n else s
    ),
    "bias_ih gets no gradient, as where both biases are folded into one": weighing(
        pieces.stopped("bias_ih")
    ),
    "weight_ih gets no gradient": weighing(pieces.stopped("kernel_ih")),
    "no gradient flows into the input": stepping(read=jax.lax.stop_gradient),
    "no gradient flows through the forget gate": stepping(
        forget=lambda z: jax.lax.stop_gradient(jax.nn.sigmoid(z))
    ),
    "the derivative of the gates' sigmoid is missing": stepping(
        sigmoid=pieces.with_slope(jax.nn.sigmoid, jnp.ones_like)
    ),
    "the derivative of the tanh on the new cell state is missing": stepping(
        squash=pieces.with_slope(jnp.tanh, jnp.ones_like)
    ),
    "no gradient flows into the forward half": joined(lambda f, r: (jax.lax.stop_gradient(f), r)),
    "bias_hh is added twice": weighing(_HH_TWICE),
    "both biases are added twice": weighing(_HH_TWICE, _IH_TWICE),
    "the gates use tanh for sigmoid": stepping(sigmoid=jnp.tanh),
    "the gates' sigmoid is the hard one, clip(z/6 + 1/2)": stepping(sigmoid=jax.nn.hard_sigmoid),
    "the cell gate uses relu for tanh": stepping(candidate=jax.nn.relu),
    "the cell gate's tanh is missing": stepping(candidate=lambda z: z),
    "the cell gate uses clip(x, −1, 1) for tanh": stepping(candidate=lambda z: jnp.clip(z, -1, 1)),
    "the forget gate also multiplies what is added": stepping(
        combine=lambda i, f, g, c: f * (c + i * g)
    ),
    "the input gate is not applied": stepping(combine=lambda i, f, g, c: f * c + g),
    "the forget gate is not applied": stepping(combine=lambda i, f, g, c: c + i * g),
    "the previous hidden state is not read": stepping(enter=lambda s: State(0 * s.hidden, s.cell)),
    "the previous cell state is not read": stepping(enter=lambda s: State(s.hidden, 0 * s.cell)),
    "x is read one step early": {"implementation": early},
    "h_0 and c_0 are exchanged": {"start": lambda h, c: (c, h)},
    "h_0 and c_0 are not read": {"start": lambda h, c: (0 * h, 0 * c)},
    "the forward half stands in both places": joined(lambda f, r: (f, f)),
    "the reverse half stands in both places": joined(lambda f, r: (r, r)),
    "both halves are their sum": joined(lambda f, r: (f + r, f + r)),
    "both halves are their mean": joined(lambda f, r: ((f + r) / 2, (f + r) / 2)),
    "the reverse half is flipped in time": joined(lambda f, r: (f, r[:, ::-1])),
    "the features of both directions alternate": {
        "change": lambda y, h, c: (y.reshape(*y.shape[:2], 2, -1).swapaxes(2, 3).reshape(y.shape),
                                   h, c)
    },
    "it is the hidden state": {"change": lambda y, h, c: (y, h, h)},
}  # fmt: skip


def loud_lstm(layers=1):
    """An LSTM whose gates are often saturated, so that a clip is not the identity."""
    torch.manual_seed(0)
    lstm = torch.nn.LSTM(2, 3, layers, batch_first=True, bidirectional=True)
    with torch.no_grad():
        for parameter in lstm.parameters():
            parameter.mul_(3)
    return lstm


def lstm_words(mistake, layers=1):
    """The diagnosis of an LSTM with a mistake in it."""
    reference = loud_lstm(layers)
    held = {name: tensor.numpy() for name, tensor in reference.state_dict().items()}
    rng = np.random.default_rng(0)
    shapes = {"x": (2, 3, 2), "h_0": (2 * layers, 2, 3), "c_0": (2 * layers, 2, 3)}
    shapes |= {"output": (2, 3, 6), "h_n": shapes["h_0"], "c_n": shapes["c_0"]}
    drawn = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
    inputs = {name: drawn.pop(name) for name in ("x", "h_0", "c_0")}
    kind = type("Mistaken", (Changed,), {
        name: staticmethod(f) for name, f in mistake.items() if name != "implementation"
    })  # fmt: skip
    with jax.numpy_rank_promotion("allow"):
        port = kind(2, 3, num_layers=layers, bidirectional=True, rngs=nnx.Rngs(0))
        port.implementation = mistake.get("implementation")
        fb.load_state_dict(port, reference.state_dict())
        stages = Stages(reference, port, rows(port)).all()
        inner = truth(held, inputs, drawn)
        place = Place(check="forward", dtype="float64")
        wrong = first_wrong(stages, inner, held, place)
        wrong = wrong or first_wrong(stages, inner, held, replace(place, check="gradients"))
        found = (words for one in reversed(wrong) if (words := match.of_lstm_stage(one)[0]))
    return words_of(next(found))


@pytest.mark.parametrize("words", IN_LSTMS)
def test_a_mistake_in_an_lstm_is_named(words):
    assert lstm_words(IN_LSTMS[words]) == words


ORDER = "directions come before layers"


def test_the_order_of_two_layers_states_is_named():
    mistake = {"change": lambda y, h, c: (y, h[jnp.array([0, 2, 1, 3])], c)}
    assert lstm_words(mistake, layers=2) == ORDER


def test_the_weights_of_the_other_direction_are_named():
    held = loud_lstm().state_dict()
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")

    def run(weights, x, *rest):
        reverse = (jnp.asarray(held[f"{name}_l0_reverse"].numpy().T, x.dtype) for name in names)
        return weighing()["implementation"](Weights(*reverse, None), x, *rest)

    assert lstm_words({"implementation": run}) == OTHER_DIRECTION


OTHER_DIRECTION = "the reverse direction's weights are used"
