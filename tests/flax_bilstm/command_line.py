"""`flax-bilstm`, run in the tests' own process."""

from flax_bilstm.cli import main


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])
