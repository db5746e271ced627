"""How often `huref identify` finds a base for a model that descends from none."""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm.auto import tqdm

from huref.invariants.anchors import Anchors
from huref.invariants.record import Record
from huref.lineage.similarity import Similarity
from huref.lineage.verdict import judge
from huref.registry.anchor_codes import encode_anchors
from huref.registry.chance import is_worth_reading, log10_stranger
from huref.registry.correlation import anchor_ratio, correlate_terms, ics_deviation, norm_ratio
from huref.registry.entry import make_entry
from huref.registry.identification import ANSWERS
from huref.registry.identify import LEVEL, identify_record
from huref.registry.sketch import KEPT, Codes, make_sketch, project
from huref.registry.store import Store
from huref.registry.stores import create_store
from scripts.benchmark.registry.families import M, draw_families, load_family, reorder
from scripts.benchmark.registry.random_entries import RECIPE

KNOWN = 40  # families of bases; as many of strangers
SHARED = (512, 300, 90)  # anchors shared by a stranger and the bases
PARTLY = 10  # one in so many strangers is also scored on fewer anchors
CHECKED = 20  # strangers also scored by `identify` itself, in a registry of as many bases


def anchors_sharing(count: int) -> Anchors:
    """Invented anchors; the first `count` are the same in every model."""
    tokens = [b"everybody's %d" % i for i in range(count)]
    tokens += [b"of %d alone %d" % (count, i) for i in range(M - count)]
    return Anchors(tuple(tokens), tuple(range(M)))


def draw(families: list[Path], orders: int, name: str, shared: int) -> Iterator[Record]:
    """Records of the families' bases, each in several orders of its anchors."""
    for family in families:
        terms = load_family(family)[0]
        generator = torch.Generator().manual_seed(int(family.stem.rpartition("-")[2]))
        for number in range(orders):
            yield Record(
                model=f"{name}-{family.stem}-{number}",
                revision=None,
                recipe=RECIPE,
                layers=(1, 2),
                anchors=anchors_sharing(shared),
                terms=reorder(terms, generator),
                latent=np.ones(512, np.float32),
            )


def sketches_of(family: Path, orders: int) -> Codes:
    """Sketches (orders, 6, 1024) of a family's base in random orders of its anchors."""
    anchors = encode_anchors(anchors_sharing(M))
    drawn = draw([family], orders, "", M)
    return np.stack([make_sketch(r.terms, anchors) for r in drawn if r.terms is not None])


def deviation_of(shared: int) -> float:
    """Standard deviation of a stranger's score on so many shared anchors."""
    return anchor_ratio(shared, M) * ics_deviation(6 * KEPT, measured=True)


def check(families: list[Path]) -> float:
    """Largest difference between the scores computed here and those of `identify`."""
    with TemporaryDirectory() as folder:
        return _check(create_store(f"{folder}/registry", RECIPE), families)


def _check(store: Store, families: list[Path]) -> float:
    bases = [make_entry(record) for record in draw(families[:CHECKED], 1, "base", M)]
    store.add(bases)
    sketches = np.stack([base.sketch for base in bases])
    differences = []
    for record in draw(families[-CHECKED:], 1, "stranger", SHARED[1]):
        assert record.terms is not None
        best = float(score(record.terms, sketches, SHARED[1]).max())
        found = identify_record(record, store, read=0).candidates[0].match.ics
        assert found is not None
        differences.append(abs(best - found))
    return max(differences)


def score(terms: Tensor, sketches: Codes, shared: int) -> NDArray[np.float64]:
    """ICS (n,) of a stranger with each base, on the anchors that they share."""
    filled, used = np.ones(M, bool), np.arange(M) < shared
    found = norm_ratio(terms, used, filled) * correlate_terms(project(terms, used), sketches)
    return np.asarray(found.mean(axis=1))


def measure(folder: Path, bases: int, strangers: int) -> dict[int, list[float]]:
    """By number of shared anchors, the best score of each stranger among the bases.

    Bases and strangers are from different families. Each family gives many models by random orders
    of its anchors.
    """
    families = draw_families(folder, 2 * KNOWN, relatives=False)
    sketches = np.concatenate([sketches_of(path, bases // KNOWN) for path in families[:KNOWN]])
    best: dict[int, list[float]] = {shared: [] for shared in SHARED}
    drawn = draw(families[KNOWN:], strangers // KNOWN, "stranger", M)
    for number, record in enumerate(tqdm(drawn, total=strangers, unit="stranger", disable=None)):
        assert record.terms is not None
        for shared in SHARED if number % PARTLY == 0 else SHARED[:1]:
            best[shared].append(float(score(record.terms, sketches, shared).max()))
    return best


def report(folder: Path, bases: int, strangers: int) -> str:
    """The measurement as Markdown."""
    best = measure(folder, bases, strangers)
    difference = check(draw_families(folder, 2 * KNOWN, relatives=False))
    lines = [
        f"{strangers:,} strangers against {bases:,} bases ({2 * KNOWN} synthetic families in new "
        "orders of their anchors), weights out of reach, so that sketches decide alone. Scored "
        f"without a registry; `identify` itself, on {CHECKED} strangers, differs by at most "
        f"{difference:.0e}.",
        "",
        "| shared anchors | strangers | deviation | best ICS: median | largest | in its "
        "deviations | weights worth reading | answers other than none | states p < 0.1 | "
        "states p < 0.01 |",
        "|" + " ---: |" * 10,
    ]
    for shared, scores in best.items():
        deviation = deviation_of(shared)
        stated = np.array([log10_stranger(score, deviation, bases) for score in scores])
        read = sum(is_worth_reading(score, deviation, bases) for score in scores)
        judged = [score for score, chance in zip(scores, stated, strict=True) if chance <= LEVEL]
        similar = [Similarity(score, None, shared, None, "") for score in judged]
        wrong = sum(judge(similarity, None).verdict in ANSWERS for similarity in similar)
        cells = [
            str(shared),
            f"{len(scores):,}",
            f"{deviation:.4f}",
            f"{np.median(scores):.4f}",
            f"{max(scores):.4f}",
            f"{max(scores) / deviation:.2f}",
            f"{100 * read / len(scores):.2f} %",
            f"{wrong} ({100 * wrong / len(scores):.2f} %)",
            f"{100 * np.mean(stated < -1):.2f} %",
            f"{100 * np.mean(stated < -2):.2f} %",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
