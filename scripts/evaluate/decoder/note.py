"""The report on a decoder in Markdown."""

from pathlib import Path
from typing import Any

from scripts.dogs.digest import SOURCE_DIGESTS

SHOWN_LOST = 0.1  # R^2 below which a trait that drawings show is reported as lost
SOURCES = ", ".join(f"{old} for {new}" for old, new in SOURCE_DIGESTS.items())
VISIBLE = 0.2  # R^2 from which a trait counts as visible in drawings


def _share(value: float) -> str:
    return f"{100 * value:.1f} %"


def _rate(value: float, pairs: float) -> str:
    """A share of pairs as a count, since it may be too small for a percentage."""
    return f"{round(value * pairs):,} of {int(pairs):,}"


def _mean(values: dict[str, float], names: list[str]) -> float:
    return sum(values[name] for name in names) / max(1, len(names))


def _reader(figures: dict[str, Any]) -> str:
    epochs = figures["epochs"]
    network = f" and a small network ({epochs} epochs) predict" if epochs else " predicts"
    return f"Ridge regression{network}"


def _traits(figures: dict[str, Any]) -> list[str]:
    made, drawn = figures["r2"], figures["r2_drawings"]
    visible = [name for name in drawn if drawn[name] >= VISIBLE]
    lost = sorted((n for n in visible if made[n] < SHOWN_LOST), key=lambda n: -drawn[n])
    lines = [
        "## Traits",
        "",
        f"{_reader(figures)} the traits from drawings of 64 px. In held-out drawings "
        f"{len(visible)} of {len(drawn)} traits are visible (R² of {VISIBLE} or more); their mean "
        f"R² is {_mean(drawn, visible):.2f} for drawings and {_mean(made, visible):.2f} for the "
        "decoder's pictures of the same latents. A negative R² means that the prediction responds "
        "to something else in the pictures.",
        "",
        f"Lost (R² under {SHOWN_LOST}): {', '.join(lost) or 'none'}.",
        "",
        "| trait | drawings | decoder |",
        "| --- | ---: | ---: |",
    ]
    for name in sorted(visible, key=lambda n: -drawn[n]):
        lines.append(f"| {name} | {drawn[name]:.2f} | {made[name] + 0:.2f} |")
    hidden = [name for name in drawn if name not in visible]
    lines += ["", f"Not visible to the regressor in drawings: {', '.join(hidden) or 'none'}."]
    return lines


def _kinship(figures: dict[str, Any]) -> list[str]:
    lines = [
        "## Telling families apart",
        "",
        f"The nearest of {figures['families']} bases to each relative, by pixels at 64 px and by "
        "predicted traits (below). Look-alikes are random pairs whose distance is at most the 95 % "
        "quantile of the distances of relatives to their base at that cos z. A perfect decoder "
        "would have the figures of the drawings.",
        "",
        "| pictures | compared by | 0.95: own base nearest | look-alikes "
        "| 0.8: own base nearest | look-alikes |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for kind, measured in figures["kinship"].items():
        cells = kind.split(", ")
        for cosine in (0.95, 0.8):
            look_alikes = _rate(measured[f"look_alikes {cosine}"], measured["pairs"])
            cells += [_share(measured[f"found {cosine}"]), look_alikes]
        lines.append(f"| {' | '.join(cells)} |")
    blind = figures["blind"]
    result = f"{blind['right']} of {blind['of']}" if blind else "not done for this decoder"
    return [
        *lines,
        "",
        "By eye: 20 relatives at cos z 0.8 (decoder-blind-relatives.png), shuffled, matched to 20 "
        f"bases (decoder-blind-bases.png) by a person: **{result}**.",
    ]


def _likeness(figures: dict[str, Any]) -> list[str]:
    made, drawn = figures["likeness"]["decoder"], figures["likeness"]["drawings"]
    ears = figures["ears"]
    rows = (
        ("relatives at cos z 0.98, 95 % quantile; strangers' 1 % quantile = 1", "near", "0.5"),
        ("the same in the worst of the sets of 80 families", "near_most", ""),
        ("farthest relative at 0.95; nearest two strangers of its set = 1", "far", "1"),
        ("the same in the worst set", "far_most", "1"),
        ("steepest step between two random dogs, mean step = 1", "path", "3"),
        ("steepest trait from -2 to 2 standard deviations, mean step = 1", "steepness", "3"),
    )
    lines = [
        "## How much a relative's picture differs",
        "",
        "Mean absolute differences of RGB at 64 px.",
        "",
        "| figure | drawings | decoder | aim, at most |",
        "| --- | ---: | ---: | ---: |",
    ]
    for words, key, aim in rows:
        lines.append(f"| {words} | {drawn[key]:.2f} | {made[key]:.2f} | {aim} |")
    steep = ", ".join(made["over three"]) or "none"
    kept = ", ".join(
        f"{_share(ears[f'same kind {cosine}'])} at {cosine} "
        f"({_share(ears[f'same third {cosine}'])} in the same third)"
        for cosine in (0.99, 0.95)
    )
    return [
        *lines,
        "",
        f"The path of a trait is averaged over {figures['dogs']} dogs. Traits of the decoder "
        f"steeper than 3: {steep}. Ears are pricked, tipped or hanging, a "
        "third of their path each; that an ear keeps its kind means that it moves by less than a "
        f"third: {kept}.",
    ]


def write_note(path: Path, figures: dict[str, Any]) -> None:
    """Write the report from the figures of `scripts.evaluate.decoder.run.Measurement`."""
    smooth = figures["smoothness"]
    curve = ", ".join(f"{value:.2f}" for value in smooth["curve"])
    drawn_by = "" if figures["drawing"] == figures["trained_on"] else (
        f" It was trained on other drawings ({figures['trained_on']}), so everything below that "
        "refers to drawings is understated."
    )  # fmt: skip
    lines = [
        "# The decoder, measured",
        "",
        f"`checkpoints/decoder.safetensors`, {figures['resolution']} px, digest "
        f"{figures['decoder']}, trained on {figures['images']:,} drawings; by "
        f"`python -m scripts.evaluate decoder --epochs {figures['epochs']}`, against drawings "
        f"{figures['drawing']}.{drawn_by} The name of the drawings is a digest of their pixels. "
        f"Decoders exported before carry a digest of source text instead: {SOURCES}, which drew "
        "the same pixels. "
        "Sheets: decoder-random.png (36 dogs), decoder-families.png (12 families at cos z 0.95 to "
        "0.7), decoder-held-out.png (drawings above, the decoder below).",
        "",
        "| figure | value |",
        "| --- | ---: |",
        f"| PSNR against {figures['held_out']} held-out drawings | {figures['psnr']:.2f} dB |",
        f"| multi-scale SSIM | {figures['ms_ssim']:.3f} |",
        f"| Fréchet distance to {figures['random']:,} drawings, in predicted traits "
        f"| {figures['frechet']:.2f} |",
        f"| the same between two sets of drawings | {figures['frechet_floor']:.2f} |",
        f"| pixel distance at 0, 15, ... 90 degrees between latents, random pair = 1 | {curve} |",
        "| steps of 3 degrees that increase the distance to the start "
        f"| {_share(smooth['monotone'])} |",
        f"| largest step, mean step of its path = 1 | {smooth['steepest']:.2f} |",
        "| that step in six parts: share of the largest (1/6: equal, 1: a jump) "
        f"| {smooth['abrupt']:.2f} |",
        "",
        *_likeness(figures),
        "",
        *_kinship(figures),
        "",
        *_traits(figures),
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", "utf-8")
