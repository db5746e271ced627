"""What the fuzzer reaches of huref, file by file, measured by coverage.py.

    python -m scripts.fuzz run --seconds 600     # its inputs go to build/fuzz
    python -m scripts.fuzz cover                 # needs coverage.py: huref[fuzz]

Runs the stored inputs of every target and those that the last fuzzing kept in build/fuzz because
they reached something new; what they reach together is what the fuzzing reached.
"""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from scripts import ROOT, make_parser
from scripts.fuzz.inputs import WORK, inputs_of

PARTS = ("huref/loader", "huref/bounded_json.py", "huref/bounded_yaml.py", "huref/budget.py")


def main() -> None:
    """Run the command."""
    parser = make_parser(__doc__)
    parser.add_argument("--part", action="append", help=f"of the repository (default: {PARTS})")
    parser.add_argument("--target", action="append", help="only these; may be repeated")
    parser.add_argument("--lines", action="store_true", help="also list what is not reached")
    arguments = parser.parse_args()
    try:
        import coverage
    except ModuleNotFoundError:
        sys.exit("this needs coverage.py: pip install 'huref[fuzz]'")
    if any(name.split(".")[0] == "huref" for name in sys.modules):
        raise AssertionError("huref is imported before its lines are counted")
    parts = [ROOT / part for part in arguments.part or PARTS]
    files = [file for part in parts for file in (sorted(part.rglob("*.py")) or [part])]
    measured = coverage.Coverage(data_file=None, include=[str(f) for f in files])
    with measured.collect():
        inputs = _run_inputs(arguments.target)
    print(f"{inputs} inputs")
    _report(measured, files, arguments.lines)


def _run_inputs(targets: list[str] | None) -> int:
    from scripts.fuzz.targets import TARGETS

    inputs = 0
    for name in targets or TARGETS:
        for path in _inputs(name):
            inputs += 1
            with contextlib.suppress(AssertionError):  # a disagreement, which `run` reports
                TARGETS[name](path.read_bytes())
    return inputs


def _inputs(name: str) -> Iterator[Path]:
    yield from inputs_of(name)
    if (WORK / name).is_dir():
        yield from sorted((WORK / name).iterdir())  # what was kept of earlier runs as well


def _report(measured: Any, files: list[Path], shows_lines: bool) -> None:
    lines = reached = 0
    for file in files:
        _, statements, _, missing, ranges = measured.analysis2(str(file))
        if statements:
            lines += len(statements)
            reached += len(statements) - len(missing)
            _say(str(file.relative_to(ROOT)), len(statements) - len(missing), len(statements))
            if shows_lines and missing:
                print(f"    {ranges}")
    _say("all", reached, lines)


def _say(name: str, reached: int, lines: int) -> None:
    print(f"{name:<52} {reached / lines:>5.0%} of {lines:>5} statements")


if __name__ == "__main__":
    main()
