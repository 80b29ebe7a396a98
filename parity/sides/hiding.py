"""What hides mistakes from a check, in words: names, parameters and inputs that show too little."""

from collections.abc import Collection, Iterator
from contextlib import suppress
from itertools import combinations

import numpy as np
import torch

from parity.sides.data import like_lengths
from parity.sides.side import Arrays, Side, floating, is_mask, without_target
from parity.tolerances import TRUTH


def notes(
    ignored: Collection[str],
    parameters: Arrays,
    inputs: Arrays,
    defaults: Collection[str],
    single: Collection[str] = (),
    plain: Collection[str] = (),
) -> Iterator[str]:
    """The notes for the report.

    Args:
        ignored: the names of parameters and buffers that are not compared.
        parameters: those that are compared.
        inputs: those that both models read, and the targets.
        defaults: the names of the models' arguments that nothing is passed for.
        single: the names of the inputs with an axis of size 1 that could be longer.
        plain: the names of numbers of 0 or 1 that the reference has as attributes.
    """
    if defaults:
        yield f"compared only with the default of: {', '.join(sorted(defaults))}"
    still = [n for n, a in inputs.items() if a.size > 1 and (a == a.flat[0]).all()]
    if still:
        yield f"all numbers are the same in {', '.join(still)}, which hides most mistakes"
    idle = [n for n, a in inputs.items() if a.size == 1 and not a.any()]
    if idle:
        yield f"{', '.join(idle)} is 0, which hides most mistakes"
    empty = [n for n, a in inputs.items() if not a.size]
    if empty:
        yield f"{', '.join(empty)} has no numbers, which hides all mistakes with it"
    rows = [n for n, a in inputs.items() if a.ndim > 1 and len(a) > 1 and (a == a[:1]).all()]
    if set(rows) - set(still):
        yield f"all rows are the same in {', '.join(rows)}, which hides how sequences are mixed"
    equal = [
        f"{one} and {other}"
        for one, other in combinations((n for n in inputs if n not in still), 2)
        if np.array_equal(inputs[one], inputs[other])
    ]
    if equal:
        yield f"{', '.join(equal)} are equal, which hides that one is read for the other"
    lengths = [n for n in like_lengths(inputs) if n not in still]
    ordered = [n for n in lengths if len(inputs[n]) > 1 and (np.diff(inputs[n]) <= 0).all()]
    if ordered:
        yield f"{', '.join(ordered)} is sorted, which hides whether that is undone"
    if single:
        yield (
            f"an axis of {', '.join(single)} has size 1, which hides mistakes along it, such as of "
            "sequences or steps"
        )
    if plain:
        yield f"{', '.join(plain)} of torch_model is 0 or 1, which hides how it is used"
    if ignored:
        yield f"ignored, so neither compared nor trained alike: {', '.join(ignored)}"
    symmetric = [n for n, a in {**parameters, **inputs}.items() if _is_symmetric(a)]
    if symmetric:
        yield f"{', '.join(symmetric)} equals its transpose, which hides whether it is needed"
    if parameters and not any(map(np.any, parameters.values())):
        yield "every parameter is 0: most mistakes leave no trace in what is computed then"
    read = without_target(inputs).items()
    complex_inputs = [name for name, array in read if array.dtype.kind == "c"]
    if complex_inputs:
        yield f"the gradient at complex inputs is not compared: {', '.join(complex_inputs)}"
    masks = [name for name, array in read if floating(array) and is_mask(array)]
    if masks:
        yield f"the gradient at inputs of 0 and 1 is not compared: {', '.join(masks)}"


def of_0_or_1(module: torch.nn.Module) -> list[str]:
    """The numbers that modules of the user have as attributes, and that hide how they are used."""
    return [
        f"{path}.{name}".lstrip(".")
        for path, part in module.named_modules()
        if not type(part).__module__.startswith("torch.")
        for name, value in vars(part).items()
        if isinstance(value, float) and value in (0.0, 1.0)
    ]


def with_single_axis(reference: Side, inputs: Arrays) -> list[str]:
    """The inputs with an axis of size 1, such as of sequences, with which it need not be 1.

    The channels of a grey image, for instance, are always 1. The last axis is that of features.
    """
    found: dict[str, None] = {}
    for axis in range(max((array.ndim for array in inputs.values()), default=0)):
        names = [
            name for name, array in inputs.items()
            if array.size > 1 and array.ndim > axis + 1 and array.shape[axis] == 1
        ]  # fmt: skip
        if names:
            longer = {n: np.repeat(a, 2, axis) if n in names else a for n, a in inputs.items()}
            with suppress(Exception):  # the user's code can raise anything
                reference.forward(reference.parameters, longer, TRUTH)
                found |= dict.fromkeys(names)
    return list(found)


def _is_symmetric(array: np.ndarray) -> bool:
    """Whether all matrices equal their transposes, and not all are equal or diagonal.

    If a parameter is diagonal, another run has other numbers.
    """
    if array.ndim < 2 or not array.size or not np.array_equal(array, array.swapaxes(-1, -2)):
        return False
    return bool((array != array.flat[0]).any() and (array * (1 - np.eye(array.shape[-1]))).any())
