"""Self-contained pages: one file that sends no requests and runs only its own script."""

import base64
import hashlib

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from huref.report.palette import stylesheet
from huref.version import __version__


def render_html(
    page: str, package: str = "huref.report", *, script_of: str = "", **values: object
) -> str:
    """A page from a package's `templates`: PAGE.html, with PAGE.js as its only script.

    All values but Markup are escaped. Every page begins with this package's head.html; its content
    security policy forbids requests and every script without the digest of PAGE.js.

    Args:
        page: the template's name, without its suffix.
        package: the package that holds the template.
        script_of: the page whose script is used, where it is another's.
        values: the template's variables.
    """
    own = PackageLoader(package, "templates")
    environment = Environment(
        loader=ChoiceLoader([own, PackageLoader("huref.report", "templates")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = own.get_source(environment, f"{script_of or page}.js")[0]
    return environment.get_template(f"{page}.html").render(
        version=__version__,
        # Script and style are files of this package and hold no text of a model.
        script=Markup(script),
        script_digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii"),
        style=Markup(stylesheet()),
        **values,
    )
