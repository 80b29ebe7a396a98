"""Sequences that a model without lengths runs one by one are joined with their padding."""

import numpy as np
import pytest
import torch

import flax_bilstm as fb
import parity
import torch_ref


@pytest.mark.parametrize("lengths", [(5, 3, 1), (4, 4, 4), (1, 1, 1), (7, 7, 7)])
def test_no_sequence_need_be_as_long_as_the_batch(lengths: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    reference = torch_ref.BiLSTMWithAttention(3, 2, 2)
    x = np.random.default_rng(0).standard_normal((3, 7, 3)).astype(np.float32)
    port = fb.from_state_dict(reference.state_dict())
    inputs = (x, np.array(lengths))
    report = parity.check(
        reference, port, inputs, training_steps=0, dtypes=("float64",), variants=()
    )
    report.assert_passed()
    assert any(row.name == "lstm.input" for row in report.rows)
