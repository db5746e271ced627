"""How often `identify` finds a base for a model that has none."""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm.auto import tqdm

from huref.invariants.anchors import Anchors
from huref.invariants.record import Record
from huref.lineage.similarity import Similarity
from huref.lineage.verdict import judge
from huref.registry.chance import is_worth_reading, log10_stranger
from huref.registry.entry import make_entry
from huref.registry.identify import ANSWERS, LEVEL, identify_record
from huref.registry.sketch import (
    Codes,
    encode_anchors,
    quantise,
    shared_entries,
    sketch_shifts,
    spread,
)
from huref.registry.store import Store, create_store
from registry_benchmark.engines import RECIPE
from registry_benchmark.families import M, draw_families, load_family, reorder

KNOWN = 40  # families of the bases, as many of the strangers
SHARED = (512, 300, 90)  # anchors that a stranger has in common with the bases
CHECKED = 20  # strangers that go through `identify` itself, and bases of their registry
Vectors = NDArray[np.float32]


def anchors_sharing(count: int) -> Anchors:
    """Made-up anchors, of which the first so many are everybody's."""
    tokens = [b"everybody's %d" % i for i in range(count)]
    tokens += [b"of %d alone %d" % (count, i) for i in range(M - count)]
    return Anchors(tuple(tokens), tuple(range(M)))


def draw(families: list[Path], orders: int, name: str, shared: int) -> Iterator[Record]:
    """Models of some families, each in several orders of its anchors."""
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


def as_vectors(sketches: Codes, shared: NDArray[np.bool_]) -> Vectors:
    """Unit vectors (n, 6 k) whose inner product is the sketches' ICS on the shared entries."""
    x = sketches.astype(np.float32) * shared
    x -= x.sum(axis=2, keepdims=True) / shared.sum(axis=1)[:, None] * shared
    norms = np.linalg.norm(x, axis=2, keepdims=True) * np.sqrt(x.shape[1])
    np.divide(x, norms, out=x, where=norms > 0)  # a term without variation correlates with none
    return x.reshape(len(x), -1)


def sketches_of(family: Path, orders: int) -> Codes:
    """Sketches (orders, 6, k) of a family's base in new orders of its anchors."""
    terms = load_family(family)[0].reshape(6, M, M)
    generator = torch.Generator().manual_seed(int(family.stem.rpartition("-")[2]))
    columns = (torch.arange(M) + torch.from_numpy(sketch_shifts(6, M))[:, :, None]) % M
    which, codes = torch.arange(6)[:, None, None], []
    for _ in range(orders):
        order = torch.randperm(M, generator=generator)
        # What `make_sketch` takes from the terms after `reorder`, without moving the rest.
        codes.append(quantise(terms[which, order, order[columns]].reshape(6, -1)))
    return np.stack(codes)


def check(families: list[Path]) -> float:
    """Largest difference between a score by `as_vectors` and the one that `identify` finds."""
    with TemporaryDirectory() as folder:
        return _check(create_store(f"{folder}/registry", RECIPE), families)


def _check(store: Store, families: list[Path]) -> float:
    bases = [make_entry(record) for record in draw(families[:CHECKED], 1, "base", M)]
    store.add(bases)
    drawn = np.concatenate([sketches_of(family, 1) for family in families[:CHECKED]])
    assert np.array_equal(drawn, np.stack([base.sketch for base in bases]))
    differences = []
    for record in draw(families[-CHECKED:], 1, "stranger", SHARED[1]):
        entry = make_entry(record)
        shared = shared_entries(entry.anchors, bases[0].anchors, 6)
        vectors = as_vectors(np.stack([base.sketch for base in bases]), shared)
        best = float((as_vectors(entry.sketch[None], shared) @ vectors.T).max())
        found = identify_record(record, store, read=0).candidates[0].match.ics
        assert found is not None
        differences.append(abs(best - found))
    return max(differences)


def measure(folder: Path, bases: int, strangers: int) -> dict[int, list[float]]:
    """By shared anchors, the best score of each stranger among the bases.

    Bases and strangers come from different families; a family gives many models by new orders of
    its anchors. Scores are those of a search, by one matrix product for many strangers.
    """
    families = draw_families(folder, 2 * KNOWN, relatives=False)
    sketches = np.concatenate([sketches_of(path, bases // KNOWN) for path in families[:KNOWN]])
    anchors = encode_anchors(anchors_sharing(M))
    best: dict[int, list[float]] = {shared: [] for shared in SHARED}
    masks = {s: shared_entries(anchors, encode_anchors(anchors_sharing(s)), 6) for s in SHARED}
    vectors = {shared: as_vectors(sketches, masks[shared]) for shared in SHARED}
    for family in tqdm(families[KNOWN:], desc="families of strangers", disable=None):
        codes = sketches_of(family, strangers // KNOWN)
        for shared in SHARED:
            scores = as_vectors(codes, masks[shared]) @ vectors[shared].T
            best[shared] += scores.max(axis=1).tolist()
    return best


def report(folder: Path, bases: int, strangers: int) -> str:
    """The measurement as Markdown."""
    best = measure(folder, bases, strangers)
    difference = check(draw_families(folder, 2 * KNOWN, relatives=False))
    lines = [
        f"{strangers:,} strangers against {bases:,} bases ({2 * KNOWN} synthetic families in new "
        "orders of their anchors), weights out of reach, so that sketches decide alone. Scored by "
        f"one matrix product; `identify` itself, on {CHECKED} strangers, differs by at most "
        f"{difference:.0e}.",
        "",
        "| shared anchors | entries | best ICS: median | largest | in its deviations | weights "
        "worth reading | answers other than none | states p < 0.1 | states p < 0.01 |",
        "|" + " ---: |" * 9,
    ]
    known = encode_anchors(anchors_sharing(M))
    for shared, scores in best.items():
        entries = int(shared_entries(known, encode_anchors(anchors_sharing(shared)), 6).sum())
        deviation = spread(entries)
        stated = np.array([log10_stranger(score, deviation, bases) for score in scores])
        read = sum(is_worth_reading(score, deviation, bases) for score in scores)
        judged = [score for score, chance in zip(scores, stated, strict=True) if chance <= LEVEL]
        similar = [Similarity(score, None, shared, None, "") for score in judged]
        wrong = sum(judge(similarity, None).verdict in ANSWERS for similarity in similar)
        cells = [
            str(shared),
            f"{entries:,}",
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
