"""What the command `parity` proves: the published size, digits, a checkpoint."""
