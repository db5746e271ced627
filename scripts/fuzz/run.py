"""Fuzz the parsers for a given time.

    python -m scripts.fuzz run                          one minute, all targets in turn
    python -m scripts.fuzz run --seconds 36000 --target gguf
    python -m scripts.fuzz run --together               one minute, all targets in one process

With atheris installed (huref[fuzz]), libFuzzer chooses the inputs by the branches that they reach.
Without it a simpler loop keeps the mutations of stored inputs that reach new lines. Inputs that
fail are written to tests/fuzz/found/TARGET; tests replay them from then on.
"""

import hashlib
import os
import random
import re
import subprocess
import sys
import time
from pathlib import Path

from scripts import ROOT, make_parser
from scripts.fuzz.inputs import STORED, WORK, inputs_of
from scripts.fuzz.limits import watched

LONGEST_INPUT = 4096  # bytes
NEVER = 10**6  # seconds; `watched` counts CPU time instead, and 0 would end any that take a second
TOGETHER = "together"  # the name of all targets at once; an input's first byte chooses one


def main() -> None:
    """Run the command."""
    parser = make_parser(__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="in all (default: 60)")
    parser.add_argument("--target", action="append", help="only these; may be repeated")
    parser.add_argument("--together", action="store_true", help="all in one process, as in CI")
    parser.add_argument("--inside", help="used by this command itself: the target to run")
    arguments = parser.parse_args()
    if arguments.inside:
        _fuzz_with_atheris(arguments.inside, arguments.seconds)
        return
    from scripts.fuzz.targets import TARGETS

    names = [TOGETHER] if arguments.together else arguments.target or list(TARGETS)
    failures = executions = 0
    for name in names:
        done, failed = _run(name, arguments.seconds / len(names))
        executions += done
        failures += failed
        print(f"{name:<14} {done:>10,} executions, {failed} failures", flush=True)
    print(f"{'all':<14} {executions:>10,} executions, {failures} failures")
    if failures:
        sys.exit(1)


def _run(name: str, seconds: float) -> tuple[int, int]:
    """Executions and failures of one target."""
    try:
        import atheris  # noqa: F401
    except ImportError:
        return _fuzz_by_lines(name, seconds)
    command = [sys.executable, "-m", "scripts.fuzz", "run", "--inside", name]
    command += ["--seconds", str(seconds)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    counts = re.findall(r"stat::number_of_executed_units:\s+(\d+)", done.stderr)
    counts = counts or re.findall(r"^#(\d+)\s", done.stderr, re.MULTILINE)
    if done.returncode:
        print(done.stdout[-3000:], done.stderr[-3000:], sep="\n", file=sys.stderr)
        print(f"{name}: ended with status {done.returncode}", file=sys.stderr)
        _keep_last(name)
    return int(counts[-1]) if counts else 0, int(done.returncode != 0)


def _keep_last(name: str) -> None:
    """Keep the input that ended the process, where libFuzzer had no time to write it."""
    name, data = _chosen(name, (WORK / f"{name}.last").read_bytes())
    found = STORED / "found" / name
    found.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha1(data).hexdigest()
    if not any(path.name.endswith(digest) for path in found.iterdir()):
        (found / f"crash-{digest}").write_bytes(data)


def _chosen(name: str, data: bytes) -> tuple[str, bytes]:
    """The target of an input, and what it reads."""
    from scripts.fuzz.targets import TARGETS

    if name != TOGETHER:
        return name, data
    return [*TARGETS][data[0] % len(TARGETS) if data else 0], data[1:]


def _fill_corpus(name: str, corpus: Path) -> None:
    """Copy the stored inputs to where libFuzzer works."""
    from scripts.fuzz.targets import TARGETS

    corpus.mkdir(parents=True, exist_ok=True)
    for number, each in enumerate(TARGETS):
        if name in (each, TOGETHER):
            first = bytes([number]) if name == TOGETHER else b""
            for path in inputs_of(each):
                (corpus / f"{each}-{path.name}").write_bytes(first + path.read_bytes())


def _fuzz_with_atheris(name: str, seconds: float) -> None:
    """Fuzz one target in this process, which libFuzzer ends."""
    import atheris

    with atheris.instrument_imports(include=["huref"]):
        import huref.api.open
        import huref.api.verify
        import huref.loader.hub.repository
        import huref.registry.exchange
        import huref.registry.fleet.model_list  # noqa: F401
    from scripts.fuzz.targets import TARGETS

    corpus = WORK / name
    _fill_corpus(name, corpus)
    artifacts = WORK / "artifacts"  # `_keep_last` keeps the input where tests replay it
    artifacts.mkdir(exist_ok=True)
    last = WORK / f"{name}.last"

    def test_one_input(data: bytes) -> None:
        last.write_bytes(data)
        chosen, rest = _chosen(name, data)
        with watched():
            TARGETS[chosen](rest)

    options = [
        f"-max_total_time={max(int(seconds), 1)}", f"-max_len={LONGEST_INPUT}",
        f"-timeout={NEVER}",
        "-rss_limit_mb=4096", f"-artifact_prefix={artifacts}{os.sep}",
        "-print_final_stats=1", str(corpus),
    ]  # fmt: skip
    if name == TOGETHER:  # CI tries the same inputs each time; the runs by target try new ones
        options.insert(0, "-seed=1")
    atheris.Setup([sys.argv[0], *options], test_one_input)
    atheris.Fuzz()


def _fuzz_by_lines(name: str, seconds: float) -> tuple[int, int]:
    """Mutations of stored inputs; those that reach new lines of huref are mutated further."""
    from scripts.fuzz.lines import lines_reached
    from scripts.fuzz.targets import TARGETS

    chance = random.Random(0)
    pool = [path.read_bytes() for path in inputs_of(name)] or [b""]
    seen: set[tuple[str, int]] = set()
    executions = failures = 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        data = _mutated(chance, pool)
        executions += 1
        try:
            reached = lines_reached(lambda data=data: TARGETS[name](data))  # type: ignore[misc]
        except Exception as error:
            failures += 1
            folder = STORED / "found" / name
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"crash-{hashlib.sha1(data).hexdigest()}").write_bytes(data)
            print(f"{name}: {type(error).__name__}: {error}", file=sys.stderr)
            continue
        if reached - seen:
            seen |= reached
            pool.append(data)
    return executions, failures


def _mutated(chance: random.Random, pool: list[bytes]) -> bytes:
    data = bytearray(chance.choice(pool))
    for _ in range(chance.randint(1, 4)):
        place = chance.randrange(len(data) + 1)
        match chance.randrange(5):
            case 0:
                data[place:place] = chance.randbytes(chance.randint(1, 8))
            case 1:
                del data[place : place + chance.randint(1, 16)]
            case 2:
                other = chance.choice(pool)
                start = chance.randrange(len(other) + 1)
                data[place:place] = other[start : start + chance.randint(1, 64)]
            case 3 if place < len(data):
                data[place] ^= 1 << chance.randrange(8)
            case _ if place < len(data):
                data[place] = chance.choice(b'\x00\xff\x7f\x80[]{}",:0-9')
    return bytes(data[:LONGEST_INPUT])


if __name__ == "__main__":
    main()
