"""The encoder's config files."""

import hashlib
import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from huref.errors import RecipeError


@dataclass(frozen=True)
class Data:
    """Where training data comes from.

    pool: number of families drawn once; embeddings: of whitened vocabularies they choose from.
    families: a step; each gives a base, a relative at a random rho and one after an accident.
    rho: range of the relatives' correlation. accidents: what happens to the third; may be empty.
    """

    pool: int = 48
    embeddings: int = 16
    widths: list[int] = field(default_factory=lambda: [64, 128, 256, 512, 1024])
    families: int = 8
    rho: list[float] = field(default_factory=lambda: [0.0, 1.0])
    accidents: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Loss:
    """Weights of the loss's parts; `paper` alone replaces graded, robust and strangers.

    memory: batches whose latents stay as further strangers; 0 takes strangers within a batch only.
    """

    graded: float = 1.0
    robust: float = 0.0
    strangers: float = 1.0
    moments: float = 0.0
    adversarial: float = 0.0
    paper: list[float] | None = None
    memory: int = 0


@dataclass(frozen=True)
class TrainingConfig:
    """A config file. Rates are Adam's; both fall to zero along a cosine."""

    architecture: dict[str, Any]
    data: Data
    loss: Loss
    steps: int
    rate: float
    seed: int = 0
    scalar_rate: float = 0.0  # of the few-valued parameters; 0: as the others
    threads: int = 1  # sums depend on it, so it belongs to what is reproduced
    save_every: int = 50

    @property
    def values(self) -> dict[str, Any]:
        """All values, as JSON has them."""
        return asdict(self)

    @property
    def digest(self) -> str:
        """sha256 of all values."""
        return hashlib.sha256(json.dumps(self.values, sort_keys=True).encode()).hexdigest()


def with_steps(config: TrainingConfig, steps: int | None) -> TrainingConfig:
    """The config with another number of steps; None leaves it alone."""
    return config if steps is None else replace(config, steps=steps)


def read_config(path: str | Path) -> TrainingConfig:
    """Read a YAML config.

    Raises:
        RecipeError: it cannot be read, or a key is unknown or missing.
    """
    try:
        with Path(path).open(encoding="utf-8") as file:
            values = yaml.safe_load(file)
        values["data"] = Data(**values.get("data", {}))
        values["loss"] = Loss(**values.get("loss", {}))
        return TrainingConfig(**values)
    except (OSError, yaml.YAMLError, TypeError, AttributeError) as error:
        raise RecipeError(f"{path}: not a usable encoder config: {error}") from error
