"""These need the benchmarks, which are not there where only the wheel is installed."""

import importlib.util

collect_ignore_glob = [] if importlib.util.find_spec("benchmarks") else ["test_*.py"]
