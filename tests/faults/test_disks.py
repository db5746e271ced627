"""Writers on disks that are full, limited or read-only: a line that says so, and nothing half-made.

A file system of tmpfs is full or read-only for root, too; where it cannot be mounted those tests
skip themselves. A limit of the size of files (RLIMIT_FSIZE) needs no rights.
"""

import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from huref.cli import main
from huref.errors import HurefError
from huref.registry.stores import open_store
from scripts.fuzz.kill import make_key
from tests.support.zoo import ROOT, ZOO

pytestmark = pytest.mark.slow

PAGE = 4096  # bytes; tmpfs has no smaller ones
A, B = ZOO / "llama-a", ZOO / "llama-b"
Words = Sequence[object]


@dataclass(frozen=True)
class Place:
    """Where a writer writes, and what it needs from elsewhere."""

    disk: Path
    beside: Path


def _pairs(place: Place) -> Path:
    path = place.beside / "pairs.tsv"
    path.write_text(f"id_a\tid_b\trelation\texpected\n{A}\t{B}\tstrangers\tunrelated\n")
    return path


def _models(place: Place) -> Path:
    path = place.beside / "models.txt"
    path.write_text(f"{A}\n{B}\n")
    return path


def _attest(place: Place) -> Words:
    out, record = place.disk / "a.json", place.disk / "a.safetensors"
    return "attest", A, "--key", make_key(place.beside), "-o", out, "--record", record


def _registry(place: Place) -> Path:
    """A registry beside the disk."""
    bases = place.beside / "bases"
    if not bases.exists():
        assert _run("registry", "init", bases).exit_code == 0
        assert _run("registry", "add", bases, A, B).exit_code == 0
    return bases


def _empty(place: Place) -> Path:
    """An empty registry on the disk."""
    if not (place.disk / "bases").exists():
        assert _run("registry", "init", place.disk / "bases").exit_code == 0
    return place.disk / "bases"


WRITERS: dict[str, Callable[[Place], Words]] = {
    "picture": lambda at: ("fingerprint", A, "-o", at.disk / "dog.png"),
    "record": lambda at: ("fingerprint", A, "-o", at.beside / "dog.png",
                          "--record", at.disk / "a.safetensors"),
    "report": lambda at: ("compare", A, B, "-o", at.disk / "report.html"),
    "sheet": lambda at: ("compare", A, B, "-o", at.disk / "sheet.png"),
    "tree in Newick": lambda at: ("tree", A, B, "-o", at.disk / "tree.nwk"),
    "tree in JSON": lambda at: ("tree", A, B, "-o", at.disk / "tree.json"),
    "tree in SVG": lambda at: ("tree", A, B, "-o", at.disk / "tree.svg"),
    "bill of materials": lambda at: ("bom", A, "--base", B, "-o", at.disk / "bom.json"),
    "bench in JSON": lambda at: ("bench", _pairs(at), "-o", at.disk / "b.json"),
    "bench in Markdown": lambda at: ("bench", _pairs(at), "-o", at.disk / "b.md"),
    "attestation": _attest,
    "new registry": lambda at: ("registry", "init", at.disk / "bases"),
    "registry": lambda at: ("registry", "add", _empty(at), A, B),
    "fleet": lambda at: ("fleet", _models(at), "-o", at.disk / "bases"),
    "journal": lambda at: ("fleet", _models(at), "-o", at.beside / "fleet",
                           "--journal", at.disk / "journal"),
    "export": lambda at: ("registry", "export", _registry(at), "-o", at.disk / "bases.jsonl"),
    "export as a table": lambda at: ("registry", "export", _registry(at),
                                     "-o", at.disk / "bases.csv"),
    "copy of a registry": lambda at: ("registry", "export", _registry(at), "-o", at.disk / "copy"),
    "found bases": lambda at: ("identify", A, "--registry", _registry(at),
                               "-o", at.disk / "beside.png"),
    "attack": lambda at: ("attack", A, "--kind", "rotation", "-o", at.disk / "copy"),
}  # fmt: skip


def _run(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache with the records of both models, so that a command reads no weights again."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("home")
        patch.setenv("HUREF_HOME", str(folder))
        assert _run("compare", A, B).exit_code == 0
        yield folder


@pytest.fixture(scope="module")
def needed(home: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    """The bytes that each writer leaves on a disk with room."""
    sizes = {}
    for name, words in WRITERS.items():
        place = Place(tmp_path_factory.mktemp("disk"), tmp_path_factory.mktemp("beside"))
        result = _run(*words(place))
        assert result.exit_code == 0, (name, result.output)
        files = [path for path in place.disk.rglob("*") if path.is_file()]
        assert files, name
        sizes[name] = sum(path.stat().st_size for path in files)
    return sizes


def _mount(folder: Path, options: str) -> None:
    if shutil.which("mount") is None or sys.platform != "linux":
        pytest.skip("needs Linux's mount")
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")


@pytest.fixture
def place(home: Path, tmp_path: Path) -> Iterator[Place]:
    """A disk of 64 MB that may be made smaller or read-only."""
    found = Place(tmp_path / "disk", tmp_path / "beside")
    for folder in (found.disk, found.beside):
        folder.mkdir()
    _mount(found.disk, "size=64m")
    yield found
    subprocess.run(["umount", "-l", str(found.disk)], check=True)


def _remount(disk: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(disk)], check=True)


def _leave_room(disk: Path, size: int) -> None:
    """Fill the disk but for so many bytes, in whole pages."""
    (disk / "filler").write_bytes(bytes(PAGE))
    state = os.statvfs(disk)
    used = (state.f_blocks - state.f_bfree) * state.f_frsize
    _remount(disk, f"size={used + size // PAGE * PAGE}")


def _require_refusal(result: Result, disk: Path) -> None:
    said = [line for line in result.stderr.splitlines() if line.startswith("huref: ")]
    assert result.exit_code == 1, result.output
    assert 1 <= len(said) <= 2, result.output  # a registry says it of each model
    assert "Traceback" not in result.output
    assert "please report" not in result.output
    assert all(len(line) < 600 for line in said)
    hidden = list(disk.rglob(".*"))
    assert not hidden, hidden


def _require_whole(disk: Path) -> None:
    """What is there can be used: a registry opens and holds whole entries."""
    for folder in ("bases", "copy"):
        if (disk / folder / "registry.sqlite").exists():
            try:
                entries = list(open_store(str(disk / folder)).entries())
            except HurefError as error:
                if "there is no registry" not in str(error):  # else nothing was committed
                    raise
            else:
                assert all(entry.latent.shape == (512,) for entry in entries)


@pytest.mark.parametrize("share", [0.0, 0.6])
@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_is_one_line(
    name: str, share: float, place: Place, needed: dict[str, int]
) -> None:
    words = WRITERS[name](place)
    room = int(share * needed[name])
    if share and room < PAGE:
        pytest.skip("its file has less than a page")
    _leave_room(place.disk, room)
    result = _run(*words)
    _require_refusal(result, place.disk)
    _require_whole(place.disk)
    _remount(place.disk, "size=64m")
    if name == "attack" and (place.disk / "copy").exists():
        shutil.rmtree(place.disk / "copy")
    again = _run(*words)
    assert again.exit_code == 0, again.output


@pytest.mark.parametrize("name", WRITERS)
def test_a_read_only_disk_is_one_line(name: str, place: Place) -> None:
    words = WRITERS[name](place)
    _remount(place.disk, "ro")
    before = sorted(place.disk.rglob("*"))
    _require_refusal(_run(*words), place.disk)
    assert sorted(place.disk.rglob("*")) == before


@pytest.mark.parametrize("name", WRITERS)
def test_what_was_there_before_is_still_there(name: str, place: Place) -> None:
    """A file that could not be replaced is the old one."""
    words = WRITERS[name](place)
    assert _run(*words).exit_code == 0
    before = {p: p.read_bytes() for p in place.disk.rglob("*") if p.is_file()}
    _leave_room(place.disk, 0)
    _run(*words)
    (place.disk / "filler").unlink()
    after = {p: p.read_bytes() for p in place.disk.rglob("*") if p.is_file()}
    appended = {p for p in after if "journal" in p.name or p.name == "registry.sqlite"}
    assert set(after) == set(before)
    assert all(after[p] == before[p] for p in set(before) - appended)
    _require_whole(place.disk)


def test_a_cache_on_a_full_or_read_only_disk_costs_nothing_but_time(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HUREF_HOME", str(place.disk / "home"))
    for limit in ("size=64k", "size=4k", "size=64m,ro"):
        if limit == "size=4k":
            (place.disk / "filler").write_bytes(bytes(PAGE))
        _remount(place.disk, limit)
        result = _run("compare", A, B, "--json")
        assert result.exit_code == 0, result.output
        assert "huref: " not in result.stderr
        left = [p for p in place.disk.rglob("*") if p.is_file() and p.name != "filler"]
        assert left == []


def _limited(size: int, words: Words, home: Path) -> subprocess.CompletedProcess[str]:
    """A command in a process that may not write a file of more than so many bytes."""

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    environment = os.environ | {"HUREF_HOME": str(home), "PYTHONPATH": str(ROOT),
                                "PYTHONDONTWRITEBYTECODE": "1"}  # fmt: skip
    return subprocess.run(
        [sys.executable, "-m", "huref", *map(str, words)],
        capture_output=True, text=True, env=environment, preexec_fn=limit, timeout=300,
    )  # fmt: skip


@pytest.mark.parametrize("name", ["picture", "report", "registry", "fleet", "attestation"])
def test_a_limit_of_the_size_of_files_is_one_line(
    name: str, home: Path, needed: dict[str, int], tmp_path: Path
) -> None:
    place = Place(tmp_path / "disk", tmp_path / "beside")
    for folder in (place.disk, place.beside):
        folder.mkdir()
    done = _limited(1000, WRITERS[name](place), home)
    assert done.returncode == 1, done.stderr
    said = [line for line in done.stderr.splitlines() if line.startswith("huref: ")]
    assert 1 <= len(said) <= 2, done.stderr
    assert "Traceback" not in done.stderr
    assert not list(place.disk.rglob(".*"))
    _require_whole(place.disk)


@pytest.mark.parametrize(
    "words",
    [
        ("compare", A, B),
        ("compare", A, B, "--csv"),
        ("compare", A, B, "--json"),
        ("cache", "list"),
        ("--help",),
        ("compare", "--help"),
        ("--version",),
    ],
    ids=lambda words: " ".join(str(w) for w in words[0:1] + words[3:]),
)
@pytest.mark.parametrize("buffered", [True, False])
def test_a_table_on_a_full_disk_is_one_line(words: Words, buffered: bool, home: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    environment = os.environ | {"HUREF_HOME": str(home), "PYTHONPATH": str(ROOT)}
    environment["PYTHONUNBUFFERED"] = "" if buffered else "1"
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "huref", *map(str, words)],
            stdout=full, stderr=subprocess.PIPE, text=True, env=environment, timeout=300,
        )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == ("huref: the output cannot be written (No space left on device)\n"), (
        done.stderr
    )
