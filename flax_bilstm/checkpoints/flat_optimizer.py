"""Optimizer states with flat names, as torch.distributed.checkpoint.state_dict can make them.

`StateDictOptions(flatten_optimizer_state_dict=True)` names a moment `state.{parameter}.exp_avg`,
and an option `param_groups.{parameter}.lr`, for each parameter by itself.
"""

from collections.abc import Mapping
from typing import Any

GROUPS = "param_groups."
STATE = "state."


def is_flat(value: Mapping[Any, Any]) -> bool:
    """Whether a mapping is an optimizer's state with flat names."""
    return any(isinstance(key, str) and key.startswith(GROUPS) for key in value)


def nested(flat: Mapping[Any, Any]) -> dict[str, Any]:
    """The state as `optimizer.state_dict()` has it, with a group for each parameter, named."""
    state, options = _by_parameter(flat, STATE), _by_parameter(flat, GROUPS)
    groups = [{**options[name], "params": [name], "param_names": [name]} for name in options]
    return {"state": state, "param_groups": groups}


def _by_parameter(flat: Mapping[Any, Any], start: str) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for key, value in flat.items():
        if isinstance(key, str) and key.startswith(start):
            name, _, last = key.removeprefix(start).rpartition(".")
            found.setdefault(name, {})[last] = value
    return found
