"""Takes mergekit's merges apart, and has modelDNA do the same; prints a table in Markdown.

    pip install --target MERGEKIT --no-deps mergekit immutables
    pip install --target MODELDNA --no-deps modeldna
    python -m scripts.evaluate mixtures --mergekit MERGEKIT [--modeldna MODELDNA] [--set zoo]
        [--root checkpoints/zoo] [--work DIR] [--only NAME...]

The merges of configs/mixtures.yaml are made of one set of models: the committed zoo, or children of
SmolLM2-135M in the cache of `python -m scripts.real` (--set smollm2 --root CACHE). Merges and
records are kept, so a stopped run can be continued. huref is given all models of the set and the
merge, and not told the parents; modelDNA is told them.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path

from scripts import ROOT, make_parser
from scripts.evaluate.mixtures.making import Merge, make_merge, read_family, read_merges
from scripts.evaluate.mixtures.measuring import Estimate, decompose, take_apart


def rows(results: Mapping[str, tuple[Merge, Estimate, Estimate | None]]) -> Iterator[str]:
    """The table: a row a merge."""
    yield (
        "| merge | true shares | huref | largest error | half width | told "
        "| modelDNA | largest error |"
    )
    yield "| --- | --- | --- | ---: | ---: | --- | --- | ---: |"
    for name, (merge, ours, theirs) in results.items():
        cells = [name, _shares(merge.parts), _shares(ours.shares), _number(_error(ours, merge))]
        cells += [_number(ours.width), ours.words]
        cells += (
            ["-", "-"]
            if theirs is None
            else [_shares(theirs.shares), _number(_error(theirs, merge))]
        )
        yield f"| {' | '.join(cells)} |"


def _error(estimate: Estimate, merge: Merge) -> float | None:
    """By block where shares vary over depth, else of the whole."""
    return estimate.farthest(merge.parts) if merge.second is None else estimate.error


def _shares(shares: Mapping[str, float] | None) -> str:
    return (
        "none"
        if shares is None
        else ", ".join(f"{role} {share:.3f}" for role, share in sorted(shares.items()))
    )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def main() -> None:
    """Make the merges, take them apart, and print the table."""
    parser = make_parser(__doc__)
    parser.add_argument("--mergekit", type=Path, required=True, help="folder of the package")
    parser.add_argument("--modeldna", type=Path, help="folder of the package")
    parser.add_argument("--set", default="zoo", help="of configs/mixtures.yaml")
    parser.add_argument("--root", type=Path, default=ROOT / "checkpoints" / "zoo")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "mixtures")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these merges")
    options = parser.parse_args()
    family = read_family(options.set, options.root)
    work = options.work / family.name
    merges = {merge.name: merge for merge in read_merges(family, work)}
    if unknown := set(options.only or ()) - set(merges):
        parser.error(f"there is no merge {', '.join(sorted(unknown))}")
    results: dict[str, tuple[Merge, Estimate, Estimate | None]] = {}
    for name in options.only or merges:
        merge = merges[name]
        if merge.of:
            make_merge(merges[merge.of], work, options.mergekit)
        folder = make_merge(merge, work, options.mergekit)
        ours = take_apart(merge, folder, family)
        theirs = options.modeldna and decompose(merge, folder, family, options.modeldna)
        results[name] = (merge, ours, theirs or None)
        kept = {"huref": asdict(ours), "modelDNA": asdict(theirs) if theirs else None}
        folder.with_suffix(".json").write_text(json.dumps(kept, indent=1), "utf-8")
        print(name, ours, flush=True)
    print("\n".join(rows(results)))
