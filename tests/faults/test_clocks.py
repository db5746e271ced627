"""Clocks that jump by a day, forward and back: nothing waits for it, is lost or passes for new."""

import json
import os
import shutil
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from huref.api.cache import cache_folder
from huref.api.open import measure
from huref.blackbox import visits
from huref.blackbox.answers import AnswerStore
from huref.decoder.picture import read_png
from huref.errors import EvidenceError
from huref.loader.hub.rate import RateLimiter, retry_after
from huref.registry.stores import open_store
from huref.serve import uploads
from tests.support.hub_server import LoopbackHub
from tests.support.zoo import ROOT, ZOO

pytestmark = pytest.mark.slow

DAY = 86400.0


def _endpoint() -> Any:
    return SimpleNamespace(name="x", client=SimpleNamespace(store=AnswerStore()))


def test_a_clock_that_jumps_neither_blocks_nor_frees_requests() -> None:
    now = [1000.0]
    limiter = RateLimiter(margin=0, clock=lambda: now[0])
    limits = {"RateLimit": '"api";r=1;t=60', "RateLimit-Policy": '"x";"api";q=10;w=60'}
    limiter.learn("api", 200, limits)
    now[0] -= 1e6  # a monotonic clock does not, but a suspended machine may
    for _ in range(20):
        assert 0 <= limiter.reserve("api") <= 1e6 + 61
    now[0] += 1e9
    assert limiter.reserve("api") == 0


def test_a_retry_after_counts_from_the_answers_own_date() -> None:
    """A server's dates are years away from this machine's; the difference is what it asks for."""
    for year in (1999, 2026, 2099):
        moment = f"Wed, 21 Oct {year} 07:28"
        headers = {"Retry-After": f"{moment}:30 GMT", "Date": f"{moment}:20 GMT"}
        assert retry_after(headers) == 10
        assert retry_after({"Retry-After": headers["Date"], "Date": headers["Retry-After"]}) == 0
    alone = {"Retry-After": "Wed, 21 Oct 2099 07:28:30 GMT"}
    assert retry_after(alone) is None  # as long as after any other failure
    for odd in ("", "soon", "Wed, 21 Oct 99999 07:28:30 GMT", "Wed, 21 Oct 2099 07:28:30"):
        assert retry_after(alone | {"Date": odd}) is None


@pytest.mark.parametrize(
    ("date", "running", "resumed"),
    [
        (600, 600, True),
        (DAY + 600, 600, False),  # the clock was set: it is begun anew, which costs requests
        (600 - DAY, 600, False),
        (600, DAY + 600, False),  # set back by a day, a day later: the answers are old
        (-600, 600, False),
        (600, -600, False),  # another start of the machine
        (DAY, DAY, False),
    ],
)
def test_old_answers_of_a_visit_never_pass_for_new_ones(
    date: float, running: float, resumed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint = _endpoint()
    baseline = tmp_path / "b.json"
    monkeypatch.setattr(visits, "_clocks", lambda: [1e9, 5e4])
    first = visits.open_visit(endpoint, baseline, "tokens")
    monkeypatch.setattr(visits, "_clocks", lambda: [1e9 + date, 5e4 + running])
    assert (visits.open_visit(endpoint, baseline, "tokens") == first) == resumed


def test_a_visit_that_an_older_huref_began_is_begun_anew(tmp_path: Path) -> None:
    endpoint = _endpoint()
    key = visits.visit_key(endpoint, tmp_path / "b.json", "tokens")
    now = datetime.now(UTC).timestamp()
    endpoint.client.store.remember(key, {"name": "old", "at": now})
    assert visits.open_visit(endpoint, tmp_path / "b.json", "tokens") != "old"


@pytest.mark.parametrize("age", [-DAY, 0.0, DAY, 40 * 365 * DAY])
def test_a_page_keeps_its_uploads_and_leaves_none_of_a_killed_one(
    age: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HUREF_HOME", str(tmp_path))
    page = uploads.Uploads()
    left = page.folder.with_name("0123456789abcdef")
    left.mkdir()
    (left / "x.png").write_bytes(b"private")
    for folder in (left, page.folder):
        moment = datetime.now(UTC).timestamp() - age
        os.utime(folder, (moment, moment))
    again = uploads.Uploads()
    assert page.folder.is_dir()
    assert not left.exists()
    for one in (page, again):
        one.close()
    assert [path.name for path in (tmp_path / "serve").iterdir()] in ([], ["lock"])


def test_pages_that_start_at_once_do_not_remove_each_others_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HUREF_HOME", str(tmp_path))
    pages: list[uploads.Uploads] = []
    threads = [threading.Thread(target=lambda: pages.append(uploads.Uploads())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(pages) == 8
    assert all((page.folder / "lock").exists() for page in pages)
    for page in pages:
        page.close()


def test_files_changed_while_the_clock_was_wrong_are_measured_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the new file has the size and the time of the old one, as copies may have."""
    monkeypatch.setenv("HUREF_HOME", str(tmp_path / "home"))
    folder = shutil.copytree(ZOO / "llama-a", tmp_path / "model")
    path = folder / "model.safetensors"
    for moment in (0, 4e9):  # written in 1970, by a machine without a clock, and in the future
        latents = []
        for name in ("llama-a", "llama-a-continued"):
            shutil.copyfile(ZOO / name / path.name, path)
            os.utime(path, (moment, moment))
            latents.append(measure(str(folder), cache=True)[0].latent)
        assert latents[0] is not None
        assert latents[1] is not None
        assert not np.array_equal(latents[0], latents[1])


def test_a_file_that_changes_while_it_is_measured_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huref.api import open as opening

    monkeypatch.setenv("HUREF_HOME", str(tmp_path / "home"))
    folder = shutil.copytree(ZOO / "llama-a", tmp_path / "model")
    measure_weights = opening._measure_weights

    def touched(*arguments: object) -> object:
        (folder / "model.safetensors").touch()
        return measure_weights(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(opening, "_measure_weights", touched)
    assert measure(str(folder), cache=True)[0].latent is not None
    assert not cache_folder().exists()
    monkeypatch.undo()
    monkeypatch.setenv("HUREF_HOME", str(tmp_path / "home"))
    measure(str(folder), cache=True)
    assert len(list(cache_folder().iterdir())) == 1


@pytest.mark.parametrize(("ahead", "refused"), [(DAY, True), (-DAY, False), (300, False)])
def test_a_statement_that_nobody_could_verify_is_not_made(
    ahead: float, refused: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock that runs ahead of the authority's is said when the statement is made."""
    pytest.importorskip("rfc3161_client")
    from huref.api import attest as attesting
    from huref.evidence.timestamp import Timestamp
    from scripts.fuzz.kill import make_key

    class Clock(datetime):
        @classmethod
        def now(cls, tz: object = None) -> datetime:  # type: ignore[override]
            return datetime.now(UTC) + timedelta(seconds=ahead)

    token = Timestamp(datetime.now(UTC), "", False)
    monkeypatch.setattr(attesting, "datetime", Clock)
    monkeypatch.setattr(attesting, "request_timestamp", lambda *_: b"token")
    monkeypatch.setattr(attesting, "read_timestamp", lambda *_: token)
    out = tmp_path / "a.json"

    def attest() -> None:
        attesting.attest(
            ZOO / "llama-a", out, key=make_key(tmp_path), timestamp="http://127.0.0.1:1/"
        )

    if refused:
        with pytest.raises(EvidenceError, match="the clock of this machine"):
            attest()
    else:
        attest()
    assert out.exists() != refused


@pytest.fixture(scope="module")
def jumping(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of processes whose date jumps by two days every 50 ms."""
    compiler = shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("needs Linux and a C compiler")
    library = tmp_path_factory.mktemp("clock") / "clock.so"
    source = ROOT / "tests" / "support" / "jumping_clock.c"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source], check=True)
    home = tmp_path_factory.mktemp("home")
    found = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"} | {
        "LD_PRELOAD": str(library), "HUREF_HOME": str(home), "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    code = "import time\nstart = time.time()\nwhile abs(time.time() - start) < 9e4: pass"
    subprocess.run([sys.executable, "-c", code], env=found, check=True, timeout=60)
    return found


def _huref(environment: dict[str, str], *words: object) -> str:
    command = [sys.executable, "-m", "huref", *map(str, words)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_commands_do_the_same_while_the_date_jumps(jumping: dict[str, str], tmp_path: Path) -> None:
    listed = tmp_path / "models.txt"
    listed.write_text(f"{ZOO / 'llama-a'}\n{ZOO / 'llama-b'}\n")
    bases = tmp_path / "bases"
    fleet = ("fleet", listed, "-o", bases, "--engine", "threads", "--journal", tmp_path / "j")
    _huref(jumping, *fleet)
    _huref(jumping, *fleet)  # everything is known
    stored = {entry.model for entry in open_store(str(bases)).entries()}
    assert stored == {"llama-a", "llama-b"}
    found = json.loads(_huref(jumping, "identify", ZOO / "llama-a-finetune", "--registry", bases,
                              "--json"))  # fmt: skip
    assert found["answer"] == "descends"
    steady = {name: value for name, value in jumping.items() if name != "LD_PRELOAD"}
    pictures = []
    for number, environment in enumerate((jumping, jumping, steady)):
        out = tmp_path / f"{number}.png"
        _huref(environment, "fingerprint", ZOO / "llama-a", "-o", out)
        pictures.append(read_png(out)[1].tobytes())
    assert pictures[0] == pictures[1] == pictures[2]


def test_reading_from_a_hub_goes_on_while_the_date_jumps(
    jumping: dict[str, str], hub: LoopbackHub, tmp_path: Path
) -> None:
    hub.add("org/model", ZOO / "llama-a")
    hub.refuse_with, hub.refuse_api_with, hub.retry_after = [429, 503], [503], "1"
    hub.cut_after = 3000
    environment = jumping | {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf")}
    found = json.loads(_huref(environment, "fingerprint", "org/model", "--json",
                              "-o", tmp_path / "dog.png"))  # fmt: skip
    own = json.loads(_huref(jumping, "fingerprint", ZOO / "llama-a", "--json",
                            "-o", tmp_path / "own.png"))  # fmt: skip
    assert found["latent"] == own["latent"]
