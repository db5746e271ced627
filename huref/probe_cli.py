"""`huref probe`: what can be told of a model from its outputs alone."""

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from huref.errors import BudgetError, EndpointError, HurefError

if TYPE_CHECKING:
    from huref.blackbox.signature import Signature
    from huref.blackbox.sources import Endpoint, Source

DEFAULT_BUDGET = 20_000  # requests
as_file = click.Path(dir_okay=False, path_type=Path)


@dataclass(frozen=True)
class Options:
    """What every probe takes."""

    model: str | None
    budget: int
    tokens: int | None
    yes: bool
    as_json: bool
    key_env: str | None
    rate: float | None
    concurrency: int
    answers: Path | None


def common(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of `Options`, as one argument."""

    def run(
        model: str | None,
        budget: int,
        tokens: int | None,
        yes: bool,
        as_json: bool,
        key_env: str | None,
        rate: float | None,
        concurrency: int,
        answers: Path | None,
        **others: Any,
    ) -> None:
        options = Options(model, budget, tokens, yes, as_json, key_env, rate, concurrency, answers)
        command(options=options, **others)

    run.__name__, run.__doc__ = command.__name__, command.__doc__
    run.__click_params__ = getattr(command, "__click_params__", [])  # type: ignore[attr-defined]
    for option in (
        click.option("--answers", type=as_file, help="Where answers are kept.  [default: cache]"),
        click.option("--concurrency", default=8, show_default=True, help="Requests at a time."),
        click.option("--rate", type=float, help="Most requests a second.  [default: no limit]"),
        click.option("--key-env", metavar="NAME", help="Environment variable with the API key."),
        click.option("--json", "as_json", is_flag=True, help="Print JSON."),
        click.option("--yes", is_flag=True, help="Do not ask before sending requests."),
        click.option(
            "--tokens",
            metavar="TOKENS",
            type=click.IntRange(1),
            help="Most tokens to pay for.  [default: 25 for each request of the budget]",
        ),
        click.option(
            "--budget",
            default=DEFAULT_BUDGET,
            show_default=True,
            metavar="REQUESTS",
            type=click.IntRange(1),
            help="Most requests to send.",
        ),
        click.option("--model", metavar="NAME", help="The model's name at the endpoint."),
    ):
        run = option(run)
    return run


def is_endpoint(source: str) -> bool:
    """Whether a name is a base URL."""
    return source.startswith(("http://", "https://"))


def open_source(source: str, options: Options) -> "Source":
    """A model on this machine, or an endpoint after the user agreed to its budget."""
    from huref.blackbox.sources import LocalModel

    return open_endpoint(source, options) if is_endpoint(source) else LocalModel(source)


def open_endpoint(url: str, options: Options) -> "Endpoint":
    """An endpoint, after the user agreed to the budget.

    Raises:
        BudgetError: nobody is there to agree.
    """
    from huref.blackbox.answers import AnswerStore
    from huref.blackbox.client import Client, Limits
    from huref.blackbox.prompts import TOKENS_PER_PROMPT
    from huref.blackbox.sources import Endpoint, answers_path

    tokens = options.tokens or options.budget * (TOKENS_PER_PROMPT + 1)
    question = f"Up to {options.budget:,} requests and {tokens:,} tokens to {url}. Go on?"
    if not options.yes:
        if not sys.stdin.isatty():
            raise BudgetError(f"{question} Nobody is there to answer; agree with --yes")
        click.confirm(question, abort=True, err=True)
    key = os.environ.get(options.key_env) if options.key_env else None
    if options.key_env and not key:
        raise EndpointError(f"the environment variable {options.key_env} holds no key")
    limits = Limits(options.budget, tokens, options.concurrency, options.rate)
    store = AnswerStore(options.answers or answers_path(url, options.model))
    click.echo(f"answers are kept in {store.path}", err=True)
    endpoint = Endpoint(Client(url, key, limits, store), options.model)
    click.echo(f"{url}: {endpoint.can.summary}", err=True)
    return endpoint


@click.group()
def probe() -> None:
    """Probe a model by its outputs alone, for endpoints that you own or may test.

    SOURCE is the base URL of an OpenAI-compatible endpoint (http://127.0.0.1:8000/v1), or a
    model's folder or Hub id, whose outputs are then computed here. Requests are capped by
    --budget, which is shown and asked for before the first one. Many providers' terms forbid
    probing of this kind: ask them first.
    """


@probe.command()
@click.argument("source")
@common
def size(source: str, options: Options) -> None:
    """Tell the hidden size, the final norm and the precision of a served model."""
    from huref.blackbox.size import measure_size

    opened = open_source(source, options)
    before = opened.requests
    found = measure_size(opened)
    if options.as_json:
        click.echo(json.dumps(found.to_json() | {"requests": before + found.requests}))
        return
    interval = f"{found.low} to {found.high or 'unknown'}"
    click.echo(f"hidden size  {found.hidden_size or 'cannot tell'}  ({interval})")
    click.echo(f"final norm   {found.norm or 'cannot tell'}")
    click.echo(f"precision    {found.precision}")
    click.echo(f"requests     {opened.requests:,}")
    click.echo(f"why          {found.why}")


@probe.command()
@click.argument("source")
@click.option("-o", "--out", type=as_file, required=True, help="Signature file to write.")
@click.option("--picture", type=as_file, help="Also draw the endpoint's dog (PNG).")
@click.option("--size", "rank", type=int, help="Dimensions of the logit image, where known.")
@common
def signature(
    source: str, out: Path, picture: Path | None, rank: int | None, options: Options
) -> None:
    """Save the signature of SOURCE: a basis of the logits it can produce."""
    made = _signature_of(source, rank, options)
    made.save(out)
    if picture is not None:
        from huref.endpoint_portrait import draw_signature

        draw_signature(made, picture)
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
@click.option("--size", "rank", type=int, help="Dimensions of the logit image, where known.")
@common
def extract(
    source: str, models: tuple[str, ...], out: Path, rank: int | None, options: Options
) -> None:
    """Extract the output projection of SOURCE, up to an invertible map.

    With open MODELs, also tell how far it is from their heads.
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
    "--outputs", default=16, show_default=True, type=click.IntRange(1), help="Prompts to ask."
)
@common
def match(source: str, models: tuple[str, ...], outputs: int, options: Options) -> None:
    """Tell which open MODEL has the head of SOURCE: a signature, an endpoint or a model.

    One output can tell the same head from any other; a signature also tells kin from strangers.
    """
    from huref.blackbox.heads import read_head
    from huref.blackbox.match import match_outputs, match_signature, require_candidates
    from huref.blackbox.signature import collect_outputs, load_signature
    from huref.blackbox.size import precision_of

    heads = [read_head(model) for model in models]
    requests = 0
    if not is_endpoint(source) and Path(source).is_file():
        loaded = load_signature(Path(source))
        matches = [match_signature(loaded, head) for head in heads]
    else:
        opened = open_source(source, options)
        values, ids = collect_outputs(opened, outputs, require_candidates(heads))
        noise = precision_of(opened, values).noise
        matches = [match_outputs(values, ids, noise, head) for head in heads]
        requests = opened.requests
    if options.as_json:
        found = [one.to_json() for one in matches]
        click.echo(json.dumps({"candidates": found, "requests": requests}, ensure_ascii=False))
        return
    for one in sorted(matches, key=lambda m: (m.residual is None, m.residual)):
        click.echo(f"{one.model}\t{one.verdict}\t{one.why}")


@probe.command()
@click.argument("source")
@click.argument("models", nargs=-1, metavar="[SIGNATURE]...")
@click.option("--baseline", type=as_file, required=True, help="Made at the first visit.")
@common
def watch(source: str, models: tuple[str, ...], baseline: Path, options: Options) -> None:
    """Tell whether the model behind SOURCE changed since the baseline was made.

    The first call makes the baseline. Named SIGNATUREs of the same endpoint are also compared.
    """
    from huref.blackbox.watch import revisit

    if not is_endpoint(source):
        raise HurefError(f"{source}: only an endpoint can be watched; give its base URL")
    endpoint = open_endpoint(source, options)
    _report(options, revisit(endpoint, baseline, [Path(model) for model in models]))


def _signature_of(source: str, rank: int | None, options: Options) -> "Signature":
    from huref.blackbox.signature import load_signature, make_signature

    if not is_endpoint(source) and Path(source).is_file():
        return load_signature(Path(source))
    return make_signature(open_source(source, options), rank)


def _report(options: Options, figures: dict[str, Any]) -> None:
    if options.as_json:
        click.echo(json.dumps(figures, ensure_ascii=False))
        return
    width = max(map(len, figures))
    for name, value in figures.items():
        click.echo(f"{name:<{width}}  {'-' if value is None else value}")
