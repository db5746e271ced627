"""Measures time and memory of a lineage table of many records.

    python -m scripts.benchmark lineage --models 1000 --families 100 --vocabularies 5

Records are random: terms, units and barcodes of a family's members are those of the first member
plus noise; families are independent. Some members share only the barcodes with their family, like
models whose vocabulary was replaced. With --work the records are saved and read again, like those
of `huref compare *.safetensors`.
"""

import resource
import time
from pathlib import Path

import torch

from huref.invariants.anchors import Anchors
from huref.invariants.barcodes import NUMBERS, Barcodes, sampled_units
from huref.invariants.record import Record, load_record
from huref.invariants.unit_features import EVERY_TOKEN, PROJECTIONS, UnitFeatures
from huref.lineage.table import build_table
from huref.recipe import load_recipe
from scripts import make_parser

NOISE = 0.1  # standard deviation of a member's noise, relative to its family's values
OTHER_TOKENS = 160  # anchors that differ between vocabularies


def make_anchors(m: int, vocabulary: int) -> Anchors:
    """Anchors of a vocabulary; the first buckets hold strings that no other vocabulary has."""
    own = OTHER_TOKENS if vocabulary else 0
    strings = [f"{vocabulary}.{i}" if i < own else f"shared.{i}" for i in range(m)]
    return Anchors(tuple(s.encode() for s in strings), tuple(range(m)))


def make_units(hidden: int, layers: tuple[int, ...], random: torch.Generator) -> UnitFeatures:
    """Random features of units."""
    rows = hidden * len(layers)
    features = torch.randn(rows, 3, PROJECTIONS, generator=random)
    networks = [[layer, EVERY_TOKEN, hidden] for layer in layers]
    return UnitFeatures(
        features.half(),
        torch.ones(len(layers), 3),
        torch.tensor(networks, dtype=torch.int32),
    )


def make_barcodes(hidden: int, layers: tuple[int, ...], random: torch.Generator) -> Barcodes:
    """Random barcodes of a sample of units."""
    coded = len(sampled_units(hidden))
    networks = [[layer, EVERY_TOKEN, hidden, coded] for layer in layers]
    numbers = torch.randn(coded * len(layers), NUMBERS, generator=random)
    return Barcodes(numbers.half(), torch.tensor(networks, dtype=torch.int32))


def make_records(
    models: int, families: int, vocabularies: int, hidden: int, foreign: int
) -> list[Record]:
    """Records of families; the last `foreign` records share only barcodes with their family."""
    recipe, layers = load_recipe()[0], (1, 2)
    anchors = [make_anchors(recipe.m, vocabulary) for vocabulary in range(vocabularies)]
    shape = (len(layers), 3, recipe.m, recipe.m)
    records = []
    for number in range(models):
        family = number % families
        random = torch.Generator().manual_seed(family)
        terms = torch.randn(shape, generator=random)
        units = make_units(hidden, layers, random)
        codes = make_barcodes(hidden, layers, random)
        latent = torch.randn(512, generator=random)
        if number >= families:
            random.manual_seed(models + number)
            terms += NOISE * torch.randn(shape, generator=random)
            moved = units.features + NOISE * torch.randn(units.features.shape, generator=random)
            units = UnitFeatures(moved.half(), units.scales, units.networks)
            noisy = codes.numbers + NOISE * torch.randn(codes.numbers.shape, generator=random)
            codes = Barcodes(noisy.half(), codes.networks)
        if number >= models - foreign:
            terms = torch.randn(shape, generator=random)
            units = make_units(hidden, layers, random)
        name = f"family-{family}/model-{number}"
        chosen = anchors[family % vocabularies]
        records.append(
            Record(name, None, recipe, layers, chosen, terms, latent.numpy(), units, codes)
        )
    return records


def main() -> None:
    """Measure and print one line per figure."""
    parser = make_parser(__doc__)
    parser.add_argument("--models", type=int, default=1000)
    parser.add_argument("--families", type=int, default=100)
    parser.add_argument("--vocabularies", type=int, default=5)
    parser.add_argument("--hidden", type=int, default=512, help="units of a feed-forward network")
    parser.add_argument(
        "--foreign", type=int, default=20, help="members with another vocabulary than their family"
    )
    parser.add_argument(
        "--work", type=Path, help="save the records in this folder and read them again"
    )
    options = parser.parse_args()
    records = make_records(
        options.models, options.families, options.vocabularies, options.hidden, options.foreign
    )
    if options.work is not None:
        options.work.mkdir(parents=True, exist_ok=True)
        paths = [options.work / f"{i}.safetensors" for i in range(len(records))]
        for record, path in zip(records, paths, strict=True):
            record.save(path)
        began = time.perf_counter()
        records = [load_record(path) for path in paths]
        print(f"reading records  {time.perf_counter() - began:.1f} s")
    began, worked = time.perf_counter(), time.process_time()
    table = build_table(records)
    seconds, worked = time.perf_counter() - began, time.process_time() - worked
    right = sum(
        (pair.a.split("/")[0] == pair.b.split("/")[0]) == (pair.evidence.verdict == "descends")
        for pair in table.pairs
    )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(
        f"table            {seconds:.1f} s ({worked:.1f} s of processor time), "
        f"{len(table.pairs):,} pairs of {len(records):,} models"
    )
    print(f"verdicts right   {right:,} of {len(table.pairs):,}")
    print(f"peak memory      {peak / 2**30:.1f} GiB")
