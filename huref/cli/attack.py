"""`huref attack`: copies with other weights and the same function."""

from pathlib import Path

import click


@click.command()
@click.argument("model")
@click.option("--kind", required=True, metavar="NAME[,NAME...]", help="Which attacks, or 'all'.")
@click.option(
    "-o", "--out", required=True, type=click.Path(path_type=Path), help="A folder to create."
)
@click.option("--seed", default=0, show_default=True, help="Of everything random in it.")
@click.option(
    "--check", is_flag=True, help="Run both models and print how far their logits differ."
)
def attack(model: str, kind: str, out: Path, seed: int, check: bool) -> None:
    """Write a copy that computes the same with other weights.

    For audits of your own. MODEL is a folder, a file of weights beside its config.json, or a Hub
    id, which is downloaded whole into your cache; it takes eight bytes of memory for each weight.

    Kinds: ffn-permutation, ffn-scaling, head-maps, head-permutation, gain-absorption, rotation,
    sign-flips, mean-shift, vocabulary-permutation, vocabulary-extension, no-op-layers, upcycling;
    layer-duplication changes the function a little; all is every exact one that applies.
    """
    from huref.attacks import attack as make

    names = make(model, kind.split(","), out, seed)
    click.echo(f"wrote {out}: {', '.join(names)}", err=True)
    if check:
        from huref.attacks.opening import locate
        from huref.attacks.proof import logit_difference

        difference = logit_difference(locate(model), out)
        click.echo(f"logits differ by at most {difference:.1e} of their spread")
