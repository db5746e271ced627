"""Fleets against a Hub with limits and faults: nothing lost, nothing measured twice."""

import json
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from huref.api.open import open_record
from huref.cli import main
from huref.errors import CheckpointError, FleetError, RegistryError
from huref.recipe import load_recipe
from huref.registry.entry import Entry
from huref.registry.fleet import run as fleet_module
from huref.registry.fleet import saver
from huref.registry.fleet.model_list import list_hub, parse_list, read_list
from huref.registry.fleet.run import fleet
from huref.registry.fleet.work import Outcome, Task, measure_task, reason_without_model
from huref.registry.store import Store
from huref.registry.stores import create_store, open_store
from tests.support.fleet_hub import FleetHub, write_small_llama

MODELS = ("org/Alpha", "org/beta", "other/gamma")


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("fleet")
    return {name: write_small_llama(root / name, seed) for seed, name in enumerate(MODELS)}


@pytest.fixture(scope="session")
def expected(folders: dict[str, Path]) -> dict[str, np.ndarray]:
    latents = {name: open_record(str(folder)).latent for name, folder in folders.items()}
    return {name: latent for name, latent in latents.items() if latent is not None}


@pytest.fixture
def fleet_hub(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[FleetHub]:
    from huggingface_hub import constants

    with FleetHub() as server:
        for name, folder in folders.items():
            server.add(name, folder)
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub-cache"))
        monkeypatch.setattr(constants, "HF_ASSETS_CACHE", str(tmp_path / "assets-cache"))
        template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield server


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return create_store(str(tmp_path / "registry"), load_recipe()[0])


def latents_of(store: Store) -> dict[str, np.ndarray]:
    entries = list(store.entries())
    assert len({entry.key for entry in entries}) == len(entries)
    return {entry.model: entry.latent for entry in entries}


def assert_right(store: Store, expected: dict[str, np.ndarray]) -> None:
    found = latents_of(store)
    assert found.keys() == expected.keys()
    for name, latent in expected.items():
        np.testing.assert_allclose(
            found[name], latent, atol=1e-3
        )  # the order of summation depends on threads


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_lists_may_have_comments_urls_and_duplicates(tmp_path: Path) -> None:
    text = """\ufeff# bases
    org/Alpha

    org/alpha     # the same: Hub ids are case-insensitive
    https://huggingface.co/org/beta/
    org/beta@main
    org/many/q4.gguf
    """
    path = tmp_path / "models.txt"
    path.write_text(text, "utf-8")
    models = read_list(path)
    assert [model.name for model in models.models] == [
        "org/Alpha",
        "org/beta",
        "org/beta@main",
        "org/many/q4.gguf",
    ]
    assert models.duplicates == 1
    commit = "0" * 40
    assert parse_list([f"org/alpha@{commit}"]).models[0].commit == commit


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"# nothing\n\n", "it lists no model"), (b"\xff\xfe\x00", "it is not UTF-8 text")],
)
def test_lists_that_cannot_be_used_are_refused(
    tmp_path: Path, content: bytes, message: str
) -> None:
    path = tmp_path / "models.txt"
    path.write_bytes(content)
    with pytest.raises(FleetError, match=message):
        read_list(path)
    with pytest.raises(FleetError, match="cannot be read"):
        read_list(tmp_path / "missing.txt")


@pytest.mark.slow
def test_a_hub_with_limits_and_faults_is_read_correctly(
    fleet_hub: FleetHub, store: Store, expected: dict[str, np.ndarray]
) -> None:
    fleet_hub.limits = {"api": (4, 1), "resolvers": (30, 1)}
    fleet_hub.faults = {"429": 0.03, "503": 0.03, "cut": 0.06}
    report = fleet(MODELS, store, workers=3)
    assert report.count("done") == 3
    assert not report.failures
    assert_right(store, expected)
    assert sum(fleet_hub.seen.values()) - fleet_hub.seen.get("over", 0) > 2
    assert fleet_hub.seen.get("over", 0) <= 1  # the limits were not exceeded


@pytest.mark.slow
def test_the_same_command_continues_and_reads_nothing_twice(
    fleet_hub: FleetHub, store: Store, expected: dict[str, np.ndarray], tmp_path: Path
) -> None:
    listed = tmp_path / "models.txt"
    listed.write_text("org/Alpha\norg/nothing\n")
    assert run("fleet", listed, "-o", store.uri).exit_code == 0
    listed.write_text("ORG/alpha\norg/beta\nother/gamma\norg/nothing\n")
    before = fleet_hub.bytes_sent
    result = run("fleet", listed, "-o", store.uri, "--json")
    report = json.loads(result.stdout)
    assert (report["done"], report["known"], report["failed"]) == (2, 1, 1)
    assert fleet_hub.bytes_sent - before == report["bytes_read"]
    assert_right(store, expected)
    requests = len(fleet_hub.requests)
    result = run("fleet", listed, "-o", store.uri, "--json")
    report = json.loads(result.stdout)
    assert (report["known"], report["failed"]) == (3, 1)
    assert len(fleet_hub.requests) == requests
    journal = (tmp_path / "registry.fleet.jsonl").read_text().splitlines()
    lines = [json.loads(line) for line in journal]
    assert {line["listed"]: line["status"] for line in lines} == {
        "org/Alpha": "done",
        "ORG/alpha": "known",
        "org/nothing": "failed",
        "org/beta": "done",
        "other/gamma": "done",
    }
    assert not list((tmp_path / "assets-cache").rglob("*-*"))  # no headers kept on disk


def test_refresh_measures_a_new_commit(
    fleet_hub: FleetHub, store: Store, folders: dict[str, Path]
) -> None:
    fleet(["org/beta"], store)
    fleet_hub.repositories["org/beta"].folder = folders["other/gamma"]
    assert fleet(["org/beta"], store).count("known") == 1
    assert fleet(["org/beta"], store, refresh=True).count("done") == 1
    assert fleet(["org/beta"], store, refresh=True).count("known") == 1
    commits = {entry.revision for entry in store.entries()}
    assert len(commits) == 2


def test_failures_have_reasons_and_are_not_repeated(
    fleet_hub: FleetHub, tmp_path: Path, folders: dict[str, Path]
) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_text("{")
    fleet_hub.add("org/broken", broken)
    fleet_hub.add("org/gated", folders["org/beta"], gated=True)
    listed = tmp_path / "models.txt"
    listed.write_text("org/broken\norg/gated\nno such model\norg/nothing\n")
    out = tmp_path / "registry"
    result = run("fleet", listed, "-o", out)
    assert result.exit_code == 1
    assert "4" in result.stdout
    for words in (
        "not valid JSON",
        "is gated",
        "neither a folder, nor a file",
        "no such folder or",
    ):
        assert words in result.stdout
    requests = len(fleet_hub.requests)
    assert "is gated" in run("fleet", listed, "-o", out).stdout
    assert len(fleet_hub.requests) == requests
    fleet_hub.repositories["org/gated"].gated = False
    result = run("fleet", listed, "-o", out, "--retry-failed", "--json")
    assert json.loads(result.stdout)["done"] == 1


def test_models_are_measured_at_the_listed_commits(
    fleet_hub: FleetHub, store: Store, tmp_path: Path
) -> None:
    picture = tmp_path / "fleet.png"
    result = run(
        "fleet", "--hub-filter", "author=org", "-o", store.uri, "--picture", picture, "--json"
    )
    assert json.loads(result.stdout)["done"] == 2
    revisions = {entry.model: entry.revision for entry in store.entries()}
    assert revisions == {name: fleet_hub.repositories[name].commit for name in MODELS[:2]}
    with Image.open(picture) as image:
        assert min(image.size) > 160
    models = list_hub({"author": ["org"]})
    requests = len(fleet_hub.requests)
    assert fleet(models, store, journal=tmp_path / "other.jsonl").count("known") == 2
    assert len(fleet_hub.requests) == requests


def test_a_listing_may_have_many_pages(fleet_hub: FleetHub, folders: dict[str, Path]) -> None:
    for number in range(7):
        fleet_hub.add(f"many/{number}", folders["org/beta"])
    assert len(list_hub({"author": ["many"]}).models) == 7
    with pytest.raises(FleetError, match="no model on the Hub matches"):
        list_hub({"author": ["nobody"]})
    with pytest.raises(FleetError, match="no Hub filter 'colour'"):
        list_hub({"colour": ["red"]})


@pytest.mark.slow
def test_ctrl_c_saves_finished_models(
    fleet_hub: FleetHub, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet_hub.latency = 0.05
    reported = threading.Event()

    def interrupt(self: Any, *arguments: Any) -> None:
        original(self, *arguments)
        if not reported.is_set():
            reported.set()
            os.kill(os.getpid(), signal.SIGINT)

    original = fleet_module._Run._finish
    monkeypatch.setattr(fleet_module._Run, "_finish", interrupt)
    # A shell without job control starts background processes with Ctrl-C ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            fleet(MODELS, store, workers=1)
    finally:
        signal.signal(signal.SIGINT, before)
    assert len(store) == 1
    assert fleet(MODELS, store, workers=1).count("known") == 1
    assert len(store) == 3


@pytest.mark.slow
def test_a_full_disk_stops_the_fleet_and_loses_nothing_saved(
    fleet_hub: FleetHub,
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
    expected: dict[str, np.ndarray],
) -> None:
    add = store.add

    def fill(entries: Iterable[Entry]) -> int:
        if len(store) == 1:
            raise RegistryError(f"{store.uri}: no space left on device")
        return add(entries)

    monkeypatch.setattr(saver, "MOST_PENDING", 1)
    monkeypatch.setattr(saver, "LARGEST_SHARE", 1e9)
    monkeypatch.setattr(store, "add", fill)
    with pytest.raises(FleetError, match=r"no space left.*measured again"):
        fleet(MODELS, store, workers=1)
    assert len(store) == 1
    monkeypatch.setattr(store, "add", add)
    report = fleet(MODELS, store, workers=1)
    assert (report.count("known"), report.count("done")) == (1, 2)
    assert_right(store, expected)


@pytest.mark.slow
def test_a_truncated_journal_is_read_up_to_its_last_line(
    fleet_hub: FleetHub, store: Store, tmp_path: Path
) -> None:
    journal = tmp_path / "journal.jsonl"
    fleet(MODELS[:2], store, journal=journal)
    journal.write_bytes(journal.read_bytes()[:-40])
    report = fleet(MODELS, store, journal=journal)
    assert (report.count("known"), report.count("done")) == (2, 1)
    assert len([json.loads(line) for line in journal.read_text().splitlines()[-1:]]) == 1


def test_a_fleet_stops_when_the_network_is_down(
    fleet_hub: FleetHub, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet_module, "UNREACHABLE", 4)
    fleet_hub.__exit__()
    names = [f"org/{number}" for number in range(9)]
    with pytest.raises(FleetError, match="4 models in a row could not be reached"):
        fleet(names, store)
    fleet_hub.__enter__()


def test_outputs_without_a_folder_are_refused_before_any_work(tmp_path: Path) -> None:
    out, picture = tmp_path / "registry", tmp_path / "missing" / "fleet.png"
    result = run("fleet", "-", "-o", out, "--picture", picture)
    assert result.exit_code == 1
    assert "there is no folder" in result.stderr
    assert not out.exists()


def test_folders_that_differ_in_case_are_two_models(
    store: Store, folders: dict[str, Path], tmp_path: Path
) -> None:
    for name, folder in (("model", folders["org/beta"]), ("MODEL", folders["org/Alpha"])):
        (tmp_path / name).symlink_to(folder)
    assert fleet([str(tmp_path / "MODEL")], store).count("done") == 1
    report = fleet([str(tmp_path / "model"), str(tmp_path / "MODEL")], store)
    assert (report.count("done"), report.count("known")) == (1, 1)


def test_another_recipe_than_the_registrys_is_refused(tmp_path: Path, store: Store) -> None:
    listed = tmp_path / "models.txt"
    listed.write_text("org/beta\n")
    result = run("fleet", listed, "-o", store.uri, "--recipe", "paper")
    assert result.exit_code == 1
    assert "holds the recipe 'function-1'" in result.stderr


class DyingExecutor(Executor):
    """Fails the first two tasks of one model as if their workers had died."""

    def __init__(self, deadly: str) -> None:
        self.pool = ThreadPoolExecutor(2)
        self.deadly, self.deaths = deadly, 0

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":
        task = args[0]
        if task.name == self.deadly and self.deaths < 2:
            self.deaths += 1
            future: Future[Any] = Future()
            future.set_exception(BrokenProcessPool("killed"))
            return future
        return self.pool.submit(fn, *args, **kwargs)


@pytest.mark.slow
def test_a_model_whose_worker_died_is_measured_again(
    store: Store, folders: dict[str, Path], expected: dict[str, np.ndarray]
) -> None:
    executor = DyingExecutor(str(folders["org/beta"]))
    names = {folder.name: name for name, folder in folders.items()}
    report = fleet([str(folder) for folder in folders.values()], store, executor=executor)
    assert report.count("done") == 3
    found = {names[model]: latent for model, latent in latents_of(store).items()}
    for name, latent in expected.items():
        np.testing.assert_allclose(found[name], latent, atol=1e-3)
    attempts = {line.listed: line.attempts for line in report.lines}
    assert attempts[str(folders["org/beta"])] == 3
    assert sum(attempts.values()) == 5


@pytest.mark.slow
def test_a_dying_process_costs_only_its_own_model(
    store: Store, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    # A real pool whose process exits at the first model.
    monkeypatch.setattr(fleet_module, "measure_task", measure_or_die)
    monkeypatch.setattr(fleet_module, "ATTEMPTS", 2)
    names = ["die", str(folders["org/beta"])]
    report = fleet(names, store, engine="processes", workers=1)
    assert report.count("done") == 1
    assert [line.kind for line in report.failures] == ["WorkerDied"]
    assert "died 2 times" in report.failures[0].reason


def measure_or_die(task: Task) -> Outcome:
    if task.name == "die":
        os._exit(1)
    return measure_task(task)


def test_an_unexpected_error_costs_one_model(
    store: Store, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def trip(task: Task) -> Outcome:
        if task.name.endswith("beta"):
            raise ZeroDivisionError("surprise")
        return measure_task(task)

    monkeypatch.setattr(fleet_module, "measure_task", trip)
    report = fleet([str(folder) for folder in folders.values()], store)
    assert report.count("done") == 2
    assert [line.kind for line in report.failures] == ["ZeroDivisionError"]
    assert "please report it: surprise" in report.failures[0].reason


def test_reasons_do_not_repeat_the_model() -> None:
    error = CheckpointError(
        "it holds NaN", model="org/m", file="a.safetensors", tensor="x", advice="do not use it"
    )
    reason = "a.safetensors: tensor 'x': it holds NaN; do not use it"
    assert reason_without_model(error, "org/m") == reason
    assert str(error) == f"org/m: {reason}"
    damage = RegistryError("line 3 is damaged", file="x.jsonl")
    assert reason_without_model(damage, "./x.jsonl") == "line 3 is damaged"
    assert reason_without_model(MemoryError(), "org/m") == ""


def test_the_store_opens_again(store: Store, folders: dict[str, Path]) -> None:
    fleet([str(folders["org/beta"])], store)
    assert len(open_store(store.uri)) == 1
