"""Checkpoints with a malformed optimizer's state, of every optimizer that converts."""

import functools
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flax_bilstm.conversion.algorithms import ALGORITHMS, FLAG, NUMBER, PAIR, Algorithm
from tools.fuzzing.damage import ARRAYS, Write, put
from tools.fuzzing.values import JSON, PICKLED, changed, pick

VALUES = {NUMBER: 0.5, PAIR: (0.9, 0.999), FLAG: True}


@functools.cache
def contents() -> Sequence[Mapping[str, Any]]:
    """Good checkpoints: with names and without, of one group and of two."""
    return [
        {"state_dict": ARRAYS, "optimizer": state(algorithm, named, groups)}
        for algorithm in ALGORITHMS
        for named, groups in [(True, 1), (False, 1), (True, 2)]
    ]


def state(algorithm: Algorithm, named: bool, groups: int) -> dict[str, Any]:
    """The state of an optimizer after one step, in so many groups."""
    options = {name: VALUES[kind] for name, kind in algorithm.options.items()}
    options |= {"decoupled_weight_decay": True, **algorithm.refused}
    parts = [list(range(len(ARRAYS)))[i::groups] for i in range(groups)]
    names = list(ARRAYS)
    return {
        "state": {
            number: {"step": np.float32(1), **dict.fromkeys(algorithm.moments, array * 0.25)}
            for number, array in enumerate(ARRAYS.values())
        },
        "param_groups": [
            {**options, "lr": 0.125 * (index + 1), "params": part}
            | ({"param_names": [names[number] for number in part]} if named else {})
            for index, part in enumerate(parts)
        ],
    }


def good() -> Sequence[Write]:
    """What writes the good checkpoints."""
    return [functools.partial(put, pickle.dumps(content)) for content in contents()]


def write(rng: np.random.Generator, path: Path) -> None:
    """Write a checkpoint whose optimizer's state is malformed."""
    content = pick(contents(), rng)
    changes = int(rng.integers(1, 4))
    malformed = content["optimizer"]
    for _ in range(changes):
        malformed = changed(malformed, rng, JSON + PICKLED)
    path.write_bytes(pickle.dumps({**content, "optimizer": malformed}))
