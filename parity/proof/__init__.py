"""The proofs of the command `parity`: the published size, digits, a checkpoint."""
