"""`torch.nn.LSTM` as a Flax NNX module: layers of cells, run by the chosen implementation."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Float, Shaped

from flax_bilstm import arguments, padding, recurrence
from flax_bilstm.cell import LSTMCell
from flax_bilstm.recurrence.directions import run_layer
from flax_bilstm.recurrence.equations import State, accumulation_dtype, validity


class Layer(nnx.Module):
    """One layer: the forward direction and, if bidirectional, the reverse one."""

    def __init__(self, forward: LSTMCell, reverse: LSTMCell | None):
        self.forward = forward
        self.reverse = nnx.data(reverse)

    @property
    def cells(self) -> tuple[LSTMCell, ...]:
        """Each direction's cell, in PyTorch's order."""
        return (self.forward,) if self.reverse is None else (self.forward, self.reverse)


class LSTM(nnx.Module):
    """`torch.nn.LSTM` with the same numbers, batch-major by default.

    Reference: https://docs.pytorch.org/docs/stable/generated/torch.nn.LSTM.html

    Args:
        input_size: features of the input.
        hidden_size: features of each direction's cell state.
        num_layers: number of layers; each after the first reads both directions of the one before.
        bias: whether the cells have biases (two each, as in PyTorch).
        dropout: probability of zeroing an element of a layer's output, except the last layer's, in
            training (`model.train()`, the default, not `model.eval()`), by `nnx.Dropout`.
        bidirectional: whether each layer also has a reverse direction.
        proj_size: features of a projected output, 0 for none.
        time_major: x and outputs are (time, batch, features) instead of (batch, time, features).
        implementation: how the recurrence is run; None is "native": in C++ on CPUs if
            `flax_bilstm.native_available()`, and otherwise the same as "fused". The names are the
            keys of `flax_bilstm.recurrence.IMPLEMENTATIONS`.
        dtype: the compute dtype; None promotes input and parameters. Under float16 and bfloat16
            the cell state and all sums stay float32.
        param_dtype: the parameters' dtype.
        rngs: draws the parameters (stream `params`) and the dropout masks (stream `dropout`).

    Raises:
        TypeError: rngs is not an `nnx.Rngs`.
        ValueError: an argument is out of range, or a parameter would have over 2⁵³ numbers.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        num_layers: int = 1,
        bias: bool = True,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        time_major: bool = False,
        implementation: str | None = None,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        arguments.positive("input_size", input_size)
        arguments.hidden_size("hidden_size", hidden_size)
        arguments.projection_size(proj_size, hidden_size)
        arguments.positive("num_layers", num_layers, arguments.MOST_LAYERS)
        arguments.probability("dropout", dropout)
        arguments.flag("bidirectional", bidirectional)
        arguments.flag("time_major", time_major)
        recurrence.resolve(implementation)
        self.input_size, self.hidden_size, self.num_layers = input_size, hidden_size, num_layers
        self.bias, self.bidirectional, self.proj_size = bias, bidirectional, proj_size
        self.time_major, self.implementation, self.dtype = time_major, implementation, dtype
        widest = max(input_size, self.output_size if num_layers > 1 else proj_size or hidden_size)
        sizes = {"input_size": input_size, "hidden_size": hidden_size, "proj_size": proj_size}
        arguments.addressable(sizes, (widest, 4 * hidden_size))

        def cell(features: int) -> LSTMCell:
            return LSTMCell(
                features,
                hidden_size,
                bias=bias,
                proj_size=proj_size,
                dtype=dtype,
                param_dtype=param_dtype,
                rngs=rngs,
            )

        layers = []
        for k in range(num_layers):
            features = input_size if k == 0 else self.output_size
            layers.append(Layer(cell(features), cell(features) if bidirectional else None))
        self.layers = nnx.List(layers)
        self.dropout = nnx.data(nnx.Dropout(dropout, rngs=rngs) if dropout > 0 else None)

    @property
    def num_directions(self) -> int:
        """2 if bidirectional, else 1."""
        return 2 if self.bidirectional else 1

    @property
    def output_size(self) -> int:
        """Features of the outputs: both directions concatenated, forward first."""
        return self.num_directions * (self.proj_size or self.hidden_size)

    def __call__(
        self,
        x: Shaped[ArrayLike, "..."],
        initial_state: tuple[ArrayLike, ArrayLike] | None = None,
        lengths: Shaped[ArrayLike, "..."] | None = None,
        mask: Shaped[ArrayLike, "..."] | None = None,
    ) -> tuple[Float[Array, "..."], tuple[Float[Array, "..."], Float[Array, "..."]]]:
        """Run over whole sequences.

        Args:
            x: (batch, time, input_size), (time, batch, input_size) if `time_major`, or one
                unbatched sequence (time, input_size).
            initial_state: (h_0, c_0), h_0 (num_layers·directions, batch, out) and c_0
                (num_layers·directions, batch, hidden_size), without the batch axis for an unbatched
                x; zeros if None. Forward before reverse within a layer.
            lengths: (batch,) int, the number of valid steps of each sequence, as PyTorch's packed
                sequences: the reverse direction starts at the end of each sequence, final states
                are those at its ends, padded outputs are 0, and values in the padding, even NaN,
                have no effect. Lengths are data, not shapes: other values cause no recompilation.
            mask: instead of lengths, (batch, time) in either layout, bool or integers 0 and 1: the
                valid steps. In each row they are the first ones or, for padding at the beginning,
                the last ones. The sequence gives what it gives alone, and its outputs stay at its
                steps.

        Returns:
            outputs (batch, time, directions·out), in the layout of x, and (h_n, c_n), shaped as
            initial_state. Outputs and h_n have the compute dtype; c_n has it too, but stays float32
            under float16 and bfloat16.

        Raises:
            ValueError: a shape, dtype, length or mask does not fit. Under `jax.jit` the values of
                lengths and mask are unknown and cannot raise: a length above time counts as time,
                one below 1 and a row of zeros as an empty sequence (outputs 0, final state =
                initial state); a row whose ones are side by side in the middle is taken as it is,
                and one whose ones are not side by side gives NaN.
        """
        layout = "(time, batch, features)" if self.time_major else "(batch, time, features)"
        time_axis = 0 if self.time_major else 1
        x = arguments.sequence("x", x, (layout, "(time, features)"), self.input_size, time_axis)
        dtype = arguments.compute_dtype(self.dtype, x, self.layers[0].forward.kernel_ih[...])
        x = x.astype(dtype)
        batched = x.ndim == 3
        if not batched:
            for name, value in {"lengths": lengths, "mask": mask}.items():
                if value is not None:
                    raise ValueError(f"{name}: expected None with an unbatched x; slice x instead.")
            x = x[:, None]
        elif not self.time_major:
            x = jnp.swapaxes(x, 0, 1)
        time, batch = x.shape[:2]  # x: (time, batch, input_size)
        valid, spans = None, padding.spans(lengths, mask, batch, time)
        if spans is not None:
            x = padding.from_start(x, spans, 0)
            valid = validity(spans.lengths, time)
            x = jnp.where(valid, x, jnp.zeros_like(x))
        states = self._initial_states(x, initial_state, batched)
        outputs, (h_n, c_n) = self._run(x, states, valid, batched and not self.time_major)
        outputs = padding.in_place(outputs, spans, 0)
        if not batched:
            return outputs[:, 0], (h_n[:, 0], c_n[:, 0])
        return outputs if self.time_major else jnp.swapaxes(outputs, 0, 1), (h_n, c_n)

    def _run(
        self,
        x: Float[Array, "time batch in"],
        states: State,
        valid: Array | None,
        batch_major: bool,
    ) -> tuple[Float[Array, "time batch out"], State]:
        """Run all layers; `states` and the final states are (num_layers·directions, batch, ·)."""
        run = recurrence.resolve(self.implementation)
        count = self.num_directions
        finals: list[State] = []
        for k, layer in enumerate(self.layers):
            weights = [cell.weights(x.dtype) for cell in layer.cells]
            own = State(*(array[k * count : (k + 1) * count] for array in states))
            x, final = run_layer(run, weights, x, own, valid, batch_major)
            finals.append(final)
            if self.dropout is not None and k + 1 < self.num_layers:
                x = self.dropout(x)
        return x, jax.tree.map(lambda *each: jnp.concatenate(each), *finals)

    def _initial_states(
        self,
        x: Float[Array, "time batch in"],
        initial_state: tuple[ArrayLike, ArrayLike] | None,
        batched: bool,
    ) -> State:
        """`initial_state` checked and cast, or zeros with the batch layout (and sharding) of x."""
        count = self.num_layers * self.num_directions
        sizes = {"h_0": self.proj_size or self.hidden_size, "c_0": self.hidden_size}
        dtypes = {"h_0": x.dtype, "c_0": accumulation_dtype(x.dtype)}
        if initial_state is None:
            column = x[0, :, :1]
            # `where`: zeros_like alone may lose a mesh of explicit axes that only x refers to.
            column = jnp.where(False, column, jnp.zeros_like(column))  # (batch, 1)

            def zeros(name: str) -> Array:
                return jnp.broadcast_to(
                    column[None].astype(dtypes[name]), (count, x.shape[1], sizes[name])
                )

            return State(zeros("h_0"), zeros("c_0"))
        h_0, c_0 = arguments.pair("initial_state", initial_state, "(h_0, c_0)")

        def given(name: str, value: ArrayLike) -> Array:
            batch = (x.shape[1],) if batched else ()
            layout = "(num_layers·directions, " + ("batch, " if batched else "") + "features)"
            shape = (count, *batch, sizes[name])
            array = arguments.state(f"initial_state {name}", value, shape, layout)
            return (array if batched else array[:, None]).astype(dtypes[name])

        return State(given("h_0", h_0), given("c_0", c_0))
