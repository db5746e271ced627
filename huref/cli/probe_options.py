"""Options of every `huref probe` command, and how its source is opened."""

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from huref.cli.options import as_file, echo, json_option
from huref.errors import BudgetError, EndpointError
from huref.escape import terminal

if TYPE_CHECKING:
    from huref.blackbox.endpoint import Endpoint
    from huref.blackbox.sources import Source

DEFAULT_BUDGET = 20_000  # requests


@dataclass(frozen=True)
class Options:
    """The values of `probe_options`."""

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
    """Add the options of `Options` to a command, which gets them as one argument."""

    @wraps(command)  # also copies the parameters that click has stored on the function
    def run(**values: Any) -> None:
        options = Options(**{field.name: values.pop(field.name) for field in fields(Options)})
        command(options=options, **values)

    for option in (
        click.option(
            "--answers", type=as_file, help="File that stores the answers.  [default: in the cache]"
        ),
        click.option(
            "--concurrency", default=8, show_default=True, help="Number of parallel requests."
        ),
        click.option(
            "--rate", type=float, help="Largest number of requests a second.  [default: no limit]"
        ),
        click.option("--key-env", metavar="NAME", help="Environment variable with the API key."),
        json_option,
        click.option("--yes", is_flag=True, help="Send requests without asking for confirmation."),
        click.option(
            "--tokens",
            metavar="TOKENS",
            type=click.IntRange(1),
            help="Largest number of tokens.  [default: 25 a request]",
        ),
        click.option(
            "--budget",
            default=DEFAULT_BUDGET,
            show_default=True,
            metavar="REQUESTS",
            type=click.IntRange(1),
            help="Largest number of requests.",
        ),
        click.option("--model", metavar="NAME", help="Name of the model at the endpoint."),
    ):
        run = option(run)
    return run


def is_endpoint(source: str) -> bool:
    """Whether a name is a base URL."""
    return source.startswith(("http://", "https://"))


def open_source(source: str, options: Options) -> "Source":
    """A local model, or an endpoint for which the user has confirmed the budget."""
    from huref.blackbox.local_model import LocalModel

    return open_endpoint(source, options) if is_endpoint(source) else LocalModel(source)


def open_endpoint(url: str, options: Options) -> "Endpoint":
    """An endpoint for which the user has confirmed the budget.

    Raises:
        BudgetError: stdin is no terminal, so that nobody can confirm.
        EndpointError: not a URL, no key in the named variable, or an unknown API.
    """
    from huref.blackbox.answers import AnswerStore
    from huref.blackbox.client import Client, Limits, require_base_url
    from huref.blackbox.endpoint import Endpoint, answers_path
    from huref.blackbox.prompts import TOKENS_PER_PROMPT

    require_base_url(url)
    key = os.environ.get(options.key_env) if options.key_env else None
    if options.key_env and not key:
        raise EndpointError(f"the environment variable {options.key_env} is not set or empty")
    if key and not (key.isascii() and key.isprintable()):
        raise EndpointError(
            f"the environment variable {options.key_env} has characters that are not allowed in an "
            "HTTP header"
        )
    tokens = options.tokens or options.budget * (TOKENS_PER_PROMPT + 1)
    question = f"Send up to {options.budget:,} requests and {tokens:,} tokens to {url}?"
    if not options.yes:
        if not sys.stdin.isatty():
            raise BudgetError(f"{question} stdin is no terminal", advice="confirm with --yes")
        click.confirm(question, abort=True, err=True)
    limits = Limits(options.budget, tokens, options.concurrency, options.rate)
    store = AnswerStore(options.answers or answers_path(url, options.model))
    echo(f"answers are kept in {store.path}", err=True)
    endpoint = Endpoint(Client(url, key, limits, store), options.model)
    echo(terminal(f"{url}: {endpoint.capabilities.summary}"), err=True)
    return endpoint
