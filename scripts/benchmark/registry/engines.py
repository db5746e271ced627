"""Build time, memory and query time of registries and of exact search by other libraries.

Each measurement runs in a process of its own, so that its peak memory can be measured. Times are
CPU seconds of that process, which depend little on the load of the machine.
"""

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from huref.registry.correlation import BITS
from huref.registry.entry import Query
from huref.registry.sketch import KEPT, project
from huref.registry.stores import create_store, open_store
from scripts.benchmark.registry.random_entries import (
    RECIPE,
    M,
    Vectors,
    entries,
    flat,
    latents_of,
    make_entry,
    make_queries,
    normalised,
    packed,
    signs,
)

NEIGHBOURS = 10
BLOCK = 100  # entries unpacked at a time
PART = 5_000  # sketches searched by scikit-learn at a time: 1 GB of float32
ENGINES = ("huref folder", "huref LanceDB", "scikit-learn", "FAISS", "LanceDB")
KINDS = ("sketches", "terms", "latents")  # kinds of queries
Scores = NDArray[np.float64]
Search = Callable[[Query], list[int]]


def build(engine: str, what: str, count: int, place: Path) -> Search:
    """Fill an engine with entries, or open it if it is filled, and return its search."""
    if engine.startswith("huref"):
        uri = str(place / "registry") + (".lance" if engine.endswith("LanceDB") else "")
        if Path(uri).exists():
            store = open_store(uri)
        else:
            store = create_store(uri, RECIPE)
            store.add(entries(count))

        def search(query: Query) -> list[int]:
            reduced = Query(query.latent) if what == "latents" else query
            return [int(match.entry.model) for match in store.search(reduced, NEIGHBOURS)]

        return search
    if engine == "LanceDB":
        return _build_lance(what, count, place)
    return (_build_faiss if engine == "FAISS" else _build_scikit)(what, count)


def _build_faiss(what: str, count: int) -> Search:
    import faiss

    if what == "latents":
        index = faiss.IndexFlatIP(512)
        index.add(latents_of(count))
        return lambda q: index.search(normalised(q.latent[None]), NEIGHBOURS)[1][0].tolist()
    binary = faiss.IndexBinaryFlat(6 * KEPT)
    binary.add(packed(count))
    return lambda q: binary.search(np.ascontiguousarray(flat(q)), NEIGHBOURS)[1][0].tolist()


def _build_scikit(what: str, count: int) -> Search:
    """Brute force over floats; sketches in parts, because as floats they take 20 GB."""
    from sklearn.neighbors import NearestNeighbors

    def fit(vectors: Vectors) -> Any:
        finder = NearestNeighbors(n_neighbors=NEIGHBOURS, algorithm="brute", metric="cosine")
        return finder.fit(vectors)

    if what == "latents":
        fitted = fit(latents_of(count))
        return lambda q: fitted.kneighbors(normalised(q.latent[None]))[1][0].tolist()
    codes = packed(count)

    def search(query: Query) -> list[int]:
        found: list[tuple[float, int]] = []
        for start in range(0, count, PART):
            near = fit(signs(codes[start : start + PART])).kneighbors(signs(flat(query)))
            found += zip(near[0][0].tolist(), (near[1][0] + start).tolist(), strict=True)
        return [number for _, number in sorted(found)[:NEIGHBOURS]]

    return search


def _build_lance(what: str, count: int, place: Path) -> Search:
    """A table of vectors with LanceDB's exact search."""
    import lancedb
    import pyarrow as pa

    database = lancedb.connect(str(place / "vectors.lance"))
    if "vectors" not in database.list_tables().tables:
        vectors = latents_of(count) if what == "latents" else packed(count)
        values = pa.array(vectors.reshape(-1))
        column = pa.FixedSizeListArray.from_arrays(values, vectors.shape[1])
        database.create_table("vectors", pa.table({"number": range(count), "vector": column}))
    table = database.open_table("vectors")

    def search(query: Query) -> list[int]:
        latents = what == "latents"
        vector = normalised(query.latent[None])[0] if latents else flat(query)[0]
        found: Any = table.search(vector)
        found = found.distance_type("cosine" if latents else "hamming").limit(NEIGHBOURS)
        return [row["number"] for row in found.select(["number", "_distance"]).to_list()]

    return search


def true_neighbours(what: str, count: int, queries: list[Query]) -> list[list[int]]:
    """The exact neighbours by float64 sums; `what` is one of KINDS or "hamming"."""
    wanted = np.stack([_wanted(what, query) for query in queries])  # (queries, 6 or 1, d)
    scores = []
    for start in range(0, count, BLOCK):
        block = [make_entry(number) for number in range(start, min(start + BLOCK, count))]
        if what == "latents":
            rows = np.stack([entry.latent for entry in block]).astype(np.float64)
            rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True))[:, None]
        else:
            rows = signs(np.stack([entry.sketch for entry in block])).astype(np.float64)
            rows = rows.reshape(len(block), 6, KEPT)
        products = np.einsum("nte,qte->nqt", rows, wanted, optimize=True)
        if what == "sketches":
            products = np.sin(np.pi / 2 * products / KEPT)
        scores.append(products.mean(axis=2))
    return [np.argsort(-row)[:NEIGHBOURS].tolist() for row in np.concatenate(scores).T]


def _wanted(what: str, query: Query) -> Scores:
    """The query as the vectors (terms, d) that entries are multiplied by."""
    if what == "latents":
        return query.latent[None].astype(np.float64)
    if what != "terms":
        return signs(flat(query)).reshape(6, KEPT).astype(np.float64)
    assert query.terms is not None
    own = project(query.terms, np.ones(M, bool)).astype(np.float64)
    # The definition of the score includes rounding of the model's coefficients.
    step = 2 * np.abs(own).max(axis=1, keepdims=True) / (2**BITS - 1)
    rounded: Scores = (np.rint(own / step - 0.5) + 0.5) * step
    return rounded


def measure_here(engine: str, what: str, count: int, place: Path) -> dict[str, object]:
    """Build or open an engine and search, in this process."""
    queries = make_queries(what, count)
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
    """Build in one process and, if the engine is on disk, search in another; cached in folder."""
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
    # Other engines count differing bits; the registry averages correlations of the terms.
    kind = "hamming" if what == "sketches" and not engine.startswith("huref") else what
    truth = folder / f"truth-{kind}-{count}.json"
    if not truth.exists():
        truth.write_text(json.dumps(true_neighbours(kind, count, make_queries(what, count))))
    pairs = zip(second["answers"], json.loads(truth.read_text()), strict=True)
    found = [len(set(answer) & set(true)) for answer, true in pairs]
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
    command = [sys.executable, "-m", "scripts.benchmark", "registry", "one", engine, what]
    command += [str(count), "--work", str(place)]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    result: dict[str, list[list[int]]] = json.loads(output.splitlines()[-1])
    return result


def report(folder: Path, counts: list[int], kinds: list[str]) -> str:
    """All measurements as Markdown tables, one for each kind of query."""
    threads = os.environ.get("OMP_NUM_THREADS", "all")
    lines = [
        f"CPU time, OMP_NUM_THREADS={threads}; {NEIGHBOURS} neighbours; build times include making "
        "the entries."
    ]
    for what in kinds:
        head = [what, "models", "build", "disk", "peak building", "peak searching", "first query",
                "query", "recall"]  # fmt: skip
        lines += ["", "| " + " | ".join(head) + " |", "| --- |" + " ---: |" * (len(head) - 1)]
        for engine in ENGINES:
            for count in counts:
                if what == "terms" and not engine.startswith("huref"):
                    continue  # other engines cannot search by terms
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
