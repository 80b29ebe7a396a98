"""Batches padded on either side, by `mask=`: each sequence gives what PyTorch gives it alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import flax_bilstm as fb
from flax_bilstm import padding
from flax_bilstm.cli.artifact import Program
from flax_bilstm.cli.examples import examples, largest_difference
from flax_bilstm.recurrence import IMPLEMENTATIONS

torch = pytest.importorskip("torch")

import torch_ref

TIME, INPUTS, HIDDEN, CELLS = 5, 3, 4, 4
LENGTHS, LEFT = np.array([5, 1, 3, 2]), np.array([False, True, True, False])
BATCH = len(LENGTHS)
POSITION = np.arange(TIME)
MASK = np.where(
    LEFT[:, None], TIME - LENGTHS[:, None] <= POSITION, LENGTHS[:, None] > POSITION
)  # one sequence without padding, two padded at the beginning, one at the end
MASKS = {"left and right": MASK, "right": LENGTHS[:, None] > POSITION}


def draw(seed=0):
    rng = np.random.default_rng(seed)
    states = [rng.standard_normal((CELLS, BATCH, size)) for size in (2, HIDDEN)]
    return rng.standard_normal((BATCH, TIME, INPUTS)), tuple(states)


def torch_lstm():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return torch.nn.LSTM(
            INPUTS, HIDDEN, 2, bidirectional=True, proj_size=2, batch_first=True
        ).double()


def alone(theirs, x, state, mask):
    """PyTorch on each sequence without its padding: values, and gradients of a sum of squares."""
    x, state = torch.tensor(x, requires_grad=True), tuple(map(torch.tensor, state))
    outputs, finals = torch.zeros(BATCH, TIME, 4, dtype=torch.float64), []
    for i in range(BATCH):
        one = slice(i, i + 1)
        y, final = theirs(x[one, mask[i]], tuple(each[:, one].contiguous() for each in state))
        outputs[i, mask[i]] = y[0]
        finals.append(final)
    h_n, c_n = (torch.cat(each, dim=1) for each in zip(*finals, strict=True))
    values = {"outputs": outputs, "h_n": h_n, "c_n": c_n}
    weight = torch.arange(1.0, 1 + TIME)[None, :, None]  # steps are not exchangeable
    ((weight * outputs**2).sum() + (h_n**2).sum() + (c_n**2).sum()).backward()
    gradients = {name: p.grad for name, p in theirs.named_parameters()}
    return {n: a.detach().numpy() for n, a in (values | gradients | {"x": x.grad}).items()}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("implementation", "where", "traced"),
    [(name, "left and right", True) for name in IMPLEMENTATIONS]
    + [("native", "left and right", False), ("native", "right", False)],
)
def test_each_sequence_gives_what_torch_gives_it_alone(
    assert_close, under_torch_names, implementation, where, traced
):
    theirs, (x, state), mask = torch_lstm(), draw(), MASKS[where]
    model = fb.LSTM(
        INPUTS, HIDDEN, num_layers=2, bidirectional=True, proj_size=2,
        implementation=implementation, param_dtype="float64", rngs=nnx.Rngs(0),
    )  # fmt: skip
    fb.load_state_dict(model, theirs.state_dict())
    graph, parameters = nnx.split(model)

    def run(parameters, x, mask):
        def loss(parameters, x):
            outputs, (h_n, c_n) = nnx.merge(graph, parameters)(x, state, mask=mask)
            weight = jnp.arange(1.0, 1 + TIME)[None, :, None]
            total = (weight * outputs**2).sum() + (h_n**2).sum() + (c_n**2).sum()
            return total, {"outputs": outputs, "h_n": h_n, "c_n": c_n}

        return jax.grad(loss, argnums=(0, 1), has_aux=True)(parameters, x)

    filled = np.where(mask[:, :, None], x, np.nan)  # the padding has no effect
    if traced:
        (slopes, d_x), values = jax.jit(run)(parameters, filled, mask)
    else:
        (slopes, d_x), values = jax.jit(lambda *args: run(*args, mask))(parameters, filled)
    actual = values | under_torch_names(model, slopes) | {"x": d_x}
    assert_close(actual, alone(theirs, x, state, mask), 1e-13)


@pytest.mark.usefixtures("x64")
def test_the_network_and_its_attention():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs = torch_ref.BiLSTMWithAttention(INPUTS, HIDDEN, 2).double()
    model, x = fb.from_state_dict(theirs.state_dict()), draw()[0]

    @nnx.jit
    def run(model, x, mask):
        y, _ = model.lstm(x, mask=mask)
        attended = model.attention(y, mask=mask, return_weights=True)
        return y, attended, model(x, mask=mask, return_attention=True)

    y, (contexts, weights), (outputs, last) = jax.tree.map(np.asarray, run(model, x, MASK))
    for i, steps in enumerate(MASK):
        alone = torch.tensor(y[i, steps])
        own = (alone @ alone.T).softmax(-1)
        pairs = [
            (outputs[i], theirs(torch.tensor(x[i : i + 1, steps])).detach()[0]),
            (weights[i][steps][:, steps], own),
            (contexts[i, steps], own @ alone),
            (last[i, steps], own[-1]),
        ]
        for actual, expected in pairs:
            np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-13)
        padding = (weights[i][~steps], weights[i][:, ~steps], contexts[i, ~steps], last[i, ~steps])
        assert not any(each.any() for each in padding)


def small(**options):
    return fb.LSTM(INPUTS, HIDDEN, bidirectional=True, **options, rngs=nnx.Rngs(0))


@pytest.mark.usefixtures("quickly_compiled")
def test_time_major_and_integers(assert_identical):
    x = draw()[0].astype("f4")
    expected, final = jax.jit(lambda x: small()(x, mask=MASK))(x)
    turned = small(time_major=True)
    outputs, same = jax.jit(lambda x: turned(x, mask=MASK.astype("i8")))(jnp.swapaxes(x, 0, 1))
    assert_identical((jnp.swapaxes(outputs, 0, 1), same), (expected, final))


def test_known_masks_of_padding_at_the_end_are_lengths():
    for mask in (MASKS["right"], torch.tensor(MASKS["right"])):
        found = padding.spans(None, mask, BATCH, TIME)
        np.testing.assert_array_equal(found.lengths, LENGTHS)
        assert found.start is None  # nothing is shifted


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([0, 1, 1, 1, 0], r"mask: .* got 01110 in row 2 \(1 of 4 rows are wrong\)"),
        ([1, 0, 1, 1, 1], r"mask: expected in each row ones and then zeros .* got 10111 in row 2"),
        ([0, 0, 0, 0, 0], r"mask: .* got 00000 in row 2"),
        ([0, 0, 0, 2, 1], r"mask: .* got integers other than 0 and 1"),
    ],
)
def test_a_row_that_is_neither_is_refused(row, message):
    mask = MASK.astype(int)
    mask[2] = row
    with pytest.raises(ValueError, match=message):
        padding.spans(None, mask, BATCH, TIME)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mask": MASK[:, :-1]}, r"mask: .* \(batch, time\) = \(4, 5\), .* \(4, 4\)"),
        ({"mask": MASK.astype("f4")}, r"mask: expected booleans .* dtype float32"),
        ({"mask": MASK, "lengths": LENGTHS}, r"mask: expected None beside lengths"),
        ({"mask": "left"}, r"mask: expected booleans .* got shape \(\) and dtype"),
    ],
)  # fmt: skip
def test_other_masks_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        small()(draw()[0].astype("f4"), **options)


def test_no_mask_beside_an_unbatched_sequence():
    with pytest.raises(ValueError, match="mask: expected None with an unbatched x"):
        small()(draw()[0][0].astype("f4"), mask=MASK[0])


@pytest.mark.usefixtures("quickly_compiled")
def test_under_jit_holes_give_nan_and_an_empty_row_an_empty_sequence():
    mask = MASK.copy()
    mask[1], mask[2] = False, [True, False, True, True, True]
    run = jax.jit(lambda x, mask: small()(x, mask=mask))
    outputs, (h_n, _) = run(draw()[0].astype("f4"), mask)
    assert np.isnan(outputs[2]).any()
    assert np.isnan(h_n[:, 2]).all()
    assert not outputs[1].any()
    assert not h_n[:, 1].any()
    assert np.isfinite(outputs[jnp.array([0, 3])]).all()


@pytest.mark.usefixtures("quickly_compiled")
def test_in_linen():
    model, x = fb.linen.LSTM(INPUTS, HIDDEN), draw()[0].astype("f4")
    variables = model.init(jax.random.key(0), x)
    outputs, _ = jax.jit(model.apply)(variables, x, mask=MASK)
    expected, _ = nnx.jit(lambda model, x, mask: model(x, mask=mask))(
        fb.linen.to_module(model, variables), x, MASK
    )
    np.testing.assert_array_equal(outputs, expected)


def test_exported():
    pytest.importorskip("flatbuffers")
    model = fb.LSTM(INPUTS, HIDDEN, rngs=nnx.Rngs(0))
    exported = fb.export(model, mask=True)
    assert exported.in_avals[1].str_short() == "bool[batch,time]"
    loaded = jax.export.deserialize(exported.serialize())
    assert largest_difference(Program(loaded, []), examples(model, "mask")) < 5e-7
    with pytest.raises(ValueError, match="mask: expected False beside lengths"):
        fb.export(model, lengths=True, mask=True)
