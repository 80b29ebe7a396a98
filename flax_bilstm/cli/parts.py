"""A model in parts that are run one after another, so that one part's weights are in memory."""

from collections.abc import Iterator, Mapping

import numpy as np

from flax_bilstm.conversion.reading import read_sizes


def parts(arrays: Mapping[str, np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
    """The state dict of each part; each part reads the outputs of the part before.

    An nn.LSTM's parts are its layers, each the state dict of an nn.LSTM of one layer. The network
    has one layer, and is one part. A part that has been run is not kept.
    """
    _, sizes = read_sizes(arrays)
    layers: list[dict[str, np.ndarray]] = [{} for _ in range(sizes.get("num_layers", 1))]
    if len(layers) == 1:
        layers = [dict(arrays)]
    else:
        for name, array in arrays.items():
            tensor, _, layer = name.rpartition("_l")  # weight_ih_l2_reverse
            number, reverse, _ = layer.partition("_reverse")
            layers[int(number)][f"{tensor}_l0{reverse}"] = array
        del array
    del arrays
    while layers:
        yield layers.pop(0)
