"""One adapter a library, behind one interface (`library.Library`).

An adapter uses what its library offers and nothing more. What the library does not have, the
adapter refuses with `LacksError`, having made sure that it is not there: no such argument, no such
name. A library is imported when it is asked something, so a part of them is enough.
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
