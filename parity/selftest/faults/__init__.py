"""The faults that `parity selftest` plants, one at a time, and what the report must say of each.

To add a fault, add a row: what it is, where it must be found, when it shows, what the report must
say, and how it is planted. Faults have realistic sizes: those of errors in ports, not of noise.
"""

from parity.selftest.fault import SHOWS, Fault
from parity.selftest.faults.after_lstm import AFTER
from parity.selftest.faults.in_cell import CELL
from parity.selftest.faults.in_decoders import DECODER, RNN
from parity.selftest.faults.in_gradients import GRADIENTS
from parity.selftest.faults.in_parameters import PARAMETERS
from parity.selftest.faults.in_ports import FUNCTION, RAW
from parity.selftest.faults.in_precision import NOT_FINITE, PRECISION
from parity.selftest.faults.in_sequence import PADDING, TIME
from parity.selftest.faults.in_signals import CONVOLUTION, HEADS
from parity.selftest.faults.in_text import CLASSIFIER, LANGUAGE_MODEL, TAGGER
from parity.selftest.faults.in_training import TRAINING
from parity.selftest.faults.in_training_mode import TRAINING_MODE

FAULTS: tuple[Fault, ...] = (
    *PARAMETERS, *CELL, *TIME, *PADDING, *AFTER, *GRADIENTS, *PRECISION, *NOT_FINITE, *TRAINING,
    *TAGGER, *CLASSIFIER, *LANGUAGE_MODEL, *CONVOLUTION, *HEADS, *DECODER, *RNN, *RAW, *FUNCTION,
    *TRAINING_MODE,
)  # fmt: skip
"""Every fault of the self-test."""

__all__ = ["FAULTS", "SHOWS", "Fault"]
