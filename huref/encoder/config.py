"""Config files of encoder training."""

import hashlib
import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from huref.errors import RecipeError


@dataclass(frozen=True)
class DataConfig:
    """The training data.

    Attributes:
        pool: number of families in the pool.
        embeddings: number of whitened embeddings from which families choose.
        widths: widths from which embeddings choose.
        families: number of families per step; each gives a base and a relative.
        rho: range of the correlation between base and relative.
        accidents: kinds of accidents; with any, each family also gives its base after one of them.
    """

    pool: int = 48
    embeddings: int = 16
    widths: list[int] = field(default_factory=lambda: [64, 128, 256, 512, 1024])
    families: int = 8
    rho: list[float] = field(default_factory=lambda: [0.0, 1.0])
    accidents: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class LossConfig:
    """Weights of the parts of the loss, see `huref.encoder.losses`.

    Attributes:
        graded: of the squared error of cos z against the measured ICS.
        robust: of 1 - cos z between a base and the base after an accident.
        strangers: of the mean squared cosine of unrelated latents.
        moments: of the deviation of second and fourth moments from those of N(0, 1).
        adversarial: of the discriminator's part.
        paper: the two weights of HuRef's loss, which replaces all parts but the adversarial one.
        memory: number of earlier batches whose latents count as unrelated; 0: the batch's own only.
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
    """A config file. `rate` and `scalar_rate` are learning rates; both fall to zero as a cosine."""

    architecture: dict[str, Any]
    data: DataConfig
    loss: LossConfig
    steps: int
    rate: float
    seed: int = 0
    scalar_rate: float = 0.0  # of parameters with few values; 0: `rate`
    threads: int = 1  # part of the config because the rounding of sums depends on it
    save_every: int = 50

    @property
    def values(self) -> dict[str, Any]:
        """All values, as a JSON object."""
        return asdict(self)

    @property
    def digest(self) -> str:
        """sha256 of all values."""
        return hashlib.sha256(json.dumps(self.values, sort_keys=True).encode()).hexdigest()


def with_steps(config: TrainingConfig, steps: int | None) -> TrainingConfig:
    """The config with another number of steps; unchanged for None."""
    return config if steps is None else replace(config, steps=steps)


def read_config(path: str | Path) -> TrainingConfig:
    """Read a config file in YAML.

    Raises:
        RecipeError: it cannot be read, or a key is unknown or missing.
    """
    try:
        with Path(path).open(encoding="utf-8") as file:
            values = yaml.safe_load(file)
        values["data"] = DataConfig(**values.get("data", {}))
        values["loss"] = LossConfig(**values.get("loss", {}))
        return TrainingConfig(**values)
    except (OSError, yaml.YAMLError, TypeError, AttributeError) as error:
        raise RecipeError(f"not a usable encoder config: {error}", file=path) from error
