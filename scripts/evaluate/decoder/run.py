"""Measures the decoder and draws sheets; writes docs/measured/decoder.md and its pictures.

    python -m scripts.evaluate decoder               # 10 to 15 minutes of one core, resumable
    python -m scripts.evaluate decoder --epochs 0    # 5 minutes: traits by ridge regression alone
    python -m scripts.evaluate decoder --quick       # 1 minute: less of everything; writes no docs
    python -m scripts.evaluate decoder --twice 16    # 1 minute: would 512 px be worth a stage?
    python -m scripts.evaluate decoder --guesses "C A T ..."    # score the blind test

Intermediate results are cached in runs/evaluate-decoder: drawings and regressor by the digest of
the drawings, pictures by that of the decoder. For the blind test, look at blind-bases.png and
blind-relatives.png in that folder, match them by eye, and pass the letters of relatives 1 to 20
with --guesses. The solution is in blind-answers.json.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from huref.decoder.render import Decoder, load_decoder
from scripts import ROOT, make_parser
from scripts.dogs.digest import drawing_digest, drawing_of
from scripts.dogs.draw import latent_basis
from scripts.evaluate.decoder import measures, sheets
from scripts.evaluate.decoder.drawings import (
    SIDE,
    Images,
    Latents,
    drawings,
    latents_of,
    reduced,
    relative_of,
)
from scripts.evaluate.decoder.likeness import kept_ears, likeness
from scripts.evaluate.decoder.note import write_note
from scripts.evaluate.decoder.regressor import Array, load_regressor, read_traits, traits

CHUNK = 64  # pictures rendered between saves


@dataclass(frozen=True)
class Size:
    """Sample sizes of the measurement."""

    training: int  # drawings to train the regressor on
    epochs: int
    held_out: int
    random: int
    families: int
    per_family: int
    paths: int
    sets: int  # of 80 families whose likeness is measured
    dogs: int  # for the steepness of each trait


FULL = Size(49_152, 4, 256, 2_000, 200, 2, 16, 5, 4)
QUICK = Size(1_024, 2, 32, 200, 40, 1, 4, 1, 1)
COSINES = (0.95, 0.8)


class PictureCache:
    """Pictures of a decoder at 64 px, cached in a folder."""

    def __init__(self, decoder: Decoder, folder: Path) -> None:
        self.decoder, self.folder = decoder, folder
        folder.mkdir(parents=True, exist_ok=True)

    def render(self, name: str, z: Latents) -> Images:
        """Pictures (n, 64, 64, 3) of latents (n, 512); each name is for one sequence of latents."""
        path = self.folder / f"{name}-{len(z)}.npy"
        done = np.load(path) if path.exists() else np.empty((0, 64, 64, 3), np.uint8)
        starts = range(len(done), len(z), CHUNK)
        for start in tqdm(starts, desc=name, delay=2, disable=None):
            new = reduced(self.draw(z[start : start + CHUNK]))
            done = np.concatenate([done, new])
            temporary = path.with_suffix(".part.npy")
            np.save(temporary, done)
            temporary.replace(path)
        return done

    def draw(self, z: Latents) -> Images:
        """Pictures (n, r, r, 3) at the decoder's own resolution."""
        return self.decoder.render(torch.from_numpy(z))


class Measurement:
    """The measurement of one decoder against drawings."""

    def __init__(self, decoder: Decoder, runs: Path, size: Size) -> None:
        self.decoder, self.size = decoder, size
        self.training = decoder.metadata.get("training", {})
        self.basis_seed = self.training.get("config", {}).get("basis_seed", 0)
        self.drawn = runs / drawing_digest()
        self.gallery = PictureCache(decoder, runs / decoder.digest[:12])

    def drawings(self, name: str, z: Latents, side: int = SIDE) -> Images:
        """Drawings (n, side, side, 3) of latents (n, 512), cached by name."""
        return drawings(self.drawn, name, z, side, self.basis_seed)

    def run(self) -> dict[str, Any]:
        """All figures as a JSON object; see `scripts.evaluate.decoder.measures`."""
        figures: dict[str, Any] = {
            "decoder": self.decoder.digest[:12],
            "resolution": self.decoder.resolution,
            "drawing": drawing_digest(),
            "trained_on": drawing_of(self.training.get("drawing")),
            "images": self.training.get("images", 0),
            "held_out": self.size.held_out,
            "random": self.size.random,
            "families": self.size.families,
            "epochs": self.size.epochs,
            "dogs": self.size.dogs,
        }
        figures |= self.fidelity()
        figures["smoothness"] = measures.smoothness(self.gallery.render, self.size.paths)
        size = self.size
        self.regressor = load_regressor(self.drawn, self.basis_seed, size.training, size.epochs)
        return figures | self.traits() | self.kinship() | self.likeness()

    def fidelity(self) -> dict[str, float]:
        """Fidelity at the decoder's resolution; also writes the sheet of held-out drawings."""
        z = latents_of(2, self.size.held_out)
        target = self.drawings("2", z, self.decoder.resolution)
        made = self.gallery.draw(z)
        path = self.gallery.folder / "decoder-held-out.png"
        sheets.draw_comparison(path, target[:24], made[:24])
        return measures.fidelity(made, target)

    def twice(self, count: int) -> dict[str, float]:
        """What a stage of twice the decoder's resolution could add, over so many dogs."""
        z, side = latents_of(2, count), self.decoder.resolution
        drawn = self.drawings("2", z, side)
        return measures.twice_as_large(self.gallery.draw(z), drawn, self.drawings("2", z, 2 * side))

    def seen(self, images: Images) -> Array:
        """Predicted traits (n, traits) of images."""
        return read_traits(self.regressor, images)

    def traits(self) -> dict[str, Any]:
        """R^2 by trait and Fréchet distance, for pictures and for drawings."""
        z, other = latents_of(3, self.size.random), latents_of(4, self.size.random)
        truth = traits(z, self.basis_seed)
        made = self.seen(self.gallery.render("random", z))
        drawn = self.seen(self.drawings("3", z))
        others = self.seen(self.drawings("4", other))
        return {
            "r2": measures.explained(made, truth),
            "r2_drawings": measures.explained(drawn, truth),
            "frechet": measures.frechet(made, others),
            "frechet_floor": measures.frechet(drawn, others),
        }

    def kinship(self) -> dict[str, Any]:
        """Identification of relatives, for pictures and for drawings."""
        bases, count = latents_of(5, self.size.families), self.size.per_family
        latents = {"bases": bases}
        for i, cosine in enumerate(COSINES):
            others = latents_of(6 + i, len(bases) * count)
            latents[f"relatives-{cosine}"] = relative_of(np.tile(bases, (count, 1)), others, cosine)
        strangers = latents_of(3, self.size.random)
        figures = {}
        for kind, show in (("decoder", self.gallery.render), ("drawings", self.drawings)):
            images = {name: show(name, z) for name, z in latents.items()}
            # Drawings of these latents are cached under the name of their seed.
            apart = show("random" if kind == "decoder" else "3", strangers)
            for measure, change in (("pixels", np.asarray), ("traits", self.seen)):
                relatives = {c: change(images[f"relatives-{c}"]) for c in COSINES}
                families = measures.Families(change(images["bases"]), relatives)
                found = measures.identification(families, change(apart))
                figures[f"{kind}, {measure}"] = found
        return {"kinship": figures}

    def likeness(self) -> dict[str, Any]:
        """How little pictures of relatives change, of the decoder and of the drawings."""
        basis, size = latent_basis(self.basis_seed), self.size
        sources = {"decoder": self.gallery.render, "drawings": self.drawings}
        return {
            "likeness": {
                kind: likeness(show, basis, size.sets, size.paths, size.dogs)
                for kind, show in sources.items()
            },
            "ears": kept_ears(basis, 5 * size.random),
        }


def main() -> None:
    """Measure and write the report and the sheets."""
    parser = make_parser(__doc__)
    parser.add_argument("--decoder", type=Path, default=ROOT / "checkpoints/decoder.safetensors")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs/evaluate-decoder")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "measured")
    parser.add_argument("--quick", action="store_true", help="small samples; writes no docs")
    parser.add_argument(
        "--epochs", type=int, help="epochs of the regressor's network; 0: ridge regression only"
    )
    parser.add_argument("--dogs", type=int, help="over which each trait's path is averaged")
    parser.add_argument(
        "--twice", type=int, metavar="N", help="only print what twice the resolution could add"
    )
    parser.add_argument("--guesses", help="letters for relatives 1 to 20 of the blind test")
    parser.add_argument("--blind-seed", type=int, default=0, help="seed of the blind test's dogs")
    options = parser.parse_args()
    decoder = load_decoder(options.decoder)
    if options.twice:
        print(json.dumps(Measurement(decoder, options.runs, QUICK).twice(options.twice), indent=2))
        return
    folder = options.runs / decoder.digest[:12]
    blind = folder / f"blind-{options.blind_seed}"
    score = blind / "score.json"
    if options.guesses:
        right, of = sheets.score_blind_test(blind, options.guesses)
        score.write_text(json.dumps({"right": right, "of": of, "guesses": options.guesses}))
        print(f"{right} of {of} relatives were matched to their own base")
    gallery = PictureCache(decoder, folder)
    if not (blind / "blind-answers.json").exists():
        sheets.draw_blind_test(gallery.draw, blind, options.blind_seed)
    size = QUICK if options.quick else FULL
    if options.epochs is not None:
        size = replace(size, epochs=options.epochs)
    if options.dogs is not None:
        size = replace(size, dogs=options.dogs)
    figures = Measurement(decoder, options.runs, size).run()
    figures["blind"] = json.loads(score.read_text()) if score.exists() else None
    (folder / ("quick.json" if options.quick else "figures.json")).write_text(json.dumps(figures))
    out = folder if options.quick else options.out
    write_note(out / "decoder.md", figures)
    sheets.draw_sheets(gallery.draw, out)
    for image in (folder / "decoder-held-out.png", *sorted(blind.glob("*.png"))):
        if not options.quick:
            (out / f"decoder-{image.name.removeprefix('decoder-')}").write_bytes(image.read_bytes())
    print((out / "decoder.md").read_text("utf-8"))
