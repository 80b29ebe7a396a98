"""Orbax checkpoints of a model and its optimizer: those of the best and of the latest epoch.

Writing a checkpoint is atomic, and restoring gives bit for bit what was saved.
"""

from pathlib import Path

import orbax.checkpoint as ocp
from flax import nnx
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, BestN, LatestN


def open_in(output: Path) -> ocp.CheckpointManager:
    """The checkpoints in `output`, of which the best and the latest are kept."""

    def goodness(metrics: dict[str, float]) -> float:
        return -metrics["loss"]

    # A checkpoint without metrics was being deleted when a run was killed: delete it.
    best = BestN(get_metric_fn=goodness, n=1, keep_checkpoints_without_metrics=False)
    keep = AnyPreservationPolicy([LatestN(1), best])
    options = ocp.CheckpointManagerOptions(
        best_fn=goodness, preservation_policy=keep, cleanup_tmp_directories=True
    )
    return ocp.CheckpointManager((output / "checkpoints").absolute(), options=options)


def save(
    manager: ocp.CheckpointManager,
    epoch: int,
    metrics: dict[str, float],
    model: nnx.Module,
    optimizer: nnx.Optimizer,
) -> None:
    """Begin to write a checkpoint, in the background."""
    state = {"model": nnx.state(model), "optimizer": nnx.state(optimizer)}
    manager.save(epoch, args=ocp.args.StandardSave(state), metrics=metrics)


def restore(
    manager: ocp.CheckpointManager,
    epoch: int | None,
    model: nnx.Module,
    optimizer: nnx.Optimizer,
) -> int:
    """Restore the model and the optimizer as after `epoch`; returns it, or 0 for None."""
    if epoch is None:
        return 0
    manager.wait_until_finished()
    state = {"model": nnx.state(model), "optimizer": nnx.state(optimizer)}
    state = manager.restore(epoch, args=ocp.args.StandardRestore(state))
    nnx.update(model, state["model"])
    nnx.update(optimizer, state["optimizer"])
    return epoch
