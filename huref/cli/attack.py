"""`huref attack`: copies with other weights and the same function."""

from pathlib import Path

import click

from huref.cli.options import echo


@click.command()
@click.argument("model")
@click.option(
    "--kind",
    required=True,
    multiple=True,
    metavar="NAME[,NAME...]",
    help="Kinds of attack, or 'all'; may be repeated.",
)
@click.option(
    "-o", "--out", required=True, type=click.Path(path_type=Path), help="A folder to create."
)
@click.option(
    "--other", metavar="MODEL", help="The model whose parts the copy gets (graft, parasite ...)."
)
@click.option(
    "--budget",
    type=click.IntRange(min=1),
    metavar="STEPS",
    help="Steps of training, for kinds that train.",
)
@click.option(
    "--blocks",
    metavar="N[,N...]",
    help="Blocks that they change, counted from 0, or 'all'.  [default: 1,2]",
)
@click.option(
    "--text",
    type=click.Path(path_type=Path),
    help="UTF-8 text that they train on; without it the model writes its own.",
)
@click.option("--seed", default=0, show_default=True, help="Seed of all random numbers.")
@click.option(
    "--check",
    is_flag=True,
    help="Run both models and print the largest difference of their logits.",
)
def attack(
    model: str,
    kind: tuple[str, ...],
    out: Path,
    other: str | None,
    budget: int | None,
    blocks: str | None,
    text: Path | None,
    seed: int,
    check: bool,
) -> None:
    """Write a copy of MODEL with other weights that computes the same function.

    For your own audits. MODEL is a folder, a file of weights beside its config.json, or a Hub id,
    which is downloaded completely into the Hub's cache. Needs eight bytes of memory a weight.

    Plain kinds, which exporters apply as well: ffn-permutation, ffn-scaling, head-maps,
    head-permutation, gain-absorption, rotation, sign-flips, mean-shift, vocabulary-permutation,
    vocabulary-extension, no-op-layers, upcycling; layer-duplication changes the function slightly.
    'all' applies every exact one that fits.

    Disguises: dead-units, quiet-units, cancelling-units, split-units, opposite-gates,
    opposing-units, linear-units, reversed-gates, even-units, duplicated-units, dead-heads,
    mute-heads, cancelling-heads, even-heads, split-heads, sink-heads, value-biases,
    extreme-scales, dead-dimensions, half-blocks, silent-blocks, silent-blocks-between,
    cancelling-blocks, noisy-experts, decoy-strings, outlier-rows, renumbered-strings,
    renumbered-words, renumbered-anchors, added-tokens, missing-config-keys, fewer-tokens,
    known-text.

    Trained, at the price of some perplexity: distilled-blocks (drawn anew), gradient-push (pushed
    away from the source's weights). --budget, --blocks and --text say what is spent on them.

    Parts of another model, named by --other, in MODEL: graft, foreign-units, parasite.

    Kinds with silent, quiet or cancelling parts and the last three change outputs by up to a few
    percent; --check prints by how much.
    """
    from huref.attacks import Effort
    from huref.attacks import attack as make

    effort = Effort(budget or 0, _numbers(blocks), text)
    names = make(model, ",".join(kind).split(","), out, seed, other, effort)
    echo(f"wrote {out}: {', '.join(names)}", err=True)
    if check:
        from huref.attacks.opening import locate
        from huref.attacks.proof import logit_difference

        difference = logit_difference(locate(model), out, names)
        echo(f"largest difference of logits: {difference:.1e} of their standard deviation")


def _numbers(blocks: str | None) -> tuple[int, ...] | None:
    """The value of --blocks: () where it is not given, None for 'all'."""
    if blocks is None or blocks == "all":
        return None if blocks else ()
    try:
        return tuple(int(number) for number in blocks.split(","))
    except ValueError as error:
        raise click.BadParameter(
            f"{blocks!r} is neither 'all' nor numbers with commas between", param_hint="--blocks"
        ) from error
