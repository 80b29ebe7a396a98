"""The networks in which faults are planted: ours, and some as other people write them.

All are small. In some, two sizes are equal, so that a transposed matrix raises no error.
"""

from parity.selftest.networks.by_hand import BY_HAND
from parity.selftest.networks.decoders import DECODERS
from parity.selftest.networks.network import Network
from parity.selftest.networks.ours import OURS
from parity.selftest.networks.signals import SIGNALS
from parity.selftest.networks.text import TEXT
from parity.selftest.networks.training_mode import TRAINING_MODE

NETWORKS: dict[str, Network] = {
    **OURS,
    **TEXT,
    **SIGNALS,
    **DECODERS,
    **BY_HAND,
    **TRAINING_MODE,
}
"""Every network and its inputs, by the name that faults use."""

__all__ = ["NETWORKS", "OURS", "Network"]
