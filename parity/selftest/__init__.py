"""`parity selftest`: planted faults must be found, and right networks must pass."""
