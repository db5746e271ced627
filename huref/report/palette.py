"""The colours of all drawings by purpose, for light and dark mode."""

Paint = str

# Purpose -> (light mode, dark mode). Text has a contrast of at least 4.5 to 1, and no meaning
# depends on colour alone.
PAINTS: dict[Paint, tuple[str, str]] = {
    "paper": ("#faf9f6", "#1b1a18"),
    "card": ("#ffffff", "#252422"),
    "ink": ("#33312e", "#eceae5"),
    "muted": ("#6b6862", "#aaa69d"),
    "line": ("#d9d5cc", "#45423d"),
    "heat": ("#1f5c8b", "#7ab8ec"),
    "branch": ("#57534b", "#c4bfb4"),
    "descends": ("#11695c", "#5fd3bd"),
    "shared": ("#9a4d08", "#f0b057"),
    "unrelated": ("#6b6862", "#aaa69d"),
    "inconclusive": ("#71479e", "#c7a4f2"),
    "parts": ("#8c2f55", "#f08fb4"),
}

VERDICT_PAINTS = {
    "descends": "descends",
    "contains parts": "parts",
    "shared initialisation": "shared",
    "unrelated": "unrelated",
    "inconclusive": "inconclusive",
}


def light(paint: Paint) -> str:
    """The colour in light mode, as #rrggbb."""
    return PAINTS[paint][0]


def stylesheet() -> str:
    """CSS by which drawings follow the reader's choice of dark mode; without it they are light."""
    variables = [
        "".join(f"--{paint}:{both[side]};" for paint, both in PAINTS.items()) for side in (0, 1)
    ]
    classes = "".join(
        f".f-{paint}{{fill:var(--{paint})}}.s-{paint}{{stroke:var(--{paint})}}" for paint in PAINTS
    )
    dark = f"@media (prefers-color-scheme:dark){{:root{{{variables[1]}}}}}"
    # Marks without a tooltip must not cover those with one.
    tips = "svg :not(:has(>title)){pointer-events:none}"
    return f":root{{{variables[0]}}}@media screen{{{dark}}}{classes}{tips}"
