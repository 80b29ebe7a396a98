"""The reference network: bidirectional LSTM → attention → dense head on the last step."""

from typing import Any, Literal, overload

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Float, Shaped

from flax_bilstm import arguments, padding
from flax_bilstm.attention import all_queries, last_query
from flax_bilstm.initializers import symmetric_uniform
from flax_bilstm.lstm import LSTM
from flax_bilstm.recurrence.equations import accumulation_dtype

SCORES = ("dot", "general")
QUERIES = ("all", "last")


class Unused(nnx.Variable[Any]):
    """A tensor that every checkpoint has and no forward pass reads.

    It is not an `nnx.Param`, so `nnx.Optimizer(..., wrt=nnx.Param)` and `nnx.grad` ignore it. As
    in PyTorch, where its gradient is None, no step and no weight decay changes it.
    """


def _wide_dot_general(a: Array, b: Array, dimensions: Any, **options: Any) -> Array:
    """`jax.lax.dot_general`, summing in float32 under half precision, as the other layers do."""
    wide = accumulation_dtype(a.dtype)
    product = jax.lax.dot_general(a, b, dimensions, preferred_element_type=wide, **options)
    return product.astype(a.dtype)


def _linear(features_in: int, features_out: int, **options: Any) -> nnx.Linear:
    """`nnx.Linear` with the initial distribution of `torch.nn.Linear`, summed in float32."""
    initialize = symmetric_uniform(features_in)
    return nnx.Linear(
        features_in,
        features_out,
        kernel_init=initialize,
        bias_init=initialize,
        dot_general=_wide_dot_general,
        **options,
    )


class Attention(nnx.Module):
    """Self-attention without scale, mask or projection: softmax(y yᵀ) y.

    Args:
        hidden_dim: features of y (2·hidden of a bidirectional LSTM).
        score: "dot", as in the reference: score(query, key) = query · key. The Linear `attn`, which
            the reference has but never calls, is then kept as `Unused`. "general" trains its
            weight: score(query, key) = query · W key (Luong et al. 2015, section 3.1). Its bias
            would cancel in the softmax and stays `Unused`.
        dtype: the compute dtype; None promotes input and parameters.
        param_dtype: the dtype of `attn`.
        rngs: draws `attn`, from PyTorch's distribution.

    Raises:
        ValueError: hidden_dim or score is not valid, or `attn` would have over 2⁵³ numbers.
    """

    def __init__(
        self,
        hidden_dim: int,
        *,
        score: Literal["dot", "general"] = "dot",
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        self.hidden_dim = arguments.positive("hidden_dim", hidden_dim)
        arguments.floating_dtype("dtype", dtype)
        arguments.floating_dtype("param_dtype", param_dtype)
        arguments.one_of("score", score, SCORES)
        arguments.rngs("rngs", rngs)
        arguments.addressable({"hidden_dim": hidden_dim}, (hidden_dim, hidden_dim))
        self.score, self.dtype = score, dtype
        attn: Any = _linear(hidden_dim, hidden_dim, param_dtype=param_dtype, rngs=rngs)
        attn.bias = Unused(attn.bias[...])
        if score == "dot":
            attn.kernel = Unused(attn.kernel[...])
        self.attn = attn

    def __call__(
        self,
        y: Shaped[ArrayLike, "..."],
        *,
        queries: Literal["all", "last"] = "all",
        lengths: Shaped[ArrayLike, "..."] | None = None,
        mask: Shaped[ArrayLike, "..."] | None = None,
        return_weights: bool = False,
    ) -> Array | tuple[Array, Array]:
        """Attend over y (batch, time, hidden_dim).

        Args:
            y: the sequence, which is queries, keys and values.
            queries: "all" gives the context of every step, (batch, time, hidden_dim); "last" only
                that of each sequence's last step, (batch, hidden_dim): the same numbers, with time
                and memory linear in the number of steps.
            lengths: (batch,) int, the valid steps of each sequence: padding gets no weight,
                padded queries give 0, and "last" is the last valid step.
            mask: instead of lengths, (batch, time): the valid steps, see `LSTM`.
            return_weights: also return the attention weights, (batch, time, time) for "all" and
                (batch, time) for "last".

        Returns:
            The context, or (context, weights).

        Raises:
            ValueError: a shape, dtype, length, mask or `queries` does not fit.
        """
        arguments.one_of("queries", queries, QUERIES)
        arguments.flag("return_weights", return_weights)
        y = arguments.sequence("y", y, ("(batch, time, features)",), self.hidden_dim, 1)
        dtype = arguments.compute_dtype(self.dtype, y, self.attn.kernel[...])
        spans, y = padding.spans(lengths, mask, *y.shape[:2]), y.astype(dtype)
        if spans is not None:
            y = padding.from_start(y, spans, 1)
        kernel = self.attn.kernel[...].astype(dtype) if self.score == "general" else None
        attend = all_queries if queries == "all" else last_query
        context, weights = attend(y, None if spans is None else spans.lengths, kernel)
        weights = padding.in_place(weights, spans, 1)
        if queries == "all":
            context = padding.in_place(context, spans, 1)
            weights = jnp.swapaxes(padding.in_place(jnp.swapaxes(weights, 1, 2), spans, 1), 1, 2)
        return (context, weights) if return_weights else context


class BiLSTMWithAttention(nnx.Module):
    """x → bidirectional LSTM → attention of the last step → dense head.

    Args:
        input_dim: features of the input.
        hidden_dim: hidden size of each direction; the attention has 2·hidden_dim features.
        output_dim: features of the output.
        score: the attention's score, see `Attention`; only "dot" is equal to the reference.
        implementation: how the recurrence is run, see `LSTM`.
        dtype: the compute dtype; None promotes input and parameters.
        param_dtype: the parameters' dtype.
        rngs: draws the parameters, from PyTorch's distributions.

    Raises:
        TypeError: rngs is not an `nnx.Rngs`.
        ValueError: an argument is out of range, or a parameter would have over 2⁵³ numbers.
    """

    def __init__(
        self,
        input_dim: int,
        hidden_dim: int,
        output_dim: int,
        *,
        score: Literal["dot", "general"] = "dot",
        implementation: str | None = None,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        arguments.positive("input_dim", input_dim)
        arguments.hidden_size("hidden_dim", hidden_dim)
        arguments.positive("output_dim", output_dim)
        sizes = {"input_dim": input_dim, "hidden_dim": hidden_dim, "output_dim": output_dim}
        widest = max(input_dim, hidden_dim)
        arguments.addressable(sizes, (widest, 4 * hidden_dim), (2 * hidden_dim, output_dim))
        shared: dict[str, Any] = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        self.lstm = LSTM(
            input_dim, hidden_dim, bidirectional=True, implementation=implementation, **shared
        )
        self.attention = Attention(2 * hidden_dim, score=score, **shared)
        self.fc = _linear(2 * hidden_dim, output_dim, **shared)

    @overload
    def __call__(
        self,
        x: Shaped[ArrayLike, "..."],
        *,
        lengths: Shaped[ArrayLike, "..."] | None = None,
        mask: Shaped[ArrayLike, "..."] | None = None,
        return_attention: Literal[False] = False,
    ) -> Float[Array, "batch out"]: ...

    @overload
    def __call__(
        self,
        x: Shaped[ArrayLike, "..."],
        *,
        lengths: Shaped[ArrayLike, "..."] | None = None,
        mask: Shaped[ArrayLike, "..."] | None = None,
        return_attention: Literal[True],
    ) -> tuple[Float[Array, "batch out"], Float[Array, "batch time"]]: ...

    def __call__(
        self,
        x: Shaped[ArrayLike, "..."],
        *,
        lengths: Shaped[ArrayLike, "..."] | None = None,
        mask: Shaped[ArrayLike, "..."] | None = None,
        return_attention: bool = False,
    ) -> Float[Array, "batch out"] | tuple[Float[Array, "batch out"], Float[Array, "batch time"]]:
        """Predict from whole sequences.

        Args:
            x: (batch, time, input_dim).
            lengths: (batch,) int: each sequence gives the same result as alone, without padding.
            mask: instead of lengths, (batch, time): the valid steps, see `LSTM`.
            return_attention: also return the last step's attention weights.

        Returns:
            (batch, output_dim), or a pair of it and the weights (batch, time).

        Raises:
            ValueError: a shape, dtype, length or mask does not fit. Under `jax.jit` a length above
                time counts as time; one below 1 is an empty sequence and gives the head's bias; a
                row of mask whose ones are side by side in the middle is taken as it is, and one
                whose ones are not side by side gives NaN.
        """
        arguments.flag("return_attention", return_attention)
        x = arguments.sequence("x", x, ("(batch, time, features)",), self.lstm.input_size, 1)
        padded: Any = {"lengths": lengths, "mask": mask}
        y, _ = self.lstm(x, **padded)  # (batch, time, 2·hidden_dim)
        context, weights = self.attention(y, queries="last", **padded, return_weights=True)
        with jax.numpy_dtype_promotion("standard"):  # as in the other layers; also in strict mode
            output = self.fc(context)  # (batch, output_dim)
        return (output, weights) if return_attention else output
