"""PyTorch ↔ Flax: weights and optimizer states, one table of layer kinds."""
