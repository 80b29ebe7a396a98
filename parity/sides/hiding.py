"""What hides mistakes from a check, in words: names, parameters and inputs that show too little."""

from collections.abc import Collection, Iterator, Sequence

import numpy as np
import torch

from flax_bilstm.conversion.rows import matches
from parity.sides.side import Arrays


def notes(
    torch_model: torch.nn.Module,
    parameters: Arrays,
    inputs: Arrays,
    ignore: Sequence[str],
    defaults: Collection[str],
) -> Iterator[str]:
    """The notes for the report.

    Args:
        torch_model: the reference.
        parameters: those that are compared.
        inputs: those that both models read.
        ignore: patterns of names that are not compared.
        defaults: the names of the models' arguments that nothing is passed for.
    """
    if defaults:
        yield f"compared only with the default of: {', '.join(sorted(defaults))}"
    still = [n for n, a in inputs.items() if a.size > 1 and (a == a.flat[0]).all()]
    if still:
        yield f"all numbers are the same in {', '.join(still)}, which hides most mistakes"
    ignored = [name for name in torch_model.state_dict() if matches(name, ignore)]
    if ignored:
        yield f"ignored, so neither compared nor trained alike: {', '.join(ignored)}"
    if parameters and not any(map(np.any, parameters.values())):
        yield "every parameter is 0: most mistakes leave no trace in what is computed then"
    complex_inputs = [name for name, array in inputs.items() if array.dtype.kind == "c"]
    if complex_inputs:
        yield f"the gradient at complex inputs is not compared: {', '.join(complex_inputs)}"
