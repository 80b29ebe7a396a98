"""PyTorch's LSTM cell as a Flax NNX module: it has the parameters of one direction."""

from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Float, Shaped

from flax_bilstm import arguments
from flax_bilstm.initializers import symmetric_uniform
from flax_bilstm.recurrence.equations import State, Weights, accumulation_dtype, cell_step


class LSTMCell(nnx.RNNCellBase):
    """One LSTM cell with PyTorch's parameters; `nnx.RNN(LSTMCell(...))` runs it over time.

    Parameters are in Flax's layout, gates stacked i, f, g, o along the last axis: `kernel_ih`
    (input_size, 4·hidden_size), `kernel_hh` (out, 4·hidden_size), `bias_ih` and `bias_hh`
    (4·hidden_size,), `kernel_hr` (hidden_size, proj_size); out is proj_size, or hidden_size
    without a projection. The carry is Flax's: (c, h), c (..., hidden_size) and h (..., out).

    Equations: https://docs.pytorch.org/docs/stable/generated/torch.nn.LSTM.html

    Args:
        input_size: features of the input.
        hidden_size: features of the cell state.
        bias: whether there are `bias_ih` and `bias_hh`.
        proj_size: features of a projected output (Sak et al. 2014), 0 for none.
        dtype: the compute dtype; None promotes input and parameters. Under float16 and bfloat16
            the cell state and all sums stay float32.
        param_dtype: the parameters' dtype.
        rngs: draws the parameters, from PyTorch's distribution.

    Raises:
        ValueError: a size is out of range, or a parameter would have over 2⁵³ numbers.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        bias: bool = True,
        proj_size: int = 0,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        self.input_size = arguments.positive("input_size", input_size)
        self.hidden_size = arguments.hidden_size("hidden_size", hidden_size)
        arguments.floating_dtype("dtype", dtype)
        arguments.floating_dtype("param_dtype", param_dtype)
        arguments.flag("bias", bias)
        arguments.rngs("rngs", rngs)
        self.proj_size = arguments.projection_size(proj_size, hidden_size)
        self.dtype, self.param_dtype = dtype, param_dtype
        initialize = symmetric_uniform(hidden_size)

        def parameter(*shape: int) -> nnx.Param[Array]:
            return nnx.Param(initialize(rngs.params(), shape, param_dtype))

        gates = 4 * hidden_size
        sizes = {"input_size": input_size, "hidden_size": hidden_size}
        arguments.addressable(sizes, (input_size, gates), (self.output_size, gates))
        self.kernel_ih = parameter(input_size, gates)
        self.kernel_hh = parameter(self.output_size, gates)
        self.bias_ih = parameter(gates) if bias else nnx.data(None)
        self.bias_hh = parameter(gates) if bias else nnx.data(None)
        self.kernel_hr = parameter(hidden_size, proj_size) if proj_size else nnx.data(None)

    @property
    def output_size(self) -> int:
        """Features of the hidden state: proj_size if there is a projection, else hidden_size."""
        return self.proj_size or self.hidden_size

    def weights(self, dtype: jnp.dtype) -> Weights:
        """The parameters for the pure functions, kernels cast to the compute dtype."""

        def cast(parameter: nnx.Param[Array] | None, to: jnp.dtype) -> Array | None:
            return None if parameter is None else parameter[...].astype(to)

        wide = accumulation_dtype(dtype)
        return Weights(
            kernel_ih=self.kernel_ih[...].astype(dtype),
            kernel_hh=self.kernel_hh[...].astype(dtype),
            bias_ih=cast(self.bias_ih, wide),
            bias_hh=cast(self.bias_hh, wide),
            kernel_hr=cast(self.kernel_hr, dtype),
        )

    def __call__(
        self, carry: tuple[ArrayLike, ArrayLike], inputs: Shaped[ArrayLike, "..."]
    ) -> tuple[tuple[Float[Array, "*batch hidden"], Float[Array, "*batch out"]], Array]:
        """One step: carry (c, h) and inputs (..., input_size) → new carry and h (..., out).

        Raises:
            TypeError: an argument is not an array of numbers.
            ValueError: a shape or dtype does not fit.
        """
        inputs = arguments.array("inputs", inputs)
        floating = jnp.issubdtype(inputs.dtype, jnp.floating)
        if inputs.ndim == 0 or inputs.shape[-1] != self.input_size or not floating:
            raise ValueError(
                f"inputs: expected (..., input_size={self.input_size}), floating, got shape "
                f"{inputs.shape} and dtype {inputs.dtype}."
            )
        batch = inputs.shape[:-1]
        c, h = arguments.pair("carry", carry, "(c, h)")
        cell = arguments.state("carry c", c, (*batch, self.hidden_size), "(..., hidden)")
        hidden = arguments.state("carry h", h, (*batch, self.output_size), "(..., out)")
        dtype = arguments.compute_dtype(self.dtype, inputs, self.kernel_ih[...])
        before = State(hidden.astype(dtype), cell.astype(accumulation_dtype(dtype)))
        after = cell_step(self.weights(dtype), before, inputs.astype(dtype))
        return (after.cell, after.hidden), after.hidden

    def initialize_carry(
        self,
        input_shape: tuple[int, ...],
        rngs: nnx.Rngs | nnx.RngStream | None = None,
        carry_init: nnx.Initializer | None = None,
    ) -> tuple[Array, Array]:
        """The initial carry (c, h): zeros as in PyTorch, or `carry_init` with `rngs`.

        input_shape is that of one step, (..., input_size). If the cell has no dtype, the carry has
        the current dtype of the parameters: code that casts them must cast the carry too.
        """
        if not isinstance(input_shape, (tuple, list)) or not input_shape:
            raise ValueError(
                f"input_shape: expected (..., input_size={self.input_size}), got "
                f"{arguments.quoted(input_shape)}."
            )
        if all(isinstance(size, int) for size in input_shape):  # not left open by jax.export
            carry = (*input_shape[:-1], self.hidden_size)
            arguments.addressable({"input_shape": tuple(input_shape)}, carry)
        initialize: Any = nnx.initializers.zeros_init() if carry_init is None else carry_init
        dtype = jnp.dtype(self.kernel_hh[...].dtype if self.dtype is None else self.dtype)
        if carry_init is not None and not callable(carry_init):
            raise TypeError(
                "carry_init: expected an initializer, such as nnx.initializers.normal(), got "
                f"{arguments.quoted(carry_init)}."
            )
        if carry_init is not None and not isinstance(rngs, (nnx.Rngs, nnx.RngStream)):
            raise ValueError(
                f"rngs: expected nnx.Rngs to draw carry_init from, got {arguments.quoted(rngs)}."
            )
        stream = rngs.carry if isinstance(rngs, nnx.Rngs) else rngs

        def draw(features: int, dtype: jnp.dtype) -> Array:
            key = None if carry_init is None or stream is None else stream()
            return initialize(key, (*input_shape[:-1], features), dtype)

        return draw(self.hidden_size, accumulation_dtype(dtype)), draw(self.output_size, dtype)

    @property
    def num_feature_axes(self) -> int:
        """One: the features."""
        return 1
