"""PyTorch ↔ Flax: weights and optimizer states, by one table of layer kinds (`layers`).

`SAME`, `TRANSPOSED` and `each` are the transforms that `flax_bilstm.register_layer` takes.
"""

from flax_bilstm.conversion.transforms import SAME, TRANSPOSED, each

__all__ = ["SAME", "TRANSPOSED", "each"]
