"""The plugin's place in environments that were installed before it moved; remove me after that."""

from parity_entry.pytest_plugin import assert_parity as assert_parity
