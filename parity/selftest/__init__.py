"""`parity selftest`: planted faults must be found, right networks must pass."""
