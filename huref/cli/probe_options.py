"""Options of every `huref probe` command, and how its source is opened."""

import os
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from huref.cli.options import as_file, echo, json_option, print_json
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
    price: float | None
    dry_run: bool
    ask_again: bool


def probe_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options of `Options` to a command, which gets them as one argument."""

    @wraps(command)  # also copies the parameters that click has stored on the function
    def run(**values: Any) -> None:
        options = Options(**{field.name: values.pop(field.name) for field in fields(Options)})
        command(options=options, **values)

    for option in (
        click.option(
            "--ask-again",
            is_flag=True,
            help="Detect again what the endpoint offers.  [default: remembered with the answers]",
        ),
        click.option(
            "--dry-run", is_flag=True, help="Show what would be sent at most, and send nothing."
        ),
        click.option(
            "--price",
            metavar="MONEY",
            type=click.FloatRange(0, min_open=True),
            help="Price of a million tokens, to show what the token limit costs.",
        ),
        click.option(
            "--answers", type=as_file, help="File that stores the answers.  [default: in the cache]"
        ),
        click.option(
            "--concurrency",
            default=8,
            show_default=True,
            type=click.IntRange(1),
            help="Number of parallel requests.",
        ),
        click.option(
            "--rate",
            type=click.FloatRange(0, min_open=True),
            help="Largest number of requests a second.  [default: no limit]",
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


@dataclass(frozen=True)
class Plan:
    """What a command may send at most.

    Attributes:
        endpoint: base URL.
        requests, tokens: limits.
        rate: requests per second; None for no limit.
        money: price of the tokens, in the currency of --price; None without a price.
        seconds: least duration at that rate; None without one.
        answers: file that stores the answers.
        stored: number of answers in it, which are not paid for again.
    """

    endpoint: str
    requests: int
    tokens: int
    rate: float | None
    money: float | None
    seconds: float | None
    answers: str
    stored: int

    @classmethod
    def of(cls, url: str, options: Options, answers: Path) -> "Plan":
        """The plan of a command with these options."""
        from huref.blackbox.answers import count_answers
        from huref.blackbox.prompts import TOKENS_PER_PROMPT

        tokens = options.tokens or options.budget * (TOKENS_PER_PROMPT + 1)
        money = None if options.price is None else tokens * options.price / 1e6
        seconds = None if options.rate is None else options.budget / options.rate
        stored = count_answers(answers)
        return cls(url, options.budget, tokens, options.rate, money, seconds, str(answers), stored)

    @property
    def words(self) -> str:
        """The plan as the question that the user confirms."""
        money = "" if self.money is None else f" for at most {self.money:,.2f} (by --price)"
        rate = "" if self.rate is None else f", at most {self.rate:g} a second"
        stored = f" ({self.stored:,} answers are stored already)" if self.stored else ""
        return (
            f"Send up to {self.requests:,} requests and {self.tokens:,} tokens{money} to "
            f"{self.endpoint}{rate}{stored}?"
        )


class DryRun(click.ClickException):
    """Ends a command that must not send anything: prints its plan and exits with 0."""

    exit_code = 0

    def __init__(self, plan: Plan, as_json: bool):
        super().__init__(plan.words)
        self._plan = plan
        self._as_json = as_json

    def show(self, file: Any = None) -> None:
        """Print the plan on stdout."""
        if self._as_json:
            print_json(asdict(self._plan))
            return
        words = self._plan.words.removesuffix("?").replace("Send up", "It would send up")
        echo(terminal(f"{words}."))


def open_endpoint(url: str, options: Options) -> "Endpoint":
    """An endpoint for which the user has confirmed the budget.

    Raises:
        BudgetError: stdin is no terminal, so that nobody can confirm.
        EndpointError: not a URL, no key in the named variable, or an unknown API.
        DryRun: nothing must be sent.
    """
    from huref.blackbox.answers import AnswerStore
    from huref.blackbox.client import Client, Limits, require_base_url
    from huref.blackbox.endpoint import Endpoint, answers_path

    require_base_url(url)
    key = os.environ.get(options.key_env) if options.key_env else None
    if options.key_env and not key:
        raise EndpointError(f"the environment variable {options.key_env} is not set or empty")
    if key and not (key.isascii() and key.isprintable()):
        raise EndpointError(
            f"the environment variable {options.key_env} has characters that are not allowed in an "
            "HTTP header"
        )
    answers = options.answers or answers_path(url, options.model)
    plan = Plan.of(url, options, answers)
    if options.dry_run:
        raise DryRun(plan, options.as_json)
    if not options.yes:
        if not sys.stdin.isatty():
            raise BudgetError(f"{plan.words} stdin is no terminal", advice="confirm with --yes")
        click.confirm(terminal(plan.words), abort=True, err=True)
    else:
        echo(terminal(plan.words.replace("Send up", "sending up").rstrip("?")), err=True)
    limits = Limits(options.budget, plan.tokens, options.concurrency, options.rate)
    store = AnswerStore(answers)
    echo(terminal(f"answers are kept in {store.path}"), err=True)
    endpoint = Endpoint(Client(url, key, limits, store), options.model, ask_again=options.ask_again)
    echo(terminal(f"{url}: {endpoint.capabilities.summary}"), err=True)
    for finding in endpoint.findings:
        echo(terminal(f"{url}: {finding}"), err=True)
    return endpoint
