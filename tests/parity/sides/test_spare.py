"""Variables that only the candidate has are noted, or listed if they take part."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

torch = pytest.importorskip("torch")

import parity


class Spare(nnx.Module):
    """A layer with a variable that PyTorch's has not."""

    def __init__(self, used):
        self.kernel = nnx.Param(jnp.ones((2, 2)))
        self.spare = nnx.Param(jnp.zeros(2))
        self.used = used

    def __call__(self, x):
        return x @ self.kernel[...].T + (self.spare[...][None] if self.used else 0)


SPARE = {
    "names": {"kernel": "weight"}, "dtypes": ["float64"], "training_steps": 2,
    "optimizers": [parity.optimizers.ADAMW],
}  # fmt: skip


@pytest.mark.usefixtures("lenient", "quickly_compiled")
def test_a_variable_of_the_candidate_alone_is_a_note_if_it_takes_no_part():
    theirs = torch.nn.Linear(2, 2, bias=False)
    torch.nn.init.ones_(theirs.weight)
    x = 3 * np.eye(4, 2, dtype=np.float32)
    report = parity.check(theirs, Spare(used=False), x, **SPARE)
    report.assert_passed()
    (case,) = report.cases.values()
    (note,) = case["notes"]
    assert note.startswith("in flax_model only, where evaluation mode does not use it: spare")


@pytest.mark.usefixtures("lenient", "quickly_compiled")
def test_a_variable_of_the_candidate_alone_that_takes_part_is_listed():
    theirs, x = torch.nn.Linear(2, 2, bias=False), np.ones((4, 2), np.float32)
    with pytest.raises(ValueError, match=r"missing: spare, expected shape \(2,\)"):
        parity.check(theirs, Spare(used=True), x, **SPARE)
