"""The report as Markdown."""

import math
from typing import Any

from scripts.evaluate.encoder.figures import (
    at_mixtures,
    at_points,
    by_habit,
    expected_share,
    gain,
    gaussianity,
    strangers,
)
from scripts.evaluate.encoder.pieces import AFTER, FREQUENT, GRID

MILLION = 1_000_000
PAPER = "huref train-encoder --config configs/encoder-paper.yaml --out PAPER"
APART = ("encoder", "mean pooling", "paper CNN")  # no table of differences from these


def _row(*cells: object) -> str:
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def _head(*names: str) -> list[str]:
    return ["", _row(*names), "|" + " --- |" * len(names)]


def _mixtures(
    points: dict[float, dict[str, float]], projected: dict[float, dict[str, float]]
) -> list[str]:
    lines = _head(
        "rho", "mean cos z", "cos z - rho", "± between families", "spread of cos z",
        "(1 - rho²)/√512", "pairs", "projection: mean cos z", "its spread",
    )  # fmt: skip
    for rho, p in points.items():
        q = projected[rho]
        lines.append(
            _row(
                rho, f"{p['cos']:.3f}", f"{p['cos'] - rho:+.3f}", f"{p['error']:.4f}",
                f"{p['spread']:.4f}", f"{(1 - rho**2) / math.sqrt(512):.4f}", int(p["pairs"]),
                f"{q['cos']:.3f}", f"{q['spread']:.4f}",
            )
        )  # fmt: skip
    return lines


def _means(mixtures: list[dict[str, Any]]) -> list[str]:
    lines = _head("code", *map(str, GRID), "largest gap", "spread at 0", "pairs")
    for name in dict.fromkeys(name for one in mixtures for name in one):
        points = at_mixtures(mixtures, name)
        gap = max(abs(p["cos"] - rho) for rho, p in points.items())
        means = (f"{p['cos']:.3f}" for p in points.values())
        zero = points[0.0]
        lines.append(_row(name, *means, f"{gap:.3f}", f"{zero['spread']:.4f}", int(zero["pairs"])))
    return lines


def _grid(points: dict[str, dict[str, float]], projected: dict[str, dict[str, float]]) -> list[str]:
    lines = _head(
        "nominal rho", "measured ICS", "mean cos z", "± between families", "cos z - rho",
        "cos z - ICS", "spread of cos z - ICS", "(1 - ICS²)/√512", "pairs",
        "projection: cos z - ICS", "its pairs",
    )  # fmt: skip
    for rho in GRID:
        p, q = points[f"{rho}"], projected[f"{rho}"]
        limit = (1 - p["ics"] ** 2) / math.sqrt(512)
        lines.append(
            _row(
                rho, f"{p['ics']:.3f}", f"{p['cos']:.3f}", f"{p['error']:.4f}",
                f"{p['cos'] - rho:+.3f}", f"{p['cos'] - p['ics']:+.3f}", f"{p['spread']:.4f}",
                f"{limit:.4f}", int(p["pairs"]), f"{q['cos'] - q['ics']:+.3f}", int(q["pairs"]),
            )
        )  # fmt: skip
    return lines


def _every_code(families: list[dict[str, Any]], names: list[str]) -> list[str]:
    lines = _head(
        "code", "pairs", "gap", "strangers", "pairs after changes", *AFTER, "common directions"
    )
    for name in names:
        points = at_points(families, name)
        gap = max(abs(points[f"{r}"]["cos"] - points[f"{r}"]["ics"]) for r in GRID)
        after = [f"{points[k]['cos']:.3f} ({points[k]['worst family']:.2f})" for k in AFTER]
        zero = points["0.0"]
        apart = f"{zero['cos']:+.3f} ± {zero['spread']:.3f}"
        lines.append(
            _row(
                name, int(zero["pairs"]), f"{gap:.3f}", apart, int(points["anchors"]["pairs"]),
                *after, f"{points[FREQUENT[1]]['cos']:+.3f}",
            )
        )  # fmt: skip
    points = at_points(families, names[0])
    measured = [f"{points[k]['ics']:.3f}" for k in AFTER]
    last = f"{points[FREQUENT[1]]['ics']:+.3f}"
    lines.append(_row(f"(ICS, for {names[0]})", "", "", "", "", *measured, last))
    return lines


def _gains(families: list[dict[str, Any]], first: str, names: list[str]) -> list[str]:
    where = ("0.3", "0.6", "0.9", "anchors", "moved", "missing", "int4")
    lines = _head(f"{first} less", *where)
    for name in names:
        cells = [gain(families, first, name, point) for point in where]
        lines.append(_row(name, *(f"{mean:+.4f} ± {error:.4f}" for mean, error in cells)))
    return lines


def _habits(families: list[dict[str, Any]]) -> list[str]:
    lines = _head(
        "families with", "number", "0.6: ICS", "projection", "encoder",
        "anchors: ICS", "projection", "encoder",
    )  # fmt: skip
    middle, after = (
        {code: by_habit(families, code, point) for code in ("projection", "encoder")}
        for point in ("0.6", "anchors")
    )
    for habit, (count, rho, cosine) in middle["encoder"].items():
        lines.append(
            _row(
                habit, int(count), f"{rho:.3f}", f"{middle['projection'][habit][2]:.3f}",
                f"{cosine:.3f}", f"{after['encoder'][habit][1]:.3f}",
                f"{after['projection'][habit][2]:.3f}", f"{after['encoder'][habit][2]:.3f}",
            )
        )  # fmt: skip
    return lines


def _normality(unrelated: dict[str, Any]) -> list[str]:
    lines = _head("figure", *unrelated)
    whole = {name: gaussianity(z.flatten(0, 1)) for name, z in unrelated.items()}
    single = {name: strangers(z, MILLION) for name, z in unrelated.items()}
    for found in (whole, single):
        for figure in next(iter(found.values())):
            lines.append(_row(figure, *(f"{found[name][figure]:.4g}" for name in unrelated)))
    pairs = int(next(iter(single.values()))["pairs of different draws"])
    lines.append(_row("the same of N(0, I)", expected_share(pairs), *[""] * (len(unrelated) - 1)))
    return lines


def _zoo(rows: list[dict[str, Any]]) -> list[str]:
    names = list(rows[0]["cos"])
    lines = _head("pair", "ICS by position", *names)
    for row in rows:
        cells = [f"{row['cos'][name]:+.3f}" for name in names]
        lines.append(_row(f"{row['a']}, {row['b']}", f"{row['ics']:+.3f}", *cells))
    return lines


def to_markdown(
    about: dict[str, str],
    mixtures: list[dict[str, Any]],
    families: list[dict[str, Any]],
    unrelated: dict[str, Any],
    zoo: list[dict[str, Any]],
) -> str:
    """The whole report.

    Args:
        about: "command" and "digest" of what was measured; "paper", which published CNN.
        mixtures: pieces of `measure_mixtures`.
        families: pieces of `measure_family`.
        unrelated: code -> latents (models, orders, 512) of independent draws.
        zoo: rows of `measure_zoo`.
    """
    names = list(dict.fromkeys(name for family in families for name in family["latents"]))
    draws, orders, _ = unrelated["encoder"].shape
    turns = len(families[0]["latents"]["encoder"]["base"])
    paper = f"; PAPER is {about['paper']}, by `{PAPER}`" if "paper" in about else ""
    lines = [
        "# The encoder, measured",
        "",
        f"`{about['command']}`; encoder `{about['digest'][:12]}`{paper}. Synthetic models of "
        "seeds, and mostly of widths, that training does not use; most are not ideal, see By "
        "habit.",
        "",
        "## Inputs of correlation rho",
        "",
        f"{len(mixtures)} families. An input of correlation rho is rho times the base's terms and "
        "sqrt(1 - rho²) times those of a model of the same sizes and habits, drawn independently. "
        "Each family is encoded with its anchors in many random orders, which to a convolution "
        "are different models; they are not independent, so errors are computed between families. "
        "(1 - rho²)/√512 is the least possible spread.",
        *_mixtures(*(at_mixtures(mixtures, name) for name in ("encoder", "projection"))),
        "",
        "The same for every code: mean cos z at each rho. With few pairs the largest gap is mostly "
        "chance, about 0.1 / sqrt(pairs). Projections are linear: their latents are summed. "
        "Mean pooling responds to rounding errors of the base's terms, which a sum inherits and a "
        "real relative does not, so its agreement here is spurious (see Every code).",
        *_means(mixtures),
        "",
        "## Weights of correlation rho",
        "",
        f"{len(families)} other families in {turns} orders each. Here noise is added to the "
        "weights and embeddings, for a nominal correlation rho; whitening of noisy embeddings "
        "and flattening reduce the correlation of the terms, which is the measured ICS. Thus cos z "
        "- rho has two parts: ICS - rho, due to the terms, and cos z - ICS, due to the encoder.",
        *_grid(*(at_points(families, name) for name in ("encoder", "projection"))),
        "",
        "## Every code",
        "",
        "gap: the largest |mean cos z - mean ICS| on the grid; with few pairs most of it is "
        "chance, about 0.1 / sqrt(pairs). strangers: cos z at rho 0. Then the mean cos z to the "
        "base after a change, in brackets that of the worst family. Last: two strangers with eight "
        "strong common directions added. All codes encode the same families and changes.",
        *_every_code(families, names),
        "",
        "The encoder less another code, on the same pairs, ± its standard error:",
        *_gains(families, "encoder", [n for n in names if n not in APART]),
        "",
        "## By habit",
        *_habits(families),
    ]
    lines += [
        "",
        "## Normality and look-alikes",
        "",
        f"Normality over all latents: {draws} independent draws, each in {orders} orders of the "
        "anchors. Mean pooling and the published CNN divide a latent by its own standard "
        "deviation, so all their norms are equal. Pairs: all models of different draws; a model "
        "is in many pairs and a draw in several models, so pairs are not independent. (The last "
        "line but one has the similarity of two orders of one draw.)",
        *_normality(unrelated),
    ]
    if zoo:
        lines += [
            "",
            "## Real models",
            "",
            "Pairs of the zoo, and its bases compared with themselves under other anchors. Here "
            "ICS is computed over all positions, as a code reads terms.",
            *_zoo(zoo),
        ]
    return "\n".join(lines) + "\n"
