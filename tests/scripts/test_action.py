"""The GitHub Action: its steps are run as the runner would run them."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from huref.version import __version__
from scripts.action.annotate import annotate, summarise
from scripts.docs.notes import CHANGELOG, notes_of
from tests.support.lineage_samples import write_card
from tests.support.zoo import ROOT, ZOO

pytestmark = pytest.mark.slow

ACTION: dict[str, Any] = yaml.safe_load((ROOT / "action.yml").read_text("utf-8"))


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model repository whose card declares the wrong base, and an environment with huref."""
    folder = tmp_path_factory.mktemp("checkout")
    shutil.copytree(ZOO / "llama-a-finetune", folder, dirs_exist_ok=True)
    shutil.copytree(ZOO / "llama-b", folder / "base")
    write_card(folder, "base_model: base")
    tools = folder.parent / f"{folder.name}-runner" / "huref" / "bin"
    tools.mkdir(parents=True)
    for name, module in (("python", ""), ("huref", "-m huref")):
        (tools / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {module} "$@"\n')
        (tools / name).chmod(0o755)
    return folder


def run_check(checkout: Path, **inputs: str) -> tuple[int, str, str]:
    """The second step of action.yml, with its expressions filled in as GitHub does.

    Returns:
        Exit code, what was printed, and the step's summary.
    """
    runner = checkout.parent / f"{checkout.name}-runner"
    values = {name: entry["default"] for name, entry in ACTION["inputs"].items()} | inputs
    filled = {"github.action_path": str(ROOT), "runner.temp": str(runner)}
    filled |= {f"inputs.{name}": value for name, value in values.items()}
    step = ACTION["runs"]["steps"][1]
    variables = {}
    for name, text in step["env"].items():
        for key, value in filled.items():
            text = text.replace(f"${{{{ {key} }}}}", value)
        assert "${{" not in text
        variables[name] = text
    for name in ("GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY"):
        (runner / name).write_text("")
        variables[name] = str(runner / name)
    environment = os.environ | variables | {"RUNNER_TEMP": str(runner), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["bash", "-eo", "pipefail", "-c", step["run"]],
        capture_output=True, text=True, cwd=checkout, env=environment,
    )  # fmt: skip
    assert (runner / "GITHUB_OUTPUT").read_text().startswith("report="), done.stderr
    return done.returncode, done.stdout, (runner / "GITHUB_STEP_SUMMARY").read_text()


def test_a_contradicted_card_fails_the_push(checkout: Path) -> None:
    code, said, summary = run_check(checkout)
    assert code == 3
    assert said.startswith("::error title=huref check::.: contradicted: declares base: ")
    assert "| . | base | contradicted |" in summary


def test_a_true_base_passes_and_a_missing_model_can_be_let_pass(checkout: Path) -> None:
    base = str(ZOO / "llama-a")
    code, said, summary = run_check(checkout, base=base)
    assert (code, said) == (0, "")
    assert "confirmed" in summary
    code, said, _ = run_check(checkout, models="nothing", base=base, unreachable="warn")
    assert code == 0
    assert said.startswith("::warning")


def test_names_cannot_command_the_runner() -> None:
    evil: dict[str, Any] = {
        "model": "a\n::set-output name=x::y", "answer": None, "declared": [], "suggested": None,
        "error": "100%\r\n::add-mask::z <script> | [x](y)",
    }  # fmt: skip
    assert "\n" not in annotate(evil)
    assert "100%25" in annotate(evil)
    summary = summarise([evil])
    assert "<script>" not in summary
    assert not any(line.startswith("::") for line in summary.splitlines())


def test_every_step_is_valid_bash() -> None:
    for step in ACTION["runs"]["steps"]:
        assert step["shell"] == "bash"
        subprocess.run(["bash", "-n", "-c", step["run"]], check=True)
    for script in (ROOT / "scripts" / "action").glob("*.sh"):
        subprocess.run(["bash", "-n", str(script)], check=True)


def test_the_workflow_that_builds_the_registry_is_valid() -> None:
    text = (ROOT / ".github" / "workflows" / "registry.yml").read_text("utf-8")
    steps = yaml.safe_load(text)["jobs"]["build"]["steps"]
    assert any("scripts.bases build" in step.get("run", "") for step in steps)
    for step in steps:
        if "run" in step:
            assert "${{" not in step["run"]  # values reach a shell as variables alone
            subprocess.run(["bash", "-n", "-c", step["run"]], check=True)


def test_release_notes_come_from_the_changelog() -> None:
    notes = notes_of(__version__, CHANGELOG.read_text("utf-8"))
    assert notes.count("\n## ") == 0
    assert "huref serve" in notes
    with pytest.raises(ValueError, match="no section"):
        notes_of("99.0", "## 0.1.0\n\n- x\n")
