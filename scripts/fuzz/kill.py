"""Kill huref at random moments, as often as wanted, and look for anything lost or half-made.

    python -m scripts.fuzz kill --times 200

Each time two fleets on one registry, a fingerprint, an identification, an attestation and a page
that somebody uses are started and killed with SIGKILL. What a journal says is measured must be in
the registry; the registry must open and pass its checks; outputs and cached records are absent or
whole; a statement has its record; the workers of a page end with it. At the end a fleet and a page
that are left alone finish, and no upload is left. The figures go to stdout after every round.
"""

import json
import multiprocessing
import os
import random
import sys
import tempfile
import time
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from huref.decoder.picture import read_png
from huref.errors import HurefError
from huref.evidence.envelope import parse_envelope
from huref.evidence.seal import check_seal
from huref.evidence.statement import parse_statement
from huref.invariants.record import load_record
from huref.registry.stores import open_store
from scripts import ROOT, make_parser
from scripts.fuzz.kill_page import Page, cpu_seconds, damaged_records, uploads_left

ZOO = ROOT / "checkpoints" / "zoo"
PAGE = 3.0  # as many CPU seconds for a page, whose workers import huref first
MODELS = ("llama-a", "llama-a-finetune", "llama-b", "qwen-c")
LONGEST_RUN = 4.0  # CPU seconds after which a process is killed at the latest


@dataclass
class Result:
    """What the kills left."""

    kills: int = 0
    acknowledged: int = 0
    lost: int = 0
    half_made: int = 0
    damaged: int = 0
    pictures: int = 0
    statements: int = 0
    answers: int = 0  # of pages
    uploads: int = 0  # folders that killed pages left to the next one
    orphans: int = 0  # workers of killed pages that went on

    @property
    def is_clean(self) -> bool:
        """Whether nothing was lost, half-made or damaged."""
        return not (self.lost or self.half_made or self.damaged or self.orphans)


def kill_at_random(times: int, folder: Path, longest: float = LONGEST_RUN, seed: int = 0) -> Result:
    """Kill processes that share a registry in a folder, and check what they leave."""
    chance = random.Random(seed)
    result = Result()
    registry = folder / "bases"
    models = folder / "models.txt"
    key = make_key(folder)
    models.write_text("".join(f"{ZOO / name}\n" for name in MODELS))
    upload = _make_picture(folder)
    for number in range(times):
        journals = [folder / f"journal-{number}-{i}" for i in range(2)]
        picture = folder / f"dog-{number}.png"
        stated = folder / f"statement-{number}.json"
        page = Page(_start, folder, ZOO, upload)
        started: list[Page | BaseProcess] = [
            page,
            *(_start(folder, "fleet", models, "-o", registry, "--journal", journal,
                     "--engine", "threads", "--workers", 1) for journal in journals),
            _start(folder, "fingerprint", ZOO / "llama-b", "-o", picture),
            _start(folder, "identify", ZOO / "qwen-c", "--registry", registry, "--no-cache"),
            _start(folder, "attest", ZOO / "llama-b", "--key", key, "-o", stated,
                   "--record", stated.with_suffix(".safetensors")),
        ]  # fmt: skip
        _kill_each({process: chance.uniform(0, longest) for process in started})
        result.kills += len(started)
        _check(result, registry, journals, picture)
        _check_statement(result, stated)
        _check_page(result, page, folder / "home")
        print(result, flush=True)
    return result


def _kill_each(limits: dict[Page | BaseProcess, float]) -> None:
    """Kill each process once it has used its CPU seconds, however busy the machine is."""
    while limits:
        for process, limit in list(limits.items()):
            weight = PAGE if isinstance(process, Page) else 1.0
            if not process.is_alive() or cpu_seconds(process.pid) >= limit * weight:
                process.kill()
                process.join()
                del limits[process]
        time.sleep(0.02)


def _start(folder: Path, *words: object) -> BaseProcess:
    """A command in a process of its own, forked from one that has imported huref already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["scripts.fuzz.kill_preload"])
    process = context.Process(target=_run, args=(str(folder / "home"), [*map(str, words)]))
    process.start()
    return process


def _run(home: str, words: list[str]) -> None:
    os.environ["HUREF_HOME"] = home
    silent = os.open(os.devnull, os.O_RDWR)
    os.dup2(silent, 1)
    os.dup2(silent, 2)
    from huref.cli import main as huref

    huref(words)


def _check(result: Result, registry: Path, journals: list[Path], picture: Path) -> None:
    acknowledged = {
        line["model"]
        for journal in journals
        if journal.exists()
        for line in _lines(journal)
        if line["status"] in ("done", "known")
    }
    result.acknowledged += len(acknowledged)
    if (registry / "registry.sqlite").exists():
        try:
            found = [entry.model for entry in open_store(str(registry)).entries()]
        except HurefError as error:
            if acknowledged or "there is no registry" not in str(error):
                result.damaged += 1
                print(error, file=sys.stderr)
            found = []
        result.lost += len(acknowledged - set(found))
        result.damaged += len(found) - len(set(found))
    else:
        result.lost += len(acknowledged)
    if picture.exists():
        result.pictures += 1
        try:
            check_seal(*read_png(picture))
        except HurefError as error:
            print(error, file=sys.stderr)
            result.half_made += 1


def _check_statement(result: Result, stated: Path) -> None:
    """A statement and its record are whole, and no statement is without its record."""
    record = stated.with_suffix(".safetensors")
    try:
        digest = load_record(record).digest if record.exists() else None
        if stated.exists():
            result.statements += 1
            statement = parse_statement(parse_envelope(stated.read_bytes()).payload)
            result.lost += statement.commitment != digest
    except HurefError as error:
        print(error, file=sys.stderr)
        result.half_made += 1


def _check_page(result: Result, page: Page, home: Path) -> None:
    """No worker outlives its page, and no record in the cache is half-made."""
    result.answers += page.answers
    result.orphans += page.orphans
    result.uploads += len(uploads_left(home))
    for error in damaged_records(home):
        print(error, file=sys.stderr)
        result.half_made += 1


def _make_picture(folder: Path) -> bytes:
    path = folder / "upload.png"
    _start(folder, "fingerprint", ZOO / MODELS[0], "-o", path).join()
    return path.read_bytes()


def make_key(folder: Path) -> Path:
    """A new private key in a folder."""
    pem = Ed25519PrivateKey.generate().private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    )
    (folder / "key.pem").write_bytes(pem)
    return folder / "key.pem"


def _lines(journal: Path) -> list[dict[str, str]]:
    lines = []
    for text in journal.read_text("utf-8").splitlines():
        try:
            lines.append(json.loads(text))
        except ValueError:  # the last one, cut short
            continue
    return lines


def finish(folder: Path) -> int:
    """Run a fleet to its end and use a page; returns how many models the registry has then.

    0 where one of them fails, or leaves uploads or processes.
    """
    process = _start(folder, "fleet", folder / "models.txt", "-o", folder / "bases",
                     "--journal", folder / "last", "--engine", "threads")  # fmt: skip
    process.join()
    if process.exitcode:
        return 0
    page = Page(_start, folder, ZOO, (folder / "upload.png").read_bytes())
    is_answered = page.wait_for_answer()
    page.close()
    left = uploads_left(folder / "home")
    if not is_answered or left or page.orphans:
        print(f"the last page left {left}, answered: {is_answered}", file=sys.stderr)
        return 0
    return len(open_store(str(folder / "bases")))


def main() -> None:
    """Run the command."""
    parser = make_parser(__doc__)
    parser.add_argument("--times", type=int, default=50, help="rounds of six kills (default: 50)")
    parser.add_argument(
        "--longest", type=float, default=LONGEST_RUN, help="CPU seconds of a process at most"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="huref-kill-") as name:
        folder = Path(name)
        result = kill_at_random(arguments.times, folder, arguments.longest)
        measured = finish(folder)
    print(result)
    print(f"afterwards {measured} of {len(MODELS)} models were measured")
    if not result.is_clean or measured != len(MODELS):
        sys.exit(1)


if __name__ == "__main__":
    main()
