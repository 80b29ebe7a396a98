"""Every known mistake is asked for, by its words: by a fault of the self-test or by a test here.

The candidates here are written in JAX from scratch, on sizes at which no two mistakes look alike.
"""

import re
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

torch = pytest.importorskip("torch")

from flax import nnx

import flax_bilstm as fb
import parity
from flax_bilstm.conversion.rows import rows
from flax_bilstm.recurrence.equations import State, Weights
from parity.diagnosis import match
from parity.diagnosis.lstm.reference import Cell
from parity.diagnosis.lstm.stages import Stages
from parity.diagnosis.lstm.truth import truth
from parity.diagnosis.mistakes import arrays, cell, functions, sequence, update
from parity.diagnosis.stages import first_wrong
from parity.place import Place
from parity.selftest import pieces
from parity.selftest.faults import FAULTS
from parity.sides.optimizers import ADAM, ADAMW, MOMENTUM

FAMILIES = {
    r"(every|is) -?[\d.]+ (steps|times|more)": r"\1 n \2",
    r"through the \w+ gate": "through a gate",
    r"^it holds (?!the sum)\S+": "it holds another",
    r"in the order .*": "in another order",
    r"^(\w+) and (\w+) gates are": "two gates are",
    r"bfloat16|TF32, or float16|float32": "a lower precision",
    r"^[\w.]+ is applied to the keys, though.*": "a layer is applied to the keys",
}
"""Mistakes that differ in a number or a name only: one of each is asked for."""


def family(words):
    for pattern, one in FAMILIES.items():
        words = re.sub(pattern, one, words)
    return words


class Attends(torch.nn.Module):
    """Embedding, attention of a sequence with itself, residual, norm, SiLU layer; last and mean."""

    def __init__(self):
        super().__init__()
        self.embedding = torch.nn.Embedding(7, 4)
        self.norm = torch.nn.LayerNorm(4, eps=1e-2)
        self.hidden = torch.nn.Linear(4, 5)
        torch.nn.init.normal_(self.norm.weight)
        torch.nn.init.normal_(self.norm.bias)

    def forward(self, tokens):
        x = self.embedding(tokens)
        y = self.norm(x + torch.softmax(x @ x.mT, dim=-1) @ x)
        y = torch.nn.functional.silu(self.hidden(y))
        return torch.cat([y[:, -1], y.mean(1)], dim=-1)


def attends(
    w,
    tokens,
    embed=lambda x: x,
    operand=lambda x: x,
    query=lambda x: x,
    key=lambda x: x,
    scale=lambda s: s,
    weigh=lambda s: jax.nn.softmax(s, axis=-1),
    add=lambda x, y: x + y,
    eps=1e-2,
    shift=1,
    enter=lambda y: y,
    bias=1,
    leave=lambda z: z,
    act=jax.nn.silu,
    last=lambda y: y[:, -1],
    mean=lambda y: y.mean(1),
    join=lambda last, mean: jnp.concatenate([last, mean], axis=-1),
):
    """`Attends` in JAX, with an argument for each mistake."""
    x = embed(w["embedding.weight"][tokens])
    scores = jnp.einsum("bqf,bkf->bqk", operand(query(x)), operand(key(x)))
    y = add(x, operand(weigh(scale(scores))) @ operand(x))
    y = y - y.mean(-1, keepdims=True)
    y = y / jnp.sqrt((y**2).mean(-1, keepdims=True) + eps)
    y = y * w["norm.weight"] + shift * w["norm.bias"]
    y = act(leave(enter(y) @ w["hidden.weight"].T + bias * w["hidden.bias"]))
    return join(last(y), mean(y))


def float32(values):
    return values.astype(jnp.float32).astype(values.dtype)


@jax.custom_vjp
def float32_backwards(values):
    return values


float32_backwards.defvjp(lambda values: (values, None), lambda _, slope: (float32(slope),))

IN_FUNCTIONS = {
    "the embedding is multiplied by √d": {"embed": lambda x: 2 * x},
    "products between layers are computed in float32": {"operand": float32},
    "scores are 1/d of what they should be": {"scale": lambda s: s / 4},
    "scores are 1/√d of what they should be, d half of those features": {
        "scale": lambda s: s / 2**0.5
    },
    "the softmax is taken twice": {"weigh": lambda s: jax.nn.softmax(jax.nn.softmax(s))},
    "later steps are masked after the softmax, so that the weights do not add up to 1": {
        "weigh": lambda s: jax.nn.softmax(s) * jnp.tril(jnp.ones(s.shape[-2:]))[None]
    },
    "the second term of a sum is missing": {"add": lambda x, y: x},
    "the epsilon is 1e-05, PyTorch's default": {"eps": 1e-5},
    "the epsilon is 0.001, Keras's default": {"eps": 1e-3},
    "the norm's bias is missing": {"shift": 0},
    "the bias is added twice": {"bias": 2},
    "sigmoid is applied to the output": {"leave": jax.nn.sigmoid},
    "tanh is applied to the output": {"leave": jnp.tanh},
    "relu is applied to the output": {"leave": jax.nn.relu},
    "the activation is gelu (exact)": {"act": lambda z: jax.nn.gelu(z, approximate=False)},
    "the activation is sigmoid": {"act": jax.nn.sigmoid},
    "the activation is tanh": {"act": jnp.tanh},
    "the activation is elu": {"act": jax.nn.elu},
    "the activation is softplus": {"act": jax.nn.softplus},
    "the activation is mish": {"act": jax.nn.mish},
    "the activation is x σ(1.702 x), a fast GELU": {"act": lambda z: z * jax.nn.sigmoid(1.702 * z)},
    "the activation is taken twice": {"act": lambda z: jax.nn.silu(jax.nn.silu(z))},
    "the step before the last is read, not the last": {"last": lambda y: y[:, -2]},
    "the sum of all steps is read, not the last": {"last": lambda y: y.sum(1)},
    "the largest of all steps is read, not the last": {"last": lambda y: y.max(1)},
    "the mean over an axis is its first step": {"mean": lambda y: y[:, 0]},
    "what is put together is in the other order": {
        "join": lambda last, mean: jnp.concatenate([mean, last], axis=-1)
    },
    "no gradient flows into the keys": {"key": jax.lax.stop_gradient},
    "no gradient flows into the queries": {"query": jax.lax.stop_gradient},
    "no gradient flows into the layer's input": {"enter": jax.lax.stop_gradient},
    "the layer's gradient is rounded to float32": {"leave": float32_backwards},
}


def words_of(note):
    """The diagnosis in a note, without the place and the size of the error."""
    note = re.sub(r"^(layer|the gradient that|no gradient arrives) [^:]*: ", "", note)
    return note.partition(";")[0].partition(" (matches")[0]


@pytest.mark.parametrize("words", IN_FUNCTIONS)
def test_a_mistake_in_a_network_is_named(words):
    torch.manual_seed(0)
    x = np.array([[0, 3, 6], [2, 2, 5]])
    with jax.disable_jit(), jax.numpy_rank_promotion("allow"):
        report = parity.check(
            Attends(),
            lambda w, x: attends(w, x, **IN_FUNCTIONS[words]),
            x,
            dtypes=["float64"],
            training_steps=0,
        )
    assert words_of(report.first_divergence.note) == words


def halves(mix):
    return lambda y: jnp.hstack(mix(*jnp.split(y, 2, axis=-1)))


IN_OUTPUTS = {
    "its second axis is one place late": lambda y: jnp.roll(y, 1, axis=1),
    "its second axis is one place early": lambda y: jnp.roll(y, -1, axis=1),
    "the halves of its last axis are swapped": halves(lambda a, b: (b, a)),
    "the first half of its last axis stands in both places": halves(lambda a, b: (a, a)),
    "the second half of its last axis stands in both places": halves(lambda a, b: (b, b)),
    "both halves of its last axis are their sum": halves(lambda a, b: (a + b, a + b)),
    "both halves of its last axis are their mean": halves(lambda a, b: ((a + b) / 2,) * 2),
    "it is 0.5 more everywhere": lambda y: y + 0.5,
}


@pytest.mark.parametrize("words", IN_OUTPUTS)
def test_a_mistake_in_any_output_is_named(words):
    torch.manual_seed(0)
    x = np.random.default_rng(0).standard_normal((2, 3), dtype=np.float32)
    with jax.disable_jit():
        report = parity.check(
            torch.nn.Linear(3, 4),
            lambda w, x: IN_OUTPUTS[words](x @ w["weight"].T + w["bias"][None]),
            x,
            dtypes=["float64"],
            training_steps=0,
        )
    assert words_of(report.first_divergence.note) == words


def dampened(rate):
    """torch's SGD with momentum 0.9 and dampening 0.9: the first gradient enters whole."""

    def update(gradients, state, parameters=None):
        first, (trace,) = state
        enters = jnp.where(first, 1.0, 0.1)
        trace = jax.tree.map(lambda b, g: 0.9 * b + enters * g, trace, gradients)
        steps = jax.tree.map(lambda b: -rate * b, trace)
        return steps, (jnp.zeros_like(first), optax.TraceState(trace))

    def init(parameters):
        return jnp.ones((), bool), optax.trace(0.9).init(parameters)

    return optax.GradientTransformation(init, update)


def one_ahead(rate):
    """Adam that corrects the first step's moments as if it were the second."""
    adam = optax.adam(rate)

    def init(parameters):
        first, *rest = adam.init(parameters)
        return (first._replace(count=first.count + 1), *rest)

    return optax.GradientTransformation(init, adam.update)


IN_UPDATES = {
    "the weight decay is 1e-2, PyTorch's default for AdamW": (
        replace(ADAMW, torch=lambda p: torch.optim.AdamW(p, lr=1e-3, weight_decay=0.1)),
        optax.adamw(1e-3, weight_decay=1e-2),
    ),
    "the weight decay leaves out parameters of one axis, as biases and norms": (
        ADAMW,
        optax.adamw(
            1e-3, weight_decay=1e-2, mask=lambda p: jax.tree.map(lambda a: a.ndim > 1, p)
        ),
    ),
    "the weight decay is not multiplied by the learning rate": (
        ADAMW,
        optax.chain(
            optax.scale_by_adam(), optax.scale(-1e-3), optax.add_decayed_weights(-1e-2)
        ),
    ),
    "each gradient is clipped to ±1": (
        MOMENTUM, optax.chain(optax.clip(1), optax.sgd(0.01, momentum=0.9)),
    ),
    "eps is 1e-6": (ADAM, optax.adam(1e-3, eps=1e-6)),
    "eps is 0": (ADAM, optax.adam(1e-3, eps=0.0)),
    "beta 2 is 0.95": (ADAM, optax.adam(1e-3, b2=0.95)),
    "the betas are exchanged": (ADAM, optax.adam(1e-3, b1=0.999, b2=0.9)),
    "there is no momentum": (MOMENTUM, optax.sgd(0.01)),
    "the momentum is 0.99": (MOMENTUM, optax.sgd(0.01, momentum=0.99)),
    "the largest corrected second moment is kept (optax.amsgrad)": (ADAM, optax.amsgrad(1e-3)),
    "the gradients are ascended": (ADAM, optax.chain(optax.scale(-1), optax.adam(1e-3))),
    "the momentum is dampened, from its second step on": (MOMENTUM, dampened(0.01)),
    "the count of steps is one ahead": (ADAM, one_ahead(1e-3)),
    "gradients are clipped to a norm of 1": (
        MOMENTUM, optax.chain(optax.clip_by_global_norm(1), optax.sgd(0.01, momentum=0.9)),
    ),
}  # fmt: skip


@pytest.mark.parametrize("words", IN_UPDATES)
def test_a_mistake_in_an_optimizer_is_named(words):
    torch.manual_seed(0)
    optimizer, mistaken = IN_UPDATES[words]
    x = np.random.default_rng(0).standard_normal((2, 3), dtype=np.float32)
    with jax.disable_jit(), jax.numpy_dtype_promotion("standard"):
        report = parity.check(
            torch.nn.Linear(3, 2),
            lambda w, x: x @ w["weight"].T + w["bias"][None],
            3 * x,
            dtypes=["float64"],
            training_steps=3,
            optimizers=[replace(optimizer, optax=mistaken)],
        )
    note = report.first_divergence.note
    assert note.rpartition("; ")[2].partition(" (matches")[0] == words, note


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
        return Weights(float32(weights[0]), float32(weights[1]), *weights[2:])

    right = stepping(read=float32, between=lambda n, s: State(float32(s.hidden), s.cell))

    def run(weights, *rest):
        outputs, final = right["implementation"](low(weights), *rest)
        return float32(outputs), State(float32(final.hidden), final.cell)

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
    shapes = {"x": (2, 4, 2), "h_0": (2 * layers, 2, 3), "c_0": (2 * layers, 2, 3)}
    shapes |= {"output": (2, 4, 6), "h_n": shapes["h_0"], "c_n": shapes["c_0"]}
    drawn = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
    inputs = {name: drawn.pop(name) for name in ("x", "h_0", "c_0")}
    kind = type("Mistaken", (Changed,), {
        name: staticmethod(f) for name, f in mistake.items() if name != "implementation"
    })  # fmt: skip
    with jax.disable_jit(), jax.numpy_rank_promotion("allow"):
        port = kind(2, 3, num_layers=layers, bidirectional=True, rngs=nnx.Rngs(0))
        port.implementation = mistake.get("implementation")
        fb.load_state_dict(port, reference.state_dict())
        stages = Stages(reference, port, rows(port)).all()
        inner = truth(held, inputs, drawn)
        place = Place(check="forward", dtype="float64")
        wrong = first_wrong(stages, inner, held, place)
        wrong = wrong or first_wrong(stages, inner, held, replace(place, check="gradients"))
        found = [words for one in reversed(wrong) if (words := match.of_lstm_stage(one)[0])]
    return words_of(found[0]) if found else None


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

RNG = np.random.default_rng(0)
HELD = {name: RNG.standard_normal(8) for name in ("bias_ih", "bias_hh")}
IN_PARAMETERS = {
    "it is doubled": 2 * HELD["bias_hh"],
    "it holds bias_ih": HELD["bias_ih"],
    "its sign is turned": -HELD["bias_hh"],
    "it is in reverse order": HELD["bias_hh"][::-1],
    "it holds the sum of both biases: bias_ih is folded into it": sum(HELD.values()),
    "output and input gates are exchanged": HELD["bias_hh"][[6, 7, 2, 3, 4, 5, 0, 1]],
}


@pytest.mark.parametrize("words", IN_PARAMETERS)
def test_a_mistake_in_a_parameter_is_named(words):
    found = match.of_parameter("bias_hh", HELD, {"bias_hh": IN_PARAMETERS[words]})
    assert family(found) == family(words)


def known():
    """Every known mistake: whether it is one of parameters, and its words."""
    lstm, model = Cell(0, 0, "forward"), Attends()
    square = {name: np.eye(4) for name in ("bias_ih", "bias_hh")}
    in_code = [
        *cell.of_step(lstm), *sequence.of_direction(lstm), *sequence.of_output(["f", "r"]),
        *sequence.of_states(["f", "r"], 3, True), *sequence.of_states(["f", "r"], 3, False),
        *functions.of_stage(model), *update.of_update(ADAM.torch),
        *(relation(np.eye(2), np.eye(2)) for relation in arrays.RELATIONS),
    ]  # fmt: skip
    for words, *_ in in_code:
        yield False, family(words)
    for name in square:
        for words, _ in arrays.of_parameter(name, square):
            yield True, family(words)


def test_every_known_mistake_is_asked_for():
    here = [*IN_FUNCTIONS, *IN_OUTPUTS, *IN_UPDATES, *IN_LSTMS, ORDER, OTHER_DIRECTION]
    asked = {(False, family(words)) for words in here}
    asked |= {(True, family(words)) for words in IN_PARAMETERS}
    asked |= {(fault.shows == "parameters", family(fault.says)) for fault in FAULTS}
    missing = [words for of, words in dict.fromkeys(known()) if (of, words) not in asked]
    assert missing == []


def test_no_two_known_mistakes_have_the_same_words():
    """Apart from the norms, whose mistakes are alike."""
    words = [words for words, _ in functions.of_stage(Attends()) if "norm" not in words]
    words = [w for w in words if "epsilon" not in w]
    words += [words for words, *_ in cell.of_step(Cell(0, 0, "forward"))]
    words += [words for words, *_ in sequence.of_direction(Cell(0, 0, "forward"))]
    assert [w for w in words if words.count(w) > 1] == []
