"""The rooms of scripts: what lies in them, what they import, and that every command has help."""

import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

from scripts import ROOT, run_command
from tests.test_import_direction import circle_in, imported

EXTRAS = ("skia", "transformers", "torchmetrics")  # of the `evaluate` extra
SCRIPTS = ROOT / "scripts"
ROOMS = sorted(path.parent.name for path in SCRIPTS.glob("*/__main__.py"))
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in SCRIPTS.rglob("*.py")
}


def commands_of(room: str) -> dict[str, tuple[str, str]]:
    commands: dict[str, tuple[str, str]] = import_module(f"scripts.{room}.__main__").COMMANDS
    return commands


def imports_of(name: str) -> set[str]:
    """The modules of scripts that a module imports, also inside functions."""
    found = set()
    for dotted in imported(MODULES[name]):
        while dotted and dotted not in MODULES:
            dotted = dotted.rpartition(".")[0]
        found |= {dotted} - {"", name}
    return found


def test_only_shell_files_lie_outside_the_rooms() -> None:
    loose = {path for path in SCRIPTS.iterdir() if path.is_file()}
    assert {path.name for path in loose if path.suffix != ".sh"} == {"__init__.py"}


def test_no_circle_of_imports() -> None:
    remaining = {name: imports_of(name) for name in MODULES}
    while free := [name for name, others in remaining.items() if not others & set(remaining)]:
        for name in free:
            del remaining[name]
    assert not remaining, " -> ".join(circle_in(remaining))


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_lists_its_commands(
    room: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["scripts", "--help"])
    with pytest.raises(SystemExit) as stopped:
        run_command(room, commands_of(room))
    assert stopped.value.code == 0
    shown = capsys.readouterr().out
    assert all(f"  {name} " in shown for name in commands_of(room))


@pytest.mark.parametrize(
    ("room", "command"), [(room, command) for room in ROOMS for command in commands_of(room)]
)
def test_every_command_has_help(
    room: str,
    command: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    if missing := [package for package in EXTRAS if find_spec(package) is None]:
        pytest.skip(f"{missing} are not installed")
    monkeypatch.chdir(tmp_path)
    for variable in ("HF_HUB_OFFLINE", "HF_HUB_DISABLE_TELEMETRY", "TOKENIZERS_PARALLELISM"):
        monkeypatch.setenv(variable, "1")  # scripts set them when imported: restored afterwards
    monkeypatch.setattr(sys, "argv", ["scripts", command, "--help"])
    with pytest.raises(SystemExit) as stopped:
        run_command(room, commands_of(room))
    assert stopped.value.code == 0
    assert f"usage: python -m scripts.{room} {command}" in capsys.readouterr().out


def test_an_unknown_command_is_an_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["scripts", "unknown"])
    with pytest.raises(SystemExit) as stopped:
        run_command("zoo", commands_of("zoo"))
    assert stopped.value.code == 2
    assert "usage: python -m scripts.zoo COMMAND" in capsys.readouterr().err
