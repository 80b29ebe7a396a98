"""A NaN or an infinity reaches what it reaches in PyTorch, and nothing else."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import flax_bilstm as fb
from flax_bilstm.recurrence import IMPLEMENTATIONS

torch = pytest.importorskip("torch")

TIME, INPUTS, HIDDEN = 3, 3, 3
LENGTHS = np.array([1, 3])

PLACES = {  # the first sequence is the one that is padded
    "its c_0": ("c_0", (0, 0, 0)),
    "its reverse h_0": ("h_0", (1, 0, 1)),
    "the other's c_0": ("c_0", (0, 1, 0)),
    "its x": ("x", (0, 0, 1)),
    "weight_ih": ("weight_ih_l0", (1, 2)),
    "weight_hh": ("weight_hh_l0_reverse", (7, 0)),
    "bias": ("bias_hh_l0", (4,)),
    "the projection": ("weight_hr_l0", (0, 1)),
}


OURS = {
    "weight_ih": "kernel_ih",
    "weight_hh": "kernel_hh",
    "weight_hr": "kernel_hr",
    "bias_hh_l": "bias_hh",
}  # by the first nine letters of torch's names


def make(weights, implementation, **options):
    """With the weights among the arrays of a torch LSTM."""
    lstm = fb.LSTM(
        INPUTS, HIDDEN, bidirectional=True, param_dtype=jnp.float64,
        implementation=implementation, rngs=nnx.Rngs(0), **options,
    )  # fmt: skip
    fb.load_state_dict(lstm, {name: w for name, w in weights.items() if name[:2] in ("we", "bi")})
    return lstm


def theirs(lstm, arrays):
    """Results and gradients of PyTorch, the sequences packed."""
    x, h_0, c_0 = (torch.tensor(arrays[name], requires_grad=True) for name in ("x", "h_0", "c_0"))
    packed = torch.nn.utils.rnn.pack_padded_sequence(x, LENGTHS, True, enforce_sorted=False)
    outputs, (h_n, c_n) = lstm(packed, (h_0, c_0))
    outputs, _ = torch.nn.utils.rnn.pad_packed_sequence(outputs, True, total_length=TIME)
    ((outputs**2).sum() + (h_n**2).sum() + (c_n**2).sum()).backward()
    gradients = {name: parameter.grad for name, parameter in lstm.named_parameters()}
    gradients |= {"x": x.grad, "h_0": h_0.grad, "c_0": c_0.grad}
    results = {"outputs": outputs, "h_n": h_n, "c_n": c_n}
    return results | {f"d {name}": value for name, value in gradients.items()}


@nnx.jit
def ours(lstm, x, state):
    def loss(lstm, x, state):
        outputs, (h_n, c_n) = lstm(x, state, jnp.asarray(LENGTHS))
        value = jnp.sum(outputs**2) + jnp.sum(h_n**2) + jnp.sum(c_n**2)
        return value, {"outputs": outputs, "h_n": h_n, "c_n": c_n}

    return nnx.grad(loss, argnums=(0, 1, 2), has_aux=True)(lstm, x, state)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("projected", [False, True])
def test_the_same_elements_are_finite_as_in_pytorch(under_torch_names, implementation, projected):
    options = {"proj_size": 2} if projected else {}
    rng = np.random.default_rng(0)
    reference = torch.nn.LSTM(
        INPUTS, HIDDEN, bidirectional=True, batch_first=True, dtype=torch.float64, **options
    )
    finite = {name: value.detach().numpy() for name, value in reference.named_parameters()}
    finite |= {
        "x": rng.normal(size=(2, TIME, INPUTS)),
        "h_0": rng.normal(size=(2, 2, 2 if projected else HIDDEN)),
        "c_0": rng.normal(size=(2, 2, HIDDEN)),
    }
    for place, (name, index) in PLACES.items():
        if name not in finite:
            continue
        for planted in (np.nan, np.inf, -np.inf):
            arrays = {key: value.copy() for key, value in finite.items()}
            arrays[name][index] = planted
            for key, parameter in reference.named_parameters():
                parameter.data = torch.tensor(arrays[key])
            reference.zero_grad()
            expected = theirs(reference, arrays)
            lstm = make(finite, implementation, **options)
            if name.startswith(("weight", "bias")):  # loading would refuse it
                cells = list(lstm.layers[0].cells)
                parameter = getattr(cells[name.endswith("reverse")], OURS[name[:9]])
                parameter[...] = parameter[...].at[index[::-1]].set(planted)
            (d_lstm, d_x, d_state), actual = ours(lstm, arrays["x"], (arrays["h_0"], arrays["c_0"]))
            gradients = under_torch_names(lstm, d_lstm)
            gradients |= {"x": d_x, "h_0": d_state[0], "c_0": d_state[1]}
            actual |= {f"d {key}": value for key, value in gradients.items()}
            assert actual.keys() == expected.keys()
            for key, value in expected.items():
                np.testing.assert_array_equal(
                    np.isfinite(actual[key]),
                    torch.isfinite(value).numpy(),
                    f"where {key} is finite, with {planted} in {place}",
                )
