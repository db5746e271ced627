"""Pages that need nothing else: one file, which sends no requests and runs its own script alone."""

import base64
import hashlib

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from huref.report.palette import stylesheet
from huref.version import __version__


def render_html(page: str, package: str = "huref.report", **values: object) -> str:
    """A page from a package's `templates`: PAGE.html, with PAGE.js as its only script.

    All values are escaped but those that are Markup. Every page begins with this package's
    head.html, whose policy forbids requests and any script that has not PAGE.js's digest.

    Args:
        page: the template's name, without its ending.
        package: whose templates.
        values: what the template shows, by name.
    """
    own = PackageLoader(package, "templates")
    environment = Environment(
        loader=ChoiceLoader([own, PackageLoader("huref.report", "templates")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = own.get_source(environment, f"{page}.js")[0]
    return environment.get_template(f"{page}.html").render(
        version=__version__,
        # Both are files of this package; nothing of a model's is in them.
        script=Markup(script),
        script_digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii"),
        style=Markup(stylesheet()),
        **values,
    )
