"""Measures lineage verdicts and rival fingerprints on a zoo of known lineage.

    python -m scripts.zoo make --config configs/lineage-zoo.yaml --out runs/lineage-zoo
    python -m scripts.evaluate lineage [runs/lineage-zoo] [--out FOLDER] [--minutes N] [--sample N]

Writes docs/measured/lineage.md and configs/lineage.json. Measurements are saved under --out, so
that an interrupted run can be resumed; evidence is measured again whenever huref changed.
"""

import argparse
import json
import math
import os
import time
from pathlib import Path

from scripts import ROOT

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
import yaml

from huref.errors import HurefError
from huref.files import replacing
from scripts.evaluate.lineage.calibrating import measure_null
from scripts.evaluate.lineage.measuring import (
    digest_of_code,
    evidence,
    make_records,
    mixings,
    rival_scores,
)
from scripts.evaluate.lineage.report import Evaluation, calibration_file, render
from scripts.evaluate.lineage.truth import all_pairs, known_misses
from scripts.zoo.manifest import read_manifest

CONFIG = ROOT / "configs" / "lineage-zoo.yaml"


def evaluate(zoo: Path, out: Path, minutes: float, sample: int) -> Evaluation:
    """Measure what is not saved yet, for at most `minutes`."""
    deadline = time.monotonic() + 60 * minutes
    models = read_manifest(zoo)["models"]
    if not models:
        raise SystemExit(
            f"evaluate lineage: no zoo in {zoo}; `python -m scripts.zoo make` makes one"
        )
    pairs = all_pairs(models, sample)
    records = make_records(zoo, models, out)
    others = known_misses(models, pairs)
    found = evidence([*pairs, *others], records, out, deadline)
    rivals = rival_scores(zoo, models, pairs, out, deadline)
    null = measure_null(pairs, found, records)
    mixed = mixings(models, records)
    wanted = yaml.safe_load(CONFIG.read_text("utf-8"))["models"]
    missing = [name for name in wanted if name not in models]
    code = digest_of_code("lineage")
    return Evaluation(models, pairs, sample, found, rivals, mixed, null, missing, others, code)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("zoo", nargs="?", type=Path, default=ROOT / "runs" / "lineage-zoo")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "lineage-evaluation")
    parser.add_argument("--table", type=Path, default=ROOT / "docs" / "measured" / "lineage.md")
    parser.add_argument("--calibration", type=Path, default=ROOT / "configs" / "lineage.json")
    parser.add_argument(
        "--minutes",
        type=float,
        default=math.inf,
        help="stop after so many minutes; run again to resume",
    )
    parser.add_argument(
        "--sample", type=int, default=8, help="measure one in so many of the other pairs"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    try:
        evaluation = evaluate(options.zoo, options.out, options.minutes, options.sample)
    except HurefError as error:
        raise SystemExit(f"evaluate lineage: {error}") from error
    with replacing(options.table) as temporary:
        temporary.write_text(render(evaluation), "utf-8")
    with replacing(options.calibration) as temporary:
        content = calibration_file(evaluation)
        temporary.write_text(json.dumps(content, indent=1) + "\n", "utf-8")
