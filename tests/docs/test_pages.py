"""The generated pages are current, the API page is complete, and links lead somewhere."""

import importlib
import inspect
import re
from pathlib import Path

import pytest

import huref
from scripts.docs import cli, json_page
from scripts.docs.check import LOADED, public_members, public_names
from tests.support.zoo import ROOT

DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
API = (DOCS / "api.md").read_text("utf-8")
IDENTIFIERS = re.findall(r"^::: (\S+)$", API, re.MULTILINE)


def described(identifier: str) -> object:
    """The object behind a dotted name of the API page."""
    module, _, name = identifier.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except AttributeError:
        return importlib.import_module(identifier)


@pytest.mark.parametrize("page", [cli, json_page], ids=["cli.md", "json.md"])
def test_a_generated_page_is_current(page: object) -> None:
    path, text = page.PAGE, page.render()  # type: ignore[attr-defined]
    command = path.stem
    assert path.read_text("utf-8") == text, f"run: python -m scripts.docs {command}"


def test_every_public_name_is_on_the_api_page() -> None:
    listed = re.findall(r"^        - (\w+)$", API, re.MULTILINE)
    on_page = {*IDENTIFIERS, *(f"huref.errors.{name}" for name in listed)}
    of_classes = {name for name in public_names() if name.rpartition(".")[0] in on_page}
    assert set(public_names()) <= on_page | of_classes
    assert "huref.__version__" in API


@pytest.mark.parametrize("identifier", IDENTIFIERS)
def test_what_the_api_page_shows_has_docstrings(identifier: str) -> None:
    found = described(identifier)
    assert inspect.getdoc(found), identifier
    if inspect.isclass(found):
        for name in public_members(found):
            member = inspect.getattr_static(found, name)
            assert inspect.getdoc(member), f"{identifier}.{name}"


def test_every_public_name_can_be_imported() -> None:
    for name in huref.__all__:
        assert getattr(huref, name) is not None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS)))
def test_links_lead_to_files_inside_docs(page: Path) -> None:
    """The strict build of the site checks headings as well; this one needs no mkdocs."""
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8")):
        if target.startswith(("https://", "#")):
            continue
        file = (page.parent / target.partition("#")[0]).resolve()
        assert file.is_relative_to(DOCS), f"{page.name}: {target}: write the path without a link"
        assert file.is_file(), f"{page.name}: {target}"


def test_a_page_that_loads_from_elsewhere_is_found() -> None:
    assert LOADED.search('<script src="https://cdn.example/x.js">')
    assert LOADED.search('<link rel="stylesheet" href="https://fonts.example/css">')
    assert not LOADED.search('<script src="assets/x.js"><a href="https://example.org">')


@pytest.mark.parametrize(
    "page",
    [*PAGES, *(ROOT / name for name in ("CONTRIBUTING.md", "SECURITY.md", "README.md"))],
    ids=lambda page: str(page.relative_to(ROOT)),
)
def test_paths_that_a_document_names_exist(page: Path) -> None:
    text = page.read_text("utf-8")
    for name in re.findall(r"`((?:huref|tests|scripts|docs|configs|checkpoints)/[\w./*-]*)`", text):
        if "NAME" in name:  # a placeholder
            continue
        assert list(ROOT.glob(name.rstrip("/"))), f"{page.name}: {name}"
    for room in re.findall(r"python -m scripts\.([a-z]+)", text):
        assert (ROOT / "scripts" / room / "__main__.py").is_file(), f"{page.name}: {room}"
