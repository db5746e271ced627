"""Training of the encoder from a config file to a checkpoint, for `huref train-encoder`.

Every step seeds its data with the run's seed and the step's number, so that a resumed run gives
the same result as an uninterrupted one.
"""

import csv
import pickle
import time
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from huref.encoder.batches import FamilyPool
from huref.encoder.checkpoint import save_encoder
from huref.encoder.config import TrainingConfig, read_config, with_steps
from huref.encoder.trainer import CURVES, Trainer
from huref.errors import RecipeError
from huref.files import replacing

DEFAULT_OUT = Path("checkpoints/encoder.safetensors")


def _save_state(trainer: Trainer, rows: list[dict[str, float]], path: Path) -> None:
    with replacing(path) as temporary:
        torch.save({"trainer": trainer.state(), "rows": rows}, temporary)


def _load_state(trainer: Trainer, path: Path) -> list[dict[str, float]]:
    """Restore the trainer; return the rows of the curves so far."""
    try:
        saved = torch.load(path, map_location=trainer.device, weights_only=True)
        state, rows = saved["trainer"], saved["rows"]
    except (OSError, RuntimeError, EOFError, KeyError, pickle.UnpicklingError) as error:
        raise RecipeError(
            "the run cannot be resumed from it", file=path, advice="delete it and start again"
        ) from error
    if state["config"] != trainer.config.digest:
        raise RecipeError(
            "it was written under another config",
            file=path,
            advice="restore that config, or train without --resume",
        )
    trainer.restore(state)
    return list(rows)


def _write_curves(rows: list[dict[str, float]], path: Path) -> None:
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, CURVES, lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({key: f"{value:.6g}" for key, value in row.items()})


def _choose_device(device: str) -> str:
    has_gpu = torch.cuda.is_available()
    if device == "auto":
        return "cuda" if has_gpu else "cpu"
    if device != "cpu" and not (has_gpu and device.partition(":")[0] == "cuda"):
        raise RecipeError(f"this machine has no device '{device}'", advice="use auto, cpu or cuda")
    return device


def _run(
    trainer: Trainer, rows: list[dict[str, float]], state: Path, curves: Path, deadline: float
) -> None:
    """Train until the last step or the deadline, and save regularly."""
    config = trainer.config
    pool = FamilyPool(config, trainer.device)
    with tqdm(total=config.steps, initial=trainer.step, unit="step", disable=None) as bar:
        while trainer.step < config.steps and time.monotonic() < deadline:
            rows.append(trainer.advance(pool.draw(trainer.step)))
            bar.update()
            bar.set_postfix({k: f"{rows[-1][k]:.3f}" for k in ("loss", "gap", "stranger_cosine")})
            if trainer.step % config.save_every == 0:
                _save_state(trainer, rows, state)
                _write_curves(rows, curves)


def train(
    config_path: str | Path,
    resume: bool = False,
    device: str = "auto",
    *,
    steps: int | None = None,
    minutes: float | None = None,
    out: str | Path | None = None,
) -> Path:
    """Train an encoder.

    Next to the checkpoint it writes the curves (.csv) and, until the last step, the state from
    which a run can be resumed (.state.pt).

    Args:
        config_path: a YAML config, see `TrainingConfig`.
        resume: whether to continue from the state next to `out`, if there is one.
        device: "cpu", "cuda" or "auto".
        steps: number of steps, in place of the config's.
        minutes: time after which to stop; the encoder so far is written and the state kept.
        out: path of the checkpoint; by default checkpoints/encoder.safetensors.

    Returns:
        The checkpoint's path.

    Raises:
        RecipeError: the config, or the state to resume from, cannot be used.
    """
    config = with_steps(read_config(config_path), steps)
    path = Path(out) if out is not None else DEFAULT_OUT
    path.parent.mkdir(parents=True, exist_ok=True)
    state, curves = path.with_suffix(".state.pt"), path.with_suffix(".csv")
    threads = torch.get_num_threads()
    torch.set_num_threads(config.threads)
    torch.backends.cudnn.deterministic = True  # otherwise sums on a GPU differ between runs
    start = time.monotonic()
    try:
        trainer = Trainer(config, _choose_device(device))
        rows = _load_state(trainer, state) if resume and state.exists() else []
        deadline = start + 60 * minutes if minutes is not None else float("inf")
        _run(trainer, rows, state, curves, deadline)
    finally:
        torch.set_num_threads(threads)
    _write_curves(rows, curves)
    save_encoder(trainer.network, path, _metadata(config, trainer, config_path))
    if trainer.step >= config.steps:
        state.unlink(missing_ok=True)
    else:
        _save_state(trainer, rows, state)
    return path


def _metadata(config: TrainingConfig, trainer: Trainer, config_path: str | Path) -> dict[str, Any]:
    """The metadata of the checkpoint."""
    return {
        "config": config.values,
        "seed": config.seed,
        "steps": trainer.step,
        "command": f"huref train-encoder --config configs/{Path(config_path).name}",
        "torch": torch.__version__,
        "device": trainer.device,
        "figures": {"gap": trainer.figures.gap, "mean_cos": trainer.figures.stranger_cosine},
    }
