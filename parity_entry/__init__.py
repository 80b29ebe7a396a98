"""The entry points of `parity`: the command and the pytest plugin. They import it only when needed.

`parity` imports JAX and PyTorch, which takes seconds, and pytest loads plugins in every run.
"""
