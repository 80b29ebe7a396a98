"""The questions for every library, each answered by running it.

Numbers count as equal where they agree with torch.nn.LSTM in float64 to 1e-12 of the largest
element.
"""

from collections.abc import Callable, Iterable
from typing import Any

import jax.numpy as jnp
import numpy as np

from tools.comparison.libraries.library import LacksError, Library
from tools.comparison.libraries.pytorch import Torch

BATCH, TIME, FEATURES, HIDDEN = 3, 5, 2, 4
LENGTHS = np.array([5, 2, 3])
TOLERANCE = 1e-12
YES, NO = "yes", "–"
TRUTH = Torch()


def random(*shape: int, seed: int = 0) -> np.ndarray:
    """Float64 normal numbers."""
    return np.random.default_rng(seed).normal(size=shape)


def weights(layers: int = 1, bidirectional: bool = False, proj_size: int = 0) -> dict[str, Any]:
    """A state dict of torch.nn.LSTM, in float64."""
    import torch

    torch.manual_seed(0)
    lstm = torch.nn.LSTM(
        FEATURES,
        HIDDEN,
        layers,
        bidirectional=bidirectional,
        proj_size=proj_size,
        dtype=torch.float64,
    )
    return {name: tensor.numpy() for name, tensor in lstm.state_dict().items()}


X = random(BATCH, TIME, FEATURES)


def arrays(outcome: Any) -> list[np.ndarray]:
    """(outputs, (h_n, c_n)) as NumPy arrays."""
    outputs, (h_n, c_n) = outcome
    results = outputs, h_n, c_n
    return [np.asarray(a.detach() if hasattr(a, "detach") else a) for a in results]


def close(got: Iterable[Any], expected: Iterable[Any]) -> bool:
    """Whether all values are finite and agree to TOLERANCE of the expected array's largest one."""
    return all(
        g.shape == e.shape and np.isfinite(g).all() and abs(g - e).max() <= TOLERANCE * abs(e).max()
        for g, e in zip(got, expected, strict=True)
    )


def same(
    library: Library, x: np.ndarray = X, *, of: dict[str, Any] | None = None, **options: Any
) -> bool:
    """Whether outputs and both final states are torch's."""
    given = weights() if of is None else of
    got = library.apply(library.params(given), x, **options)
    return close(arrays(got), arrays(TRUTH.apply(TRUTH.params(given), x, **options)))


def ragged(library: Library, padding: float, of: dict[str, Any]) -> list[np.ndarray]:
    """Outputs of a padded batch on each sequence's valid steps, and the final states."""
    x = X.copy()
    for sequence, length in zip(x, LENGTHS, strict=True):
        sequence[length:] = padding
    return [x, *arrays(library.apply(library.params(of), x, lengths=LENGTHS))]


def each_alone(library: Library, padding: float = 0.0, bidirectional: bool = False) -> bool:
    """Whether a padded batch gives each sequence the result that torch gives it alone, unpadded."""
    of = weights(bidirectional=bidirectional)
    x, outputs, *finals = ragged(library, padding, of)
    lstm = TRUTH.params(of)
    for i, length in enumerate(LENGTHS):
        expected = arrays(TRUTH.apply(lstm, x[i : i + 1, :length]))
        got = [outputs[i : i + 1, :length], *(final[:, i : i + 1] for final in finals)]
        if not close(got, expected):
            return False
    return True


def zeros_in_padding(library: Library) -> bool:
    """Whether the padded outputs are exactly 0."""
    _, outputs, *_ = ragged(library, 0.0, weights())
    return all((row[length:] == 0).all() for row, length in zip(outputs, LENGTHS, strict=True))


def nan_in_padding(library: Library) -> str:
    """What is affected by NaN in the padding, if anything."""
    if not each_alone(library, np.nan):
        return "reaches the outputs"
    of, x = weights(), ragged(library, np.nan, weights())[0]
    gradient = library.gradient(of, x, lengths=LENGTHS)
    expected = TRUTH.gradient(of, np.nan_to_num(x), lengths=LENGTHS)
    return YES if close([gradient], [expected]) else "reaches the gradient"


def biases(library: Library) -> str:
    """How many bias vectors there are."""
    return str(sum(np.shape(leaf) == (4 * HIDDEN,) for leaf in library.initial(FEATURES, HIDDEN)))


def gate_order(library: Library) -> str:
    """The order under which torch's weights, reordered by the adapter, give torch's numbers."""
    assert same(library), f"{library.package}: gates are not in the order {library.gates}"
    return " ".join(library.gates)


def torch_initial(library: Library) -> bool:
    """Whether every parameter starts uniform in ±1/√hidden, as far as 256 hidden units show."""
    drawn = [np.asarray(leaf).ravel() * 256**0.5 for leaf in library.initial(256, 256)]
    quantiles = np.linspace(0, 1, 5)
    return all(abs(np.quantile(d, quantiles) - (2 * quantiles - 1)).max() < 0.2 for d in drawn)


def trains_alike(library: Library) -> bool:
    """Whether the outputs after one step of gradient descent are torch's."""
    return close([library.trained(weights(), X, 0.01)], [TRUTH.trained(weights(), X, 0.01)])


def tangent(library: Library) -> bool:
    """Whether forward-mode AD works, in float32, and agrees with float64's."""
    low = {name: array.astype(np.float32) for name, array in weights().items()}
    try:
        got = library.tangent(low, X.astype(np.float32))
    except (NotImplementedError, RuntimeError, TypeError):
        return False
    return bool(np.allclose(got, TRUTH.tangent(weights(), X), rtol=1e-4, atol=1e-5))


def half(library: Library) -> str:
    """The dtypes of outputs and cell state when bfloat16 is requested."""
    low = {name: array.astype(np.float32) for name, array in weights().items()}
    x: Any = jnp.asarray(X, jnp.bfloat16)
    if library.package == "torch":
        x = np.asarray(x, np.float32)
    outputs, (_, c_n) = library.apply(library.params(low, "bfloat16"), x)
    return ", ".join(str(array.dtype).removeprefix("torch.") for array in (outputs, c_n))


def precision(library: Library) -> str:
    """Whether float64 is float64 throughout, or otherwise how far the outputs are off."""
    shipped, given = library.as_shipped(), weights()
    got, *_ = arrays(shipped.apply(shipped.params(given), X))
    truth, *_ = arrays(TRUTH.apply(TRUTH.params(given), X))
    return YES if close([got], [truth]) else f"{abs(got - truth).max():.0e} off"


def state(of: dict[str, Any], rows: int) -> tuple[np.ndarray, np.ndarray]:
    """(h_0, c_0) with `rows` = layers·directions."""
    out = of["weight_hh_l0"].shape[1]
    return random(rows, BATCH, out, seed=1), random(rows, BATCH, HIDDEN, seed=2)


Probe = Callable[[Library], Any]
PROBES: dict[str, Probe] = {
    "bias vectors": biases,
    "gate order": gate_order,
    "forward equal to PyTorch's, from its weights": same,
    "still equal after a step of gradient descent": trains_alike,
    "PyTorch's initial distribution": torch_initial,
    "takes a PyTorch state dict": lambda lib: lib.reads_state_dicts(),
    "initial state in, final state out": lambda lib: same(lib, initial_state=state(weights(), 1)),
    "layers": lambda lib: same(lib, of=weights(2)),
    "dropout between layers": lambda lib: lib.dropout(),
    "bidirectional": lambda lib: same(lib, of=weights(bidirectional=True)),
    "bidirectional layers": lambda lib: same(lib, of=weights(2, bidirectional=True)),
    "projection": lambda lib: same(lib, of=weights(proj_size=2)),
    "batch-major input": lambda lib: same(lib, batch_major=True),
    "time-major input": lambda lib: same(lib, X.swapaxes(0, 1), time_major=True),
    "one sequence without a batch axis": lambda lib: same(lib, X[0], unbatched=True),
    "lengths: each sequence as if alone": each_alone,
    "… in both directions": lambda lib: each_alone(lib, bidirectional=True),
    "… padded outputs are 0": zeros_in_padding,
    "… NaN in the padding changes nothing": nan_in_padding,
    "bfloat16: dtypes of outputs, cell state": half,
    "float64 throughout": precision,
    "gradient written out": lambda lib: lib.own_gradient(weights(), X),
    "forward mode (jvp)": tangent,
}


def entry(probe: Probe, library: Library) -> str:
    """One cell of the table."""
    try:
        outcome = probe(library)
    except LacksError:
        return NO
    return outcome if isinstance(outcome, str) else YES if outcome else "no"
