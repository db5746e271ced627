"""The command line: one short function per command, on top of the Python API.

Results go to stdout, everything else to stderr. What is heavy is imported inside the commands,
so that `huref --help` answers at once.
"""

import contextlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any, Literal, NoReturn

import click

from huref import __version__
from huref.decoder_cli import decoder
from huref.errors import HurefError, one_line
from huref.files import require_folder
from huref.fleet_cli import fleet
from huref.identify_cli import identify
from huref.lineage_cli import COMPARISONS, check, require_kind, tree
from huref.probe_cli import probe
from huref.registry_cli import registry


class _Huref(click.Group):
    """Shows a known failure as one line; HUREF_DEBUG=1 shows where it came from."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        for word in args:
            try:
                word.encode()
            except UnicodeEncodeError:  # neither JSON, nor a record, nor SQLite could hold it
                click.echo(f"huref: {one_line(word)}: not valid Unicode; rename it", err=True)
                ctx.exit(1)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            with contextlib.suppress(ValueError):  # in a thread, where no signal arrives
                signal.signal(signal.SIGTERM, _leave)
        try:
            return super().invoke(ctx)
        except (HurefError, OSError) as error:
            if os.environ.get("HUREF_DEBUG") == "1" or isinstance(error, BrokenPipeError):
                raise
            click.echo(f"huref: {one_line(error)}", err=True)
            ctx.exit(1)
        except KeyboardInterrupt:
            click.echo("huref: stopped", err=True)
            ctx.exit(128 + signal.SIGINT)


def _leave(number: int, _: object) -> NoReturn:
    """End as the signal would, but remove temporary files on the way."""
    sys.exit(128 + number)


@click.group(cls=_Huref, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="huref")
def main() -> None:
    """Which base model does this language model descend from?

    A MODEL is a folder, a file of weights, a Hub id (org/name, optional @revision, or
    org/name/file for one file), a LoRA adapter, a saved record or a fingerprint PNG, in any mix.
    """


def _default_picture(model: str) -> Path:
    name = Path(model.partition("@")[0]).expanduser().resolve().name
    return Path(f"{name.removesuffix('.safetensors') or 'fingerprint'}.dog.png")


as_file = click.Path(dir_okay=False, path_type=Path)


@main.command()
@click.argument("model")
@click.option("-o", "--out", type=as_file, help="Where to write the PNG.  [default: NAME.dog.png]")
@click.option("--recipe", default="default", metavar="NAME|FILE", help="How it is made.")
@click.option("--decoder", metavar="NAME|FILE", help="Another decoder than the recipe's.")
@click.option("--record", type=as_file, help="Also save the record (private: it leaks weights).")
@click.option("--base", metavar="MODEL", help="For an adapter: its base, if not the one it names.")
@click.option("--caption", is_flag=True, help="Write name, spoken code and colours below the dog.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def fingerprint(
    model: str,
    out: Path | None,
    recipe: str,
    decoder: str | None,
    record: Path | None,
    base: str | None,
    caption: bool,
    as_json: bool,
) -> None:
    """Make a model's picture: one lineage, one dog."""
    out = out or _default_picture(model)
    require_kind(out, (".png",))
    require_folder(record)
    from huref.portrait import fingerprint as make

    result = make(
        model, out, recipe=recipe, decoder=decoder, record=record, base=base, caption=caption
    )
    if as_json:
        click.echo(json.dumps(result.to_json(), ensure_ascii=False))
        return
    costs = result.costs
    click.echo(f"picture  {out}")
    click.echo(f"code     {' '.join(result.code)}")
    if record:
        click.echo(f"record   {record}  (private: it leaks weights)")
    if result.record.revision:
        click.echo(f"commit   {result.record.revision}")
    click.echo(f"recipe   {result.record.recipe.name} {result.record.recipe.digest}")
    share = costs.bytes_read / max(costs.bytes_total, 1)
    part = f"{share:.1%}".replace("%", " %") if share <= 1 else "some of them twice"
    click.echo(f"read     {costs.bytes_read:,} of {costs.bytes_total:,} bytes ({part})")


@main.command()
@click.argument("models", nargs=-1, required=True)
@click.option("--recipe", default="default", metavar="NAME|FILE", help="How they are measured.")
@click.option(
    "--depth",
    type=click.Choice(["recipe", "full"]),
    default="recipe",
    show_default=True,
    help="Which blocks are read; full gives layer maps.",
)
@click.option("--no-cache", is_flag=True, help="Read the weights again; keep no records.")
@click.option("-o", "--out", type=as_file, help="Also write a report (.html) or picture (.png).")
@click.option("--json", "form", flag_value="json", help="Print JSON.")
@click.option("--csv", "form", flag_value="csv", help="Print CSV.")
@click.option("--md", "form", flag_value="md", help="Print a Markdown table.")
@click.option("--latex", "form", flag_value="latex", help="Print a LaTeX table.")
def compare(
    models: tuple[str, ...],
    recipe: str,
    depth: Literal["recipe", "full"],
    no_cache: bool,
    out: Path | None,
    form: str | None,
) -> None:
    """Compare every two of two or more MODELS."""
    if len(models) < 2:
        raise click.UsageError("give at least two models to compare")
    require_kind(out, COMPARISONS)
    from huref.comparison import compare as measure
    from huref.output import FORMATS

    table = measure(models, recipe=recipe, depth=depth, cache=not no_cache)
    if out is not None:
        from huref.report.files import write_comparison

        write_comparison(table, out, recipe=recipe)
        click.echo(f"wrote {out}", err=True)
    click.echo(FORMATS[form or "text"](table))


@main.command("train-encoder")
@click.option("--config", type=as_file, required=True, help="For instance configs/encoder.yaml.")
@click.option("--resume", is_flag=True, help="Go on from the last saved step.")
@click.option("--device", default="auto", help="auto, cpu or cuda.  [default: auto]")
@click.option("-o", "--out", type=as_file, help="Where the trained encoder goes.")
@click.option(
    "--steps", type=click.IntRange(min=1), help="Train for so many steps instead of the config's."
)
def train_encoder(
    config: Path, resume: bool, device: str, out: Path | None, steps: int | None
) -> None:
    """Train the encoder on synthetic Gaussian weights alone."""
    from huref.encoder.train import train

    click.echo(train(config, resume=resume, device=device, out=out, steps=steps))


main.add_command(tree)
main.add_command(check)
main.add_command(probe)
main.add_command(registry)
main.add_command(identify)
main.add_command(decoder)
main.add_command(fleet)


@main.command()
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


if __name__ == "__main__":
    sys.exit(main())
