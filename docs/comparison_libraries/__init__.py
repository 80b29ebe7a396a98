"""One adapter a library, behind one interface (`library.Library`).

An adapter uses what its library offers and nothing more. What the library does not have, the
adapter refuses with `LacksError`, having made sure that it is not there: no such argument, no such
name. A library is imported when it is asked something, so a part of them is enough.
"""

from comparison_libraries.equinox_cell import Equinox
from comparison_libraries.flax_nnx import FlaxNNX
from comparison_libraries.haiku_core import Haiku
from comparison_libraries.keras_layer import Keras
from comparison_libraries.library import Library
from comparison_libraries.ours import Ours
from comparison_libraries.pytorch import Torch

LIBRARIES: dict[str, Library] = {
    "torch.nn.LSTM": Torch(),
    "flax.nnx.RNN": FlaxNNX(),
    "Equinox": Equinox(),
    "Haiku": Haiku(),
    "Keras": Keras(),
    "flax_bilstm.LSTM": Ours(),
}
