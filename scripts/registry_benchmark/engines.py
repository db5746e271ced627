"""Build, memory and query time of registries, beside exact search by other libraries.

Each measurement is a process of its own, so that its peak memory is its own. Times are CPU
seconds of that process, which do not depend on what else the machine does.
"""

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from huref.recipe import load_recipe
from huref.registry.entry import Entry, Query
from huref.registry.sketch import DIAGONALS
from huref.registry.store import create_store, open_store

QUERIES = 5
NEIGHBOURS = 10
BLOCK = 100  # entries turned into float64 at a time
M = 512
LARGEST_FLOAT = 20_000  # sketches as float32 (74 kB each) that the other libraries are given
# Its own, so that a newer encoder or decoder does not spoil what a run has kept.
RECIPE = replace(load_recipe()[0], name="benchmark", encoder="-", decoder="-")
ANCHORS = np.arange(1, M + 1, dtype=np.uint32)
ENGINES = ("huref folder", "huref LanceDB", "scikit-learn", "FAISS", "LanceDB")
Vectors = NDArray[np.float32]
Search = Callable[[Query], list[int]]


def make_entry(number: int) -> Entry:
    """A random entry; all have one vocabulary, so that none can be skipped."""
    g = np.random.default_rng(number)
    return Entry(
        model=str(number),
        revision=None,
        recipe=RECIPE.digest,
        base=None,
        measured_at="2026-11-21",
        measured_by="benchmark",
        latent=g.standard_normal(512, np.float32),
        sketch=_random_codes(g),
        anchors=ANCHORS,
    )


def _random_codes(g: np.random.Generator) -> NDArray[np.int8]:
    codes = np.frombuffer(g.bytes(6 * DIAGONALS * M), np.int8) >> 1  # -64 to 63
    return codes.reshape(6, DIAGONALS * M)


def make_queries(count: int) -> list[Query]:
    """A few of the entries under much noise."""
    queries = []
    for number in np.linspace(0, count - 1, QUERIES).astype(int).tolist():
        entry, g = make_entry(number), np.random.default_rng(10**9 + number)
        noise = _random_codes(g)
        sketch = np.clip(entry.sketch * 0.3 + noise, -127, 127).astype(np.int8)
        latent = entry.latent * 0.3 + g.standard_normal(512, np.float32)
        queries.append(Query(latent, sketch, entry.anchors))
    return queries


def as_vectors(sketches: NDArray[np.int8]) -> Vectors:
    """Sketches (n, 6, k) as unit vectors (n, 6 k) whose inner product is the sketches' ICS."""
    x = sketches.astype(np.float32)
    x -= x.mean(axis=2, keepdims=True)
    x /= np.linalg.norm(x, axis=2, keepdims=True) * np.sqrt(x.shape[1])
    return x.reshape(len(x), -1)


def normalised(latents: Vectors) -> Vectors:
    """Latents (n, 512) as unit vectors."""
    unit: Vectors = latents / np.linalg.norm(latents, axis=1, keepdims=True)
    return unit


def vectors_of(what: str, entries: Iterator[Entry], count: int) -> Vectors:
    """The unit vectors of all entries, whose inner products are what is searched by."""
    if what == "latents":
        return normalised(np.stack([entry.latent for entry in entries]))
    vectors = np.empty((count, 6 * DIAGONALS * M), np.float32)
    for number, entry in enumerate(entries):
        vectors[number] = as_vectors(entry.sketch[None])[0]
    return vectors


def of_query(what: str, query: Query) -> Vectors:
    """The unit vector (1, d) of a query."""
    if what == "latents":
        return normalised(query.latent[None])
    assert query.sketch is not None
    return as_vectors(query.sketch[None])


def entries(count: int) -> Iterator[Entry]:
    """So many of them."""
    return map(make_entry, range(count))


def build(engine: str, what: str, count: int, place: Path) -> Search:
    """Put entries into an engine (or open what was put there) and return its search."""
    if engine.startswith("huref"):
        uri = str(place / "registry") + (".lance" if engine.endswith("LanceDB") else "")
        if Path(uri).exists():
            store = open_store(uri)
        else:
            store = create_store(uri, RECIPE)
            store.add(entries(count))

        def search(query: Query) -> list[int]:
            asked = query if what == "sketches" else Query(query.latent)
            return [int(match.entry.model) for match in store.search(asked, NEIGHBOURS)]

        return search
    if engine == "LanceDB":
        return _build_lance(what, count, place)
    vectors = vectors_of(what, entries(count), count)
    if engine == "FAISS":
        import faiss

        index = faiss.IndexFlatIP(vectors.shape[1])
        index.add(vectors)
        return lambda query: index.search(of_query(what, query), NEIGHBOURS)[1][0].tolist()
    from sklearn.neighbors import NearestNeighbors

    fitted = NearestNeighbors(n_neighbors=NEIGHBOURS, algorithm="brute", metric="cosine")
    fitted.fit(vectors)
    return lambda query: fitted.kneighbors(of_query(what, query))[1][0].tolist()


def _build_lance(what: str, count: int, place: Path) -> Search:
    """A table of vectors alone, searched by LanceDB's own exact search."""
    import lancedb
    import pyarrow as pa

    database = lancedb.connect(str(place / "vectors.lance"))
    if "vectors" not in database.list_tables().tables:
        vectors = vectors_of(what, entries(count), count)
        flat = pa.array(vectors.reshape(-1), pa.float32())
        column = pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
        database.create_table("vectors", pa.table({"number": range(count), "vector": column}))
    table = database.open_table("vectors")

    def search(query: Query) -> list[int]:
        found: Any = table.search(of_query(what, query)[0])
        rows = found.distance_type("cosine").limit(NEIGHBOURS).select(["number", "_distance"])
        return [row["number"] for row in rows.to_list()]

    return search


def true_neighbours(what: str, count: int, queries: list[Query]) -> list[list[int]]:
    """The exact answer, in float64 and by other arithmetic than any engine's."""
    asked = [query.latent[None] if what == "latents" else query.sketch for query in queries]
    y = np.stack([rows for rows in asked if rows is not None]).astype(np.float64)
    scores = []
    for start in range(0, count, BLOCK):
        block = [make_entry(number) for number in range(start, min(start + BLOCK, count))]
        rows = [entry.latent[None] if what == "latents" else entry.sketch for entry in block]
        x = np.stack(rows).astype(np.float64)
        scores.append(_cosines(x, y) if what == "latents" else _pearson(x, y))
    return [np.argsort(-row)[:NEIGHBOURS].tolist() for row in np.concatenate(scores).T]


def _cosines(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    inner = np.einsum("nte,qte->nq", x, y)
    norms = np.sqrt(np.einsum("nte,nte->n", x, x))[:, None] * np.sqrt(np.square(y).sum((1, 2)))
    ratio: NDArray[np.float64] = inner / norms
    return ratio


def _pearson(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    # Of whole numbers, so that all sums are exact: n S(xy) - S(x) S(y), and so on.
    n = x.shape[2]
    covariance = n * np.einsum("nte,qte->nqt", x, y) - x.sum(2)[:, None] * y.sum(2)[None]
    of_x, of_y = (n * np.square(z).sum(2) - z.sum(2) ** 2 for z in (x, y))
    correlations: NDArray[np.float64] = (covariance / np.sqrt(of_x[:, None] * of_y[None])).mean(2)
    return correlations


def measure_here(engine: str, what: str, count: int, place: Path) -> dict[str, object]:
    """Build or open, then search, in this process."""
    queries = make_queries(count)
    began = time.process_time()
    search = build(engine, what, count, place)
    ready = time.process_time()
    answers, took = [], []
    for query in queries:
        start = time.process_time()
        answers.append(search(query))
        took.append(time.process_time() - start)
    return {
        "build": ready - began,
        "first": took[0],
        "query": float(np.median(took[1:])),
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "answers": answers,
    }


def measure(engine: str, what: str, count: int, folder: Path) -> dict[str, object]:
    """Build in one process and, where it is on disk, search in another; results are kept."""
    place = folder / f"{engine}-{what if engine == 'LanceDB' else 'all'}-{count}".replace(" ", "-")
    kept = folder / f"result-{engine}-{what}-{count}.json".replace(" ", "-")
    if kept.exists():
        result: dict[str, object] = json.loads(kept.read_text())
        return result
    place.mkdir(parents=True, exist_ok=True)
    was_there = any(place.iterdir())
    first = _in_process(engine, what, count, place)
    on_disk = sum(p.stat().st_size for p in place.rglob("*") if p.is_file())
    second = _in_process(engine, what, count, place) if on_disk else first
    truth = folder / f"truth-{what}-{count}.json"
    if not truth.exists():
        truth.write_text(json.dumps(true_neighbours(what, count, make_queries(count))))
    pairs = zip(second["answers"], json.loads(truth.read_text()), strict=True)
    found = [len(set(mine) & set(true)) for mine, true in pairs]
    result = {
        "build": None if was_there else first["build"],
        "disk": on_disk or None,
        "peak building": None if was_there else first["peak"],
        "peak searching": second["peak"],
        "first": second["first"],
        "query": second["query"],
        "recall": sum(found) / (NEIGHBOURS * len(found)),
    }
    kept.write_text(json.dumps(result))
    return result


def _in_process(engine: str, what: str, count: int, place: Path) -> dict[str, list[list[int]]]:
    command = [sys.executable, sys.argv[0], "one", engine, what, str(count), "--work", str(place)]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    result: dict[str, list[list[int]]] = json.loads(output.splitlines()[-1])
    return result


def report(folder: Path, counts: list[int], kinds: list[str]) -> str:
    """All measurements as Markdown tables, one for sketches and one for latents."""
    threads = os.environ.get("OMP_NUM_THREADS", "all")
    lines = [
        f"CPU time, OMP_NUM_THREADS={threads}; {NEIGHBOURS} neighbours; entries made on the way."
    ]
    for what in kinds:
        head = [what, "models", "build", "disk", "peak building", "peak searching", "first query",
                "query", "recall"]  # fmt: skip
        lines += ["", "| " + " | ".join(head) + " |", "| --- |" + " ---: |" * (len(head) - 1)]
        for engine in ENGINES:
            for count in counts:
                floats = what == "sketches" and not engine.startswith("huref")
                if floats and count > LARGEST_FLOAT:
                    gigabytes = count * 6 * DIAGONALS * M * 4 / 1e9
                    lines.append(f"| {engine} | {count:,} | not run: {gigabytes:.1f} GB of floats "
                                 + "|" * 7)  # fmt: skip
                    continue
                result = measure(engine, what, count, folder)
                cells = [engine, f"{count:,}", *_cells(result)]
                lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cells(result: dict[str, object]) -> list[str]:
    def show(name: str, scale: float, unit: str) -> str:
        value = result[name]
        return "-" if value is None else f"{float(str(value)) * scale:.3g} {unit}"

    megabytes = [show(n, 1e-6, "MB") for n in ("disk", "peak building", "peak searching")]
    times = [show("first", 1e3, "ms"), show("query", 1e3, "ms")]
    return [show("build", 1, "s"), *megabytes, *times, f"{float(str(result['recall'])):.3f}"]
