"""The keys from which the calls of Dropout draw, whenever a Flax module is called."""

import jax
from flax import nnx

from flax_bilstm.conversion.tree import dotted
from parity.sides.flax_masks import Drawn, recorded_keys
from parity.sides.nnx_running import Running, copies, put_in_training
from parity.sides.programs import Program
from parity.sides.side import Arrays, without_target
from parity.sides.variables import Named, flat

RUNS = 2


def drawn_keys(running: Running, leaves: Named, inputs: Arrays, dtype: str) -> list[list[Drawn]]:
    """The keys of each of two calls of the module in training mode, one after the other."""

    def run(leaves: Named, inputs: Named) -> Named:
        model = running.variables.model(leaves)
        put_in_training(model)
        running.training_call(model, inputs)  # XLA computes of it what the keys need
        streams = flat(nnx.state(model, nnx.RngState))
        return {dotted(path): leaf.get_raw_value() for path, leaf in streams.items()}

    program = Program(run, simply=True)
    read, found = copies(without_target(inputs), dtype), []
    for _ in range(RUNS):
        with recorded_keys() as drawn:
            after = program(leaves, read)
            jax.effects_barrier()
            found.append(list(drawn))
        leaves = {**leaves, **after}
    return found
