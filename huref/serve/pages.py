"""The HTML of the page and of its results, from this package's templates."""

from functools import lru_cache

from jinja2 import Environment, PackageLoader, StrictUndefined

from huref.escape import printable
from huref.report import wording
from huref.report.palette import VERDICT_PAINTS, stylesheet
from huref.version import __version__


@lru_cache(maxsize=1)
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("huref.serve", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(
        version=__version__, wording=wording, printable=printable, paints=VERDICT_PAINTS
    )
    return environment


def render_view(name: str, **values: object) -> str:
    """A page or a part of one. All values are escaped."""
    return _environment().get_template(f"{name}.html").render(**values)


def read_style() -> str:
    """The style sheet, with the colours of all huref's pages."""
    return stylesheet() + _source("page.css")


def read_script() -> str:
    """The page's only script."""
    return _source("page.js")


def _source(name: str) -> str:
    environment = _environment()
    assert environment.loader is not None
    return environment.loader.get_source(environment, name)[0]
