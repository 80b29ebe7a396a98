"""The strictness that conftest.py switches on is on: without it the other tests prove less."""

import socket
from typing import Any

import jax.numpy as jnp
import jaxtyping
import pytest
from beartype.roar import BeartypeCallHintViolation

from flax_bilstm import showing
from flax_bilstm.attention import attend


def test_annotated_shapes_are_checked() -> None:
    with pytest.raises(jaxtyping.TypeCheckError, match="keys"):
        attend(jnp.zeros((1, 1, 3)), jnp.zeros((1, 2, 4)), None, None)


def test_types_are_checked_where_no_shape_is_annotated() -> None:
    wrong: Any = ["a list"]
    with pytest.raises(BeartypeCallHintViolation, match="text"):
        showing.escaped(wrong)


def test_dtypes_are_not_promoted() -> None:
    with pytest.raises(ValueError, match="promotion"):
        jnp.zeros(1, jnp.float32) + jnp.zeros(1, jnp.bfloat16)


def test_ranks_are_not_promoted() -> None:
    with pytest.raises(ValueError, match="rank"):
        jnp.zeros((1, 1)) + jnp.zeros(1)


@pytest.mark.usefixtures("x64")
def test_x64_gives_float64() -> None:
    assert jnp.zeros(1).dtype == jnp.float64


def test_the_network_is_out_of_reach():
    with pytest.raises(AssertionError, match="reached for the network"):
        socket.create_connection(("192.0.2.1", 80), timeout=1)
    with socket.socket() as one, pytest.raises(AssertionError, match="reached for the network"):
        one.connect(("127.0.0.1", 9))
