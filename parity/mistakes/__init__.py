"""Known mistakes of LSTM ports, each tried where a stage is found wrong of itself.

A mistake is words and the reference's computation with that mistake in it, written on
`parity.bilstm_reference` in PyTorch. Each `of_…` is given a place and yields (words, function); the
function takes what the stage's own takes, and returns what a port with that mistake would. Those
that do not fit the sizes at hand raise `ValueError`. Adding a mistake is adding a row to a table.
"""

from parity.mistakes.attention import of_context, of_weights
from parity.mistakes.cell import of_step
from parity.mistakes.head import of_head
from parity.mistakes.sequence import of_direction, of_output

__all__ = ["of_context", "of_direction", "of_head", "of_output", "of_step", "of_weights"]
