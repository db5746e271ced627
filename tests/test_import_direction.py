"""Arrows go one way: what each part of huref may import, and nothing imports what made it."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
GROUND = {"__version__", "errors", "files", "assets", "recipe"}  # what everything may stand on
PIPELINE = ["loader", "architecture", "invariants", "encoder", "decoder"]

MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "files": {"errors"},
    "assets": {"errors"},
    "recipe": {"errors", "assets"},
    **{room: {*GROUND, *PIPELINE[:place]} for place, room in enumerate(PIPELINE)},
    "lineage": {*GROUND, "invariants"},
    "attacks": {*GROUND, "loader", "architecture"},
    "blackbox": {*GROUND, "loader"},
    "declared": {*GROUND, "loader"},
    "record_cache": {*GROUND, "loader", "invariants"},
    "models": {*GROUND, *PIPELINE, "record_cache"},
    "portrait": {*GROUND, *PIPELINE, "models"},
    "endpoint_portrait": {*GROUND, "encoder", "decoder", "blackbox"},
    "comparison": {*GROUND, "invariants", "lineage", "models"},
    "checking": {*GROUND, "loader", "declared", "lineage", "models"},
    "report": {*GROUND, "decoder", "lineage", "portrait"},
    "registry": {
        *GROUND,
        *PIPELINE,
        "declared",
        "lineage",
        "models",
        "portrait",
        "report",
    },
}
# The command line and the public API stand on everything, and nothing but they on them.
TOP = {"__init__", "cli", "output", "probe_options"}


def room_of(module: Path) -> str:
    """The folder or module right below huref/."""
    return module.relative_to(ROOT / "huref").with_suffix("").parts[0]


def imported(module: Path) -> Iterator[str]:
    """Dotted names that a module imports, inside functions and for type checkers, too."""
    for node in ast.walk(ast.parse(module.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


MODULES = sorted((ROOT / "huref").rglob("*.py"))
ROOMS = sorted({room_of(module) for module in MODULES})


def is_top(room: str) -> bool:
    return room in TOP or room.endswith("_cli")


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_what_is_below_it(room: str) -> None:
    assert is_top(room) or room in MAY_IMPORT, f"say in MAY_IMPORT what huref.{room} stands on"
    for module in MODULES:
        if room_of(module) != room:
            continue
        for name in imported(module):
            parts = name.split(".")
            if parts[0] == "huref" and len(parts) > 1 and parts[1] != room:
                allowed = is_top(room) or parts[1] in MAY_IMPORT[room]
                assert allowed, f"{module.relative_to(ROOT)} imports {name}"


def test_nothing_stands_on_the_command_line() -> None:
    assert not any(is_top(room) for rooms in MAY_IMPORT.values() for room in rooms)
    assert all(room in ROOMS for room in MAY_IMPORT)


def test_black_box_probes_read_output_heads_alone() -> None:
    """What is told of a served model rests on its outputs; of a candidate only lm_head is read."""
    readers = {
        module.name
        for module in MODULES
        if room_of(module) == "blackbox"
        and any(name.startswith("huref.loader") for name in imported(module))
    }
    assert readers == {"heads.py"}


def test_the_library_knows_neither_its_scripts_nor_its_tests() -> None:
    outside = {path.stem for folder in ("scripts", "tests") for path in (ROOT / folder).iterdir()}
    for module in MODULES:
        roots = {name.split(".")[0] for name in imported(module)}
        assert not roots & (outside | {"scripts", "tests"}), module.relative_to(ROOT)
