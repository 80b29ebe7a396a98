"""The options of `train_digits.py`, on its command line and stored beside its checkpoints."""

import argparse
import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path


@dataclass(frozen=True)
class Config:
    """The options, each of them also on the command line: `--learning-rate 0.003`."""

    output: Path = Path("digits-run")
    cpu_devices: int = 2  # if there is no accelerator: the number of cores
    seed: int = 0
    hidden_dim: int = 64
    batch_size: int = 64
    epochs: int = 40
    patience: int = 10  # epochs without a better validation loss
    warmup_epochs: int = 2
    learning_rate: float = 1e-2
    weight_decay: float = 0.1
    clip_norm: float = 1.0
    noise: float = 0.2  # standard deviation, added to the ink
    label_smoothing: float = 0.1


def parse_arguments(description: str) -> Config:
    """The options from the command line."""
    parser = argparse.ArgumentParser(description=description)
    for field in fields(Config):
        parser.add_argument(
            "--" + field.name.replace("_", "-"),
            type=type(field.default),
            default=field.default,
            help="default: %(default)s",
        )
    chosen = Config(**vars(parser.parse_args()))
    if chosen.epochs < 1:
        parser.error(f"--epochs: expected at least 1, got {chosen.epochs}")
    return chosen


def remember(config: Config) -> None:
    """Store the options beside the checkpoints; refuse to continue with different ones."""
    path = config.output / "config.json"
    chosen = json.dumps(asdict(config) | {"output": None}, indent=2)
    if not path.exists():
        config.output.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp")
        temporary.write_text(chosen)
        temporary.replace(path)
    elif path.read_text() != chosen:
        raise SystemExit(
            f"{config.output}: expected the options that this run was started with, got others; "
            "give those in its config.json, or another --output."
        )
