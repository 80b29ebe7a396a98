"""The benchmarks stay in the repository: where only the wheel is installed, they are not there."""

import importlib.util

collect_ignore_glob = [] if importlib.util.find_spec("benchmarks") else ["test_*.py"]
