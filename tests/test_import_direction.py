"""Arrows go one way: what each room of huref may import, and nothing imports what made it."""

import ast
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
GROUND = {
    "version",
    "errors",
    "budget",
    "bounded_json",
    "bounded_yaml",
    "escape",
    "files",
    "assets",
    "recipe",
    "progress",
}  # what everything may stand on
PIPELINE = ["loader", "architecture", "invariants", "encoder", "decoder"]
API = {*GROUND, *PIPELINE, "lineage", "blackbox", "evidence", "api"}

# A room inside another may have a line of its own, and then nothing of its parent's.
MAY_IMPORT: dict[str, set[str]] = {
    "version": set(),
    "errors": {"escape"},
    "budget": {"errors"},
    "bounded_json": {"budget"},
    "bounded_yaml": {"budget", "errors"},
    "escape": set(),
    "files": {"errors"},
    "assets": {"errors"},
    "recipe": {"errors", "assets", "bounded_json", "bounded_yaml"},
    "progress": set(),
    **{room: {*GROUND, *PIPELINE[:place]} for place, room in enumerate(PIPELINE)},
    "loader.formats": {"errors", "budget", "bounded_json", "loader.ranges", "loader.tensors"},
    "loader.hub": {"errors", "budget", "bounded_json", "loader.ranges", "loader.repository"},
    "loader.quantized": {"errors", "budget", "bounded_json", "loader.tensors"},
    "loader.vocabulary": {"errors", "budget", "bounded_json", "loader.repository"},
    "lineage": {*GROUND, "invariants"},
    "attacks": {*GROUND, "loader", "architecture", "invariants.anchors"},
    "blackbox": {*GROUND, "loader"},
    "evidence": {*GROUND, "loader", "invariants"},
    "api": {*GROUND, *PIPELINE, "lineage", "blackbox", "evidence"},
    "report": {*API},
    "registry": {*API},
    "serve": {*API, "registry", "report"},
    "registry.stores": {*GROUND, "invariants", "registry"},
    "registry.fleet": {*API, "registry"},
    "registry.map": {*API, "registry", "report"},
}
# What is on top of these rooms inside the same folder: they know neither engines, fleets nor maps.
REGISTRY_CORE = [
    "anchor_codes", "chance", "correlation", "entry", "matrices", "places", "ranking", "signing",
    "sketch", "store",
]  # fmt: skip
# The command line and the names of `import huref` stand on everything, and nothing but they on it.
TOP = {"__init__", "__main__", "cli"}


def name_of(module: Path) -> str:
    """The dotted name below huref, as "loader.formats.gguf"."""
    parts = module.relative_to(ROOT / "huref").with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def room_of(name: str) -> str:
    """The room of a module: the longest line of MAY_IMPORT that holds it, or its folder."""
    held = [room for room in MAY_IMPORT if name == room or name.startswith(f"{room}.")]
    return max(held, key=len, default=name.partition(".")[0])


def imported(module: Path) -> Iterator[str]:
    """Dotted names that a module imports, inside functions and for type checkers, too."""
    for node in ast.walk(ast.parse(module.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


MODULES = {name_of(module): module for module in sorted((ROOT / "huref").rglob("*.py"))}
ROOMS = sorted({room_of(name) for name in MODULES})


def imports_of(name: str) -> set[str]:
    """The modules of huref that one imports, by their dotted names below huref."""
    found = set()
    for dotted in imported(MODULES[name]):
        below = dotted.removeprefix("huref.")
        if dotted.startswith("huref."):
            while below and below not in MODULES:
                below = below.rpartition(".")[0]
            found.add(below or "__init__")
    return found - {name}


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_what_is_below_it(room: str) -> None:
    if room in TOP:
        return
    assert room in MAY_IMPORT, f"say in MAY_IMPORT what huref.{room} stands on"
    for name in (name for name in MODULES if room_of(name) == room):
        for other in imports_of(name):
            inside = other == room or other.startswith(f"{room}.")
            below = any(
                other == allowed or other.startswith(f"{allowed}.") for allowed in MAY_IMPORT[room]
            )
            assert inside or below, f"huref.{name} imports huref.{other}"


def test_nothing_stands_on_the_command_line() -> None:
    assert not any(room in TOP for rooms in MAY_IMPORT.values() for room in rooms)
    assert all(room in ROOMS for room in MAY_IMPORT)


def test_no_circle_of_imports() -> None:
    """Counting imports inside functions and those for type checkers alone."""
    above: dict[str, set[str]] = {name: imports_of(name) for name in MODULES}
    while free := [name for name, others in above.items() if not others & set(above)]:
        for name in free:
            del above[name]
    assert not above, " -> ".join(circle_in(above))


def circle_in(above: dict[str, set[str]]) -> list[str]:
    """Modules that import each other in a ring, the first one again at the end."""
    way = [next(iter(above))]
    while way[-1] not in way[:-1]:
        way.append(min(above[way[-1]] & set(above)))
    return way[way.index(way[-1]) :]


def test_a_circle_would_be_found() -> None:
    ring = circle_in({"a": {"b"}, "b": {"c"}, "c": {"b"}})
    assert ring == ["b", "c", "b"]
    assert all(second for _, second in pairwise(ring))


def test_the_heart_of_a_registry_knows_no_engine() -> None:
    for name in REGISTRY_CORE:
        for other in imports_of(f"registry.{name}"):
            known = other.removeprefix("registry.") in REGISTRY_CORE
            assert known or not other.startswith("registry"), f"registry.{name} imports {other}"


def test_black_box_probes_read_output_heads_alone() -> None:
    """What is told of a served model rests on its outputs.

    Of a candidate lm_head and the tokenizer are read.
    """
    readers = {
        name
        for name in MODULES
        if room_of(name) == "blackbox"
        and any(other.startswith("loader") for other in imports_of(name))
    }
    assert readers == {"blackbox.heads", "blackbox.tokenizer_clue"}


def test_the_library_knows_neither_its_scripts_nor_its_tests() -> None:
    for name, module in MODULES.items():
        roots = {dotted.split(".")[0] for dotted in imported(module)}
        assert not roots & {"scripts", "tests"}, name
