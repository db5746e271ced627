"""Measures what huref answers about disguised copies, framed models and structured strangers.

    python -m scripts.evaluate disguises [--markdown] [--only KIND...] [BASE...]
    python -m scripts.evaluate disguises --sheet docs/measured/disguised-dogs.png [BASE...]

BASE are folders of models, by default the shipped zoo's llama-a. Each kind of `huref attack` is
applied to each base, alone and combined; the copy is compared with the base at both depths. A
framed model is another base that carries parts of the first. With --sheet nothing is compared: the
pictures of each base and of its copies by some disguises are drawn in a row.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import transformers

import huref
from huref.api.open import open_record
from huref.attacks import DISGUISES, FRAMINGS, PLAIN, attack
from huref.attacks.kinds import why_inexact
from huref.attacks.opening import open_editable
from huref.decoder.picture import contact_sheet, write_png
from huref.errors import HurefError, one_line
from huref.lineage.table import Pair, build_table
from scripts import ROOT, make_parser
from scripts.evaluate.structured import STRUCTURES, restructure

ZOO = ROOT / "checkpoints" / "zoo"
COMBINED = {
    "units": ["dead-units", "split-units", "cancelling-units", "rotation"],
    "heads": ["dead-heads", "cancelling-heads", "head-maps", "head-permutation"],
    "dead dimensions, permuted": ["ffn-permutation", "dead-dimensions"],
    "decoys, dead dimensions": ["decoy-strings", "ffn-permutation", "dead-dimensions"],
    "renumbered, split": ["renumbered-strings", "split-units"],
    "everything": [
        "dead-units", "split-units", "split-heads", "dead-dimensions", "silent-blocks",
        "decoy-strings", "rotation", "head-maps",
    ],
}  # fmt: skip
SHOWN = {
    "rotated": ["rotation", "head-maps", "ffn-permutation"],
    **{name: COMBINED[name] for name in ("units", "heads", "everything")},
    "sink heads": ["sink-heads"],
    "added blocks": ["silent-blocks-between", "cancelling-blocks"],
}
ROW = "| {0} | {1} | {2} | {3} | {4} |"
HEADING = """# Disguises, framings and structured strangers

Verdicts on copies of {base} that compute the same, on models that carry parts of it, and on
strangers of structured weights, printed by `python -m scripts.evaluate disguises --markdown`.
`huref attack --help` lists the kinds. ICS at the default depth; shares at full depth, of the base
in the copy and of the copy in the base.

| what was done | ICS | default depth | full depth | shares |
| --- | --- | --- | --- | --- |"""


def verdicts(base: Path, copy: Path) -> tuple[str, str, str, str]:
    """ICS, the verdict at both depths, and the shares at full depth."""
    pairs: list[Pair | str] = []
    for depth in ("recipe", "full"):
        try:
            records = [
                open_record(str(folder), depth=depth, cache=folder == base)
                for folder in (base, copy)
            ]
            pairs.append(build_table(records).pairs[0])
        except HurefError as error:
            pairs.append(f"refused: {one_line(error).rpartition(': ')[2]}")
    short, whole = pairs
    ics = "-" if isinstance(short, str) else f"{short.similarity.ics or 0:.2f}"
    shares = "-"
    if not isinstance(whole, str) and (found := whole.evidence.shares) is not None:
        shares = f"{found.of_a_in_b:.2f}, {found.of_b_in_a:.2f}"
    words = [p if isinstance(p, str) else str(p.evidence.verdict) for p in pairs]
    return ics, words[0], words[1], shares


def cases(base: Path, other: Path, folder: Path, only: list[str]) -> Iterator[tuple[str, Path]]:
    """What was done and the folder of the result."""
    editable = open_editable(str(base))
    single = {kind: [kind] for kind in (*PLAIN, *DISGUISES)}
    for name, kinds in (single | COMBINED).items():
        if (only and name not in only) or any(why_inexact(kind, editable) for kind in kinds):
            continue
        copy = folder / name.replace(" ", "-").replace(",", "")
        attack(base, kinds, copy)
        yield name, copy
    for kind in FRAMINGS:
        if (not only or kind in only) and not why_inexact(kind, open_editable(str(other))):
            attack(other, [kind], folder / kind, other=base)
            yield f"framed by {kind}", folder / kind
    for name in STRUCTURES:
        if not only or name in only:
            for source in (base, other):
                restructure(source, folder / f"{name}-{source.name}", name)
            yield f"stranger, {name}", folder / f"{name}-{other.name}"


def draw_sheet(bases: list[Path], path: Path) -> None:
    """Write a sheet with a row for each base: its picture and those of disguised copies."""
    images, captions = [], []
    for base in bases:
        source = huref.fingerprint(base)
        images.append(source.image)
        captions.append(base.name)
        for name, kinds in SHOWN.items():
            with tempfile.TemporaryDirectory() as temporary:
                folder = Path(temporary) / "copy"
                attack(base, kinds, folder)
                copy = huref.fingerprint(folder, units=False)
            images.append(copy.image)
            captions.append(f"{name}\ncos z {cosine(source.latent, copy.latent):.3f}")
    write_png(path, contact_sheet(images, captions, 1 + len(SHOWN), 192), {})


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """The cosine of two latents (512,)."""
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def main() -> None:
    """Attack, compare and print one row a case; or draw the sheet."""
    parser = make_parser(__doc__)
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--only", nargs="+", default=[], metavar="KIND")
    parser.add_argument("--other", type=Path, default=ZOO / "llama-b", help="an unrelated model")
    parser.add_argument("--sheet", type=Path, help="draw the pictures instead")
    parser.add_argument("bases", nargs="*", type=Path, default=[ZOO / "llama-a"])
    options = parser.parse_args()
    transformers.utils.logging.disable_progress_bar()
    if options.sheet:
        draw_sheet(options.bases, options.sheet)
        return
    for base in options.bases:
        print(HEADING.format(base=base.name), flush=True)
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            for name, copy in cases(base, options.other, folder, options.only):
                structured = folder / f"{name.partition(', ')[2]}-{base.name}"
                against = structured if name.startswith("stranger") else base
                print(ROW.format(name, *verdicts(against, copy)), flush=True)
