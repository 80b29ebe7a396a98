"""The shapes and dtypes of what the passes of a layer return."""

from typing import Any

from jax.core import ShapedArray


def forward(
    x: ShapedArray, h_0: ShapedArray, *others: ShapedArray, save: bool, **_: Any
) -> list[ShapedArray]:
    """Outputs, final states and, if `save`, two saved arrays of each direction."""
    (time, batch, _), (directions, _, hidden), dtype = x.shape, h_0.shape, x.dtype
    sizes = [4 * hidden, hidden] * (directions if save else 0)
    saved = [ShapedArray((time, batch, size), dtype) for size in sizes]
    return [
        ShapedArray((time, batch, directions * hidden), dtype),
        _plain(h_0),
        _plain(h_0),
        *saved,
    ]


def backward(
    d_outputs: ShapedArray, d_h_n: ShapedArray, *others: ShapedArray, **_: Any
) -> list[ShapedArray]:
    """The gradient of the initial states, and dz of each direction."""
    (time, batch, _), (directions, _, hidden) = d_outputs.shape, d_h_n.shape
    dz = ShapedArray((time, batch, 4 * hidden), d_outputs.dtype)
    return [_plain(d_h_n), _plain(d_h_n), *[dz] * directions]


def weight_gradients(
    x: ShapedArray, h_0: ShapedArray, *others: ShapedArray, **_: Any
) -> list[ShapedArray]:
    """Those of kernel_ih, kernel_hh and a bias, for each direction."""
    directions, _batch, hidden = h_0.shape
    shapes = [(x.shape[2], 4 * hidden), (hidden, 4 * hidden), (4 * hidden,)]
    return [ShapedArray(shape, x.dtype) for shape in shapes * directions]


def input_gradients(
    dz: ShapedArray, kernel_ih: ShapedArray, *others: ShapedArray, **_: Any
) -> list[ShapedArray]:
    """The gradient of x."""
    return [ShapedArray((*dz.shape[:2], kernel_ih.shape[0]), dz.dtype)]


def _plain(aval: ShapedArray) -> ShapedArray:
    return ShapedArray(aval.shape, aval.dtype)
