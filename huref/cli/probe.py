"""`huref probe`: what the outputs of a served model say of it."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from huref.cli.options import as_file, echo, key_option, print_json
from huref.cli.probe_options import (
    Options,
    is_endpoint,
    open_endpoint,
    open_source,
    probe_options,
)
from huref.errors import HurefError
from huref.escape import terminal

if TYPE_CHECKING:
    from huref.blackbox.baseline import Mode
    from huref.blackbox.candidates import Match
    from huref.blackbox.endpoint import Endpoint
    from huref.blackbox.signature import Signature
    from huref.loader.checkpoint import Checkpoint


@click.group()
def probe() -> None:
    """Probe a served model by its outputs alone.

    For endpoints that you own or may test. SOURCE is the base URL of an OpenAI-compatible endpoint
    (http://127.0.0.1:8000/v1), or a model's folder or Hub id, whose outputs are then computed here.
    --budget limits the requests; it is shown, and confirmed by you, before the first one, with the
    tokens and, given --price, the money. The terms of many providers forbid probing: ask them
    first.
    """


@probe.command()
@click.argument("source")
@probe_options
def capabilities(source: str, options: Options) -> None:
    """Show what the endpoint SOURCE offers, in at most 12 requests."""
    endpoint = _open_only_endpoint(source, options)
    found = endpoint.capabilities
    kinds = [each.to_json() for each in (found, *found.others)]
    if options.as_json:
        names = ("model", "access", "summary", "detected")
        figures = {name: getattr(found, name) for name in names}
        counts = {"requests": endpoint.requests, "detection_requests": found.requests}
        print_json({**figures, "kinds": kinds, "findings": endpoint.findings, **counts})
        return
    for kind in kinds:
        echo(f"{kind.pop('api')}:")
        for name, value in kind.items():
            echo(f"  {name:<14} {'not tried' if value is None else terminal(value)}")
    echo(f"detected {found.detected} in {found.requests} requests")


@probe.command()
@click.argument("source")
@probe_options
def size(source: str, options: Options) -> None:
    """Measure hidden size, final norm and precision of a served model."""
    from huref.blackbox.size import measure_size, unmeasured

    opened = open_source(source, options)
    before = opened.requests
    found = unmeasured(opened) or measure_size(opened)
    if options.as_json:
        print_json(found.to_json() | {"requests": before + found.requests})
        return
    interval = f"{found.low or 'unknown'} to {found.high or 'unknown'}"
    echo(f"hidden size  {found.hidden_size or 'cannot tell'}  ({interval})")
    echo(f"final norm   {terminal(found.norm or 'cannot tell')}")
    echo(f"precision    {found.precision}")
    echo(f"requests     {opened.requests:,}")
    echo(f"why          {terminal(found.why)}")


@probe.command()
@click.argument("source")
@click.option("-o", "--out", type=as_file, required=True, help="Signature file to write.")
@click.option("--picture", type=as_file, help="Also draw the endpoint's dog (PNG).")
@key_option
@click.option("--size", "rank", type=int, help="Rank of the logits, if known.")
@probe_options
def signature(
    source: str,
    out: Path,
    picture: Path | None,
    key: Path | None,
    rank: int | None,
    options: Options,
) -> None:
    """Save a basis of the space of SOURCE's logits."""
    if key is not None and picture is None:
        raise click.UsageError("--key signs the picture; name it with --picture")
    signer = None
    if key is not None:
        from huref.evidence.keys import load_signer

        signer = load_signer(key)
    made = _signature_of(source, rank, options)
    made.save(out)
    if picture is not None:
        from huref.api.endpoint_picture import draw_signature

        draw_signature(made, picture, signer)
    _report(
        options,
        {
            "source": made.source,
            "rank": made.basis.shape[1],
            "tokens": made.basis.shape[0],
            "norm": made.norm,
            "precision": made.precision,
            "noise": made.noise,
            "recipe": made.digest,
            "file": str(out),
            "picture": str(picture) if picture else None,
        },
    )


@probe.command()
@click.argument("source")
@click.argument("models", nargs=-1, metavar="[MODEL]...")
@click.option("-o", "--out", type=as_file, required=True, help="Projection file to write.")
@click.option("--size", "rank", type=int, help="Rank of the logits, if known.")
@probe_options
def extract(
    source: str, models: tuple[str, ...], out: Path, rank: int | None, options: Options
) -> None:
    """Extract the output projection, up to an invertible map.

    With open MODELs, also measure its distance from their heads.
    """
    from huref.blackbox.extract import extract_projection, projection_error
    from huref.blackbox.heads import read_head

    heads = [read_head(model) for model in models]
    projection = extract_projection(_signature_of(source, rank, options))
    projection.save(out)
    errors = {head.model: projection_error(projection, head).to_json() for head in heads}
    tokens, dimensions = projection.weight.shape
    _report(
        options,
        {"file": str(out), "tokens": tokens, "dimensions": dimensions, "errors": errors},
    )


@probe.command()
@click.argument("source")
@click.argument("models", nargs=-1, required=True, metavar="MODEL...")
@click.option(
    "--outputs", default=16, show_default=True, type=click.IntRange(1), help="Number of prompts."
)
@probe_options
def match(source: str, models: tuple[str, ...], outputs: int, options: Options) -> None:
    """Find which open MODEL has the output head of SOURCE.

    SOURCE is a signature, an endpoint or a model. One output suffices to recognise the same head;
    a signature also separates relatives from unrelated models. Where an endpoint's logits cannot be
    measured, but one log-probability a token is given, the scores of texts are compared with those
    of each MODEL, run on this machine at several precisions. Where an endpoint counts the tokens of
    a prompt, MODELs of another tokenizer are left out first.
    """
    from huref.blackbox.candidates import match_candidates
    from huref.blackbox.signature import load_signature
    from huref.loader.checkpoint import open_checkpoint

    # A wrong name is found before a request is paid for.
    checkpoints = {model: open_checkpoint(model) for model in models}
    is_file = not is_endpoint(source) and Path(source).is_file()
    opened = load_signature(Path(source)) if is_file else open_source(source, options)
    matches, clues = match_candidates(opened, models, outputs)
    if options.as_json:
        found = [
            one.to_json()
            | {
                "tokenizer": clue.to_json() if (clue := clues.get(one.model)) else None,
                "files": _files_of(checkpoints[one.model]),
            }
            for one in matches
        ]
        print_json({"candidates": found, "requests": getattr(opened, "requests", 0)})
        return
    for one in sorted(matches, key=_residual):
        echo("\t".join(map(terminal, (one.model, one.verdict, one.why))))


def _files_of(checkpoint: "Checkpoint") -> dict[str, Any] | None:
    """What was read of a model; None where it has no weights, but a tokenizer to compare."""
    try:
        return checkpoint.describe_files()
    except HurefError:
        return None


@probe.command()
@click.argument("source")
@click.argument("models", nargs=-1, metavar="[SIGNATURE]...")
@click.option("--baseline", type=as_file, required=True, help="File written by the first call.")
@click.option(
    "--mode",
    type=click.Choice(["logprobs", "scores", "tokens"]),
    help="What to compare.  [default: the baseline's; at first what sees most]",
)
@click.option(
    "--level",
    type=click.FloatRange(0.001, 0.2),
    default=0.01,
    show_default=True,
    help="Probability of a false alarm at one visit.",
)
@probe_options
def watch(
    source: str,
    models: tuple[str, ...],
    baseline: Path,
    mode: "Mode | None",
    level: float,
    options: Options,
) -> None:
    """Detect whether the model behind SOURCE has changed.

    The first call writes the baseline; later calls compare with it, and with any SIGNATURE of the
    same endpoint that is named. It compares log-probabilities, the scores of fixed texts, or, where
    an endpoint gives nothing but text, the generated tokens.
    """
    from huref.blackbox.watch import revisit

    endpoint = _open_only_endpoint(source, options)
    _report(options, revisit(endpoint, baseline, [Path(model) for model in models], mode, level))


def _residual(one: "Match") -> float:
    residual = getattr(one, "residual", None)
    return float("inf") if residual is None else float(residual)


def _open_only_endpoint(source: str, options: Options) -> "Endpoint":
    if not is_endpoint(source):
        raise HurefError(
            "only an endpoint can be probed in this way", model=source, advice="give its base URL"
        )
    return open_endpoint(source, options)


def _signature_of(source: str, rank: int | None, options: Options) -> "Signature":
    from huref.blackbox.signature import load_signature, make_signature

    if not is_endpoint(source) and Path(source).is_file():
        return load_signature(Path(source))
    return make_signature(open_source(source, options), rank)


def _report(options: Options, figures: dict[str, Any]) -> None:
    if options.as_json:
        print_json(figures)
        return
    width = max(map(len, figures))
    for name, value in figures.items():
        echo(f"{name:<{width}}  {'-' if value is None else terminal(value)}")
