"""How numbers are compared in these tests, and gradients under torch's names."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx


@pytest.fixture(scope="session")
def assert_close() -> Callable[..., None]:
    """Named arrays equal to `tolerance` times each one's largest element; both sides finite."""

    def assert_close(actual: Mapping[str, Any], expected: Mapping[str, Any], tolerance: float):
        assert actual.keys() == expected.keys()
        for name in expected:
            value, truth = np.asarray(actual[name]), np.asarray(expected[name])
            assert value.shape == truth.shape, f"{name}: {value.shape} against {truth.shape}"
            value, truth = value.astype(np.float64), truth.astype(np.float64)
            assert np.isfinite(truth).all(), f"{name}: the truth is not finite"
            assert np.isfinite(value).all(), f"{name}: not finite"
            if truth.size:
                error, scale = abs(value - truth).max(), abs(truth).max()
                assert error <= tolerance * scale, f"{name}: {error:.3g} off, scale {scale:.3g}"

    return assert_close


@pytest.fixture(scope="session")
def assert_identical() -> Callable[..., None]:
    """Two pytrees with the same structure, dtypes and bits."""

    def assert_identical(actual: Any, expected: Any):
        assert jax.tree.structure(actual) == jax.tree.structure(expected)
        pairs = zip(jax.tree.leaves_with_path(actual), jax.tree.leaves(expected), strict=True)
        for (path, value), truth in pairs:
            value, truth = np.asarray(value), np.asarray(truth)
            name = jax.tree_util.keystr(path)
            assert (value.shape, value.dtype) == (truth.shape, truth.dtype), name
            assert value.tobytes() == truth.tobytes(), f"{name}: {value} is not {truth}"

    return assert_identical


@pytest.fixture(scope="session")
def under_torch_names() -> Callable[..., dict[str, np.ndarray]]:
    """An nnx state of a module (its gradients, say) under torch's names, in torch's layout."""
    from flax_bilstm.conversion.rows import rows

    def under_torch_names(module: Any, state: nnx.State) -> dict[str, np.ndarray]:
        flat = dict(nnx.to_flat_state(state))
        return {
            name: tensor
            for row in rows(module)
            if row.paths[0] in flat
            for name, tensor in zip(
                row.torch_names, row.to_torch([flat[path][...] for path in row.paths]), strict=True
            )
        }

    return under_torch_names
