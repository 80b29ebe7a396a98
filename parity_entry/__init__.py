"""What others load of `parity`: the command and pytest's plugin. Both import it when it is needed.

`parity` imports JAX and PyTorch, which takes seconds, and pytest loads plugins in every run.
"""
