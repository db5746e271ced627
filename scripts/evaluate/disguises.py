"""Measures what huref answers about disguised copies, framed models and structured strangers.

    python -m scripts.evaluate disguises [--dtype DTYPE] [--only KIND...] [BASE...]
    python -m scripts.evaluate disguises --random N [--seed SEED] [--dtype DTYPE] [BASE...]
    python -m scripts.evaluate disguises --sheet docs/measured/disguised-dogs.png [BASE...]

BASE are folders of models, by default the shipped zoo's llama-a. Each kind of `huref attack` is
applied to each base, alone and combined; the copy is compared with the base at both depths. A
framed model is another base that carries parts of the first. With --dtype base and copies are
stored in that dtype, and not in the base's own. With --random the copies are N random combinations
of two to six kinds, in random order. With --sheet nothing is compared: the pictures of each base
and of its copies by some disguises are drawn in a row.
"""

import json
import random
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file, save_file

import huref
from huref.api.open import open_record
from huref.attacks import DISGUISES, FRAMINGS, PLAIN, attack
from huref.attacks.kinds import why_inexact
from huref.attacks.opening import open_editable
from huref.decoder.picture import contact_sheet, write_png
from huref.errors import HurefError, one_line
from huref.lineage.similarity import latent_cosine
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
MIXTURES = ("upcycling", "noisy-experts")
KINDS_AT_ONCE = (2, 6)
SHOWN = {
    "rotated": ["rotation", "head-maps", "ffn-permutation"],
    **{name: COMBINED[name] for name in ("units", "heads", "everything")},
    "sink heads": ["sink-heads"],
    "added blocks": ["silent-blocks-between", "cancelling-blocks"],
}
HEADING = """## {base}, {dtype}

| what was done | ICS | cos z | default depth | full depth | shares |
| --- | --- | --- | --- | --- | --- |"""


def row_of(name: str, base: Path, copy: Path) -> str:
    """A row of the table: ICS, cosine of latents, the verdict at both depths, and the shares."""
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
    ics = latent = shares = "-"
    if not isinstance(short, str):
        ics = f"{short.similarity.ics or 0:.3f}"
        latent = f"{short.similarity.latent_cosine or 0:.3f}"
    if not isinstance(whole, str) and (found := whole.evidence.shares) is not None:
        shares = f"{found.of_a_in_b:.2f}, {found.of_b_in_a:.2f}"
    words = [p if isinstance(p, str) else str(p.evidence.verdict) for p in pairs]
    return f"| {' | '.join((name, ics, latent, *words, shares))} |"


def stored_as(folder: Path, dtype: str, out: Path) -> Path:
    """A copy of a model's folder, its weights rounded to a dtype."""
    shutil.copytree(folder, out)
    for file in out.glob("*.safetensors"):
        tensors = load_file(file)
        save_file(
            {n: t.to(getattr(torch, dtype)) for n, t in tensors.items()}, file, {"format": "pt"}
        )
    config = json.loads((out / "config.json").read_text())
    config.pop("torch_dtype", None)
    (out / "config.json").write_text(json.dumps(config | {"dtype": dtype}))
    return out


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
    llama = "gate" in editable.blocks[0].weights  # what `restructure` supports
    for name in STRUCTURES:
        if llama and (not only or name in only):
            for source in (base, other):
                restructure(source, folder / f"{name}-{source.name}", name)
            yield f"stranger, {name}", folder / f"{name}-{other.name}"


def random_cases(base: Path, folder: Path, count: int, seed: int) -> Iterator[tuple[str, Path]]:
    """Names and folders of copies by random combinations of kinds that preserve the outputs."""
    editable = open_editable(str(base))
    kinds = [kind for kind in (*PLAIN, *DISGUISES) if not why_inexact(kind, editable)]
    draws = random.Random(seed)
    for number in range(count):
        chosen = draws.sample(kinds, draws.randint(*KINDS_AT_ONCE))
        chosen.sort(key=MIXTURES.__contains__)  # a mixture cannot be edited further
        while sum(kind in MIXTURES for kind in chosen) > 1:
            chosen.pop()
        copy = folder / f"random-{number}"
        try:
            attack(base, chosen, copy, seed=seed + number)
        except HurefError as error:
            print(f"{', '.join(chosen)}: {one_line(error)}", file=sys.stderr)
            continue
        yield ", ".join(chosen), copy


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
            captions.append(f"{name}\ncos z {latent_cosine(source.latent, copy.latent):.3f}")
    write_png(path, contact_sheet(images, captions, 1 + len(SHOWN), 192), {})


def main() -> None:
    """Attack, compare and print one row a case; or draw the sheet."""
    parser = make_parser(__doc__)
    parser.add_argument("--dtype", choices=["float32", "float16", "bfloat16"])
    parser.add_argument("--only", nargs="+", default=[], metavar="KIND")
    parser.add_argument("--random", type=int, default=0, metavar="N")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--other", type=Path, default=ZOO / "llama-b", help="an unrelated model")
    parser.add_argument("--sheet", type=Path, help="draw the pictures instead")
    parser.add_argument("bases", nargs="*", type=Path, default=[ZOO / "llama-a"])
    options = parser.parse_args()
    transformers.utils.logging.disable_progress_bar()
    if options.sheet:
        draw_sheet(options.bases, options.sheet)
        return
    for base in options.bases:
        print(HEADING.format(base=base.name, dtype=options.dtype or "as stored"), flush=True)
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            source, other = base, options.other
            if options.dtype:
                source = stored_as(base, options.dtype, folder / "stored" / base.name)
                other = stored_as(other, options.dtype, folder / "stored" / other.name)
            made = (
                random_cases(source, folder, options.random, options.seed)
                if options.random
                else cases(source, other, folder, options.only)
            )
            for name, copy in made:
                structured = folder / f"{name.partition(', ')[2]}-{base.name}"
                against = structured if name.startswith("stranger") else source
                print(row_of(name, against, copy), flush=True)
                shutil.rmtree(copy)
