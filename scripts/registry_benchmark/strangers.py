"""How often `identify` finds a base for a model that has none."""

import json
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from huref.invariants.anchors import Anchors
from huref.invariants.record import Record
from huref.registry.entry import make_entry
from huref.registry.identify import identify_record
from huref.registry.sketch import spread
from huref.registry.store import create_store, open_store
from registry_benchmark.engines import RECIPE
from registry_benchmark.families import M, draw_families, load_family, reorder

KNOWN = 40  # families of the bases, as many of the strangers
SHARED = (512, 512, 300, 90)  # anchors that a stranger has in common with the bases, in turns


@lru_cache
def anchors_sharing(count: int) -> Anchors:
    """Made-up anchors, of which the first so many are everybody's."""
    tokens = [b"everybody's %d" % i for i in range(count)]
    tokens += [b"of %d alone %d" % (count, i) for i in range(M - count)]
    return Anchors(tuple(tokens), tuple(range(M)))


def measure(folder: Path, bases: int, strangers: int) -> list[dict[str, Any]]:
    """What `identify` says of every stranger; results are kept in the folder as they come.

    Bases and strangers come from different families; a family gives many models by new orders of
    its anchors. The bases' weights cannot be read, so the answers rest on sketches alone.
    """
    out = folder / f"strangers-{bases}.jsonl"
    each = strangers // KNOWN
    lines = out.read_text().splitlines() if out.exists() else []
    lines = lines[: len(lines) // each * each]  # families that were finished
    out.write_text("".join(f"{line}\n" for line in lines))
    done = [json.loads(line) for line in lines]
    families = draw_families(folder, 2 * KNOWN, relatives=False)

    def draw(family: Path, orders: int, name: str) -> Iterator[Record]:
        terms = load_family(family)[0]
        place = families.index(family)
        generator, latents = torch.Generator().manual_seed(place), np.random.default_rng(place)
        for number in range(orders):
            shared = SHARED[number % len(SHARED)] if name == "stranger" else M
            yield Record(
                model=f"{name}-{family.stem}-{number}",
                revision=None,
                recipe=RECIPE,
                layers=(1, 2),
                anchors=anchors_sharing(shared),
                terms=reorder(terms, generator),
                latent=latents.standard_normal(512).astype(np.float32),
            )

    registry = folder / f"registry-{bases}"
    uri = str(registry)
    store = open_store(uri) if registry.exists() else create_store(uri, RECIPE)
    for family in families[:KNOWN]:
        records = draw(family, bases // KNOWN, "base")
        store.add([replace(make_entry(record), measured_by="benchmark") for record in records])
    with out.open("a") as file, tqdm(total=strangers, initial=len(done), disable=None) as bar:
        for family in families[KNOWN + len(done) // each :]:
            for record in draw(family, each, "stranger"):
                found = identify_record(record, store, read=0)
                best = found.candidates[0]
                assert best.match.ics is not None
                line = {
                    "ics": best.match.ics,
                    "deviation": spread(best.match.compared),
                    "log10_stranger": best.log10_stranger,
                    "answer": found.answer,
                    "worth_reading": any(c.evidence.verdict for c in found.candidates),
                    "shared": best.match.shared_anchors,
                }
                file.write(json.dumps(line) + "\n")
                done.append(line)
                bar.update()
    return done


def report(folder: Path, bases: int, strangers: int) -> str:
    """The measurement as Markdown."""
    results = measure(folder, bases, strangers)
    lines = [
        f"{len(results):,} strangers against {bases:,} bases, {2 * KNOWN} synthetic families in "
        "new orders of their anchors; weights out of reach, so that sketches decide alone.",
        "",
        "| shared anchors | strangers | best sketch ICS: median | largest | z of the largest | "
        "weights worth reading | answer other than none |",
        "|" + " ---: |" * 7,
    ]
    for shared in (*sorted(set(SHARED), reverse=True), None):
        rows = [r for r in results if shared in (None, r["shared"])]
        scores = np.array([row["ics"] for row in rows])
        z = np.array([row["ics"] / row["deviation"] for row in rows])
        read = sum(bool(row["worth_reading"]) for row in rows)
        wrong = sum(row["answer"] != "none" for row in rows)
        cells = [
            "all" if shared is None else str(shared),
            f"{len(rows):,}",
            f"{np.median(scores):.4f}",
            f"{scores.max():.4f}",
            f"{z.max():.2f}",
            f"{read} ({100 * read / len(rows):.2f} %)",
            f"{wrong} ({100 * wrong / len(rows):.2f} %)",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    stated = np.array([10 ** row["log10_stranger"] for row in results])
    lines += ["", "| probability that `identify` states | below 0.5 | below 0.1 | below 0.01 |"]
    lines += ["| --- |" + " ---: |" * 3]
    shares = [f"{100 * np.mean(stated < level):.2f} %" for level in (0.5, 0.1, 0.01)]
    lines.append("| strangers of which it states so little | " + " | ".join(shares) + " |")
    return "\n".join(lines)
