"""What every `huref probe` command takes, and the source that they are pointed at."""

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from huref.cli.options import as_file, json_option
from huref.errors import BudgetError, EndpointError

if TYPE_CHECKING:
    from huref.blackbox.endpoint import Endpoint
    from huref.blackbox.sources import Source

DEFAULT_BUDGET = 20_000  # requests


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


def probe_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of `Options`, as one argument."""

    @wraps(command)  # which also carries over the parameters that click noted on it
    def run(**values: Any) -> None:
        options = Options(**{field.name: values.pop(field.name) for field in fields(Options)})
        command(options=options, **values)

    for option in (
        click.option("--answers", type=as_file, help="Where answers are kept.  [default: cache]"),
        click.option("--concurrency", default=8, show_default=True, help="Requests at a time."),
        click.option("--rate", type=float, help="Most requests a second.  [default: no limit]"),
        click.option("--key-env", metavar="NAME", help="Environment variable with the API key."),
        json_option,
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
    from huref.blackbox.local_model import LocalModel

    return open_endpoint(source, options) if is_endpoint(source) else LocalModel(source)


def open_endpoint(url: str, options: Options) -> "Endpoint":
    """An endpoint, after the user agreed to the budget.

    Raises:
        BudgetError: nobody is there to agree.
        EndpointError: no URL, no key where one was named, or it speaks no API that is known.
    """
    from huref.blackbox.answers import AnswerStore
    from huref.blackbox.client import Client, Limits, require_base_url
    from huref.blackbox.endpoint import Endpoint, answers_path
    from huref.blackbox.prompts import TOKENS_PER_PROMPT

    require_base_url(url)
    key = os.environ.get(options.key_env) if options.key_env else None
    if options.key_env and not key:
        raise EndpointError(f"the environment variable {options.key_env} holds no key")
    if key and not (key.isascii() and key.isprintable()):
        raise EndpointError(
            f"the environment variable {options.key_env} holds no key: it has characters that no "
            "header can carry"
        )
    tokens = options.tokens or options.budget * (TOKENS_PER_PROMPT + 1)
    question = f"Up to {options.budget:,} requests and {tokens:,} tokens to {url}. Go on?"
    if not options.yes:
        if not sys.stdin.isatty():
            raise BudgetError(f"{question} Nobody is there to answer; agree with --yes")
        click.confirm(question, abort=True, err=True)
    limits = Limits(options.budget, tokens, options.concurrency, options.rate)
    store = AnswerStore(options.answers or answers_path(url, options.model))
    click.echo(f"answers are kept in {store.path}", err=True)
    endpoint = Endpoint(Client(url, key, limits, store), options.model)
    click.echo(f"{url}: {endpoint.capabilities.summary}", err=True)
    return endpoint
