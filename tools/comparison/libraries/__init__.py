"""One adapter per library, with one interface (`library.Library`).

An adapter uses only what its library offers. For a feature that the library lacks, the adapter
raises `LacksError`, after checking that there is no such argument and no such name. A library is
imported only when it is used, so it is enough to install some of them.
"""

from tools.comparison.libraries.equinox_cell import Equinox
from tools.comparison.libraries.flax_nnx import FlaxNNX
from tools.comparison.libraries.haiku_core import Haiku
from tools.comparison.libraries.keras_layer import Keras
from tools.comparison.libraries.library import Library
from tools.comparison.libraries.ours import Ours
from tools.comparison.libraries.pytorch import Torch

LIBRARIES: dict[str, Library] = {
    "torch.nn.LSTM": Torch(),
    "flax.nnx.RNN": FlaxNNX(),
    "Equinox": Equinox(),
    "Haiku": Haiku(),
    "Keras": Keras(),
    "flax_bilstm.LSTM": Ours(),
}
