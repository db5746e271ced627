"""A page with models, records and a registry, and a browser, for the tests of a module."""

import signal
from collections.abc import Iterator

import pytest

import huref
from huref.api.open import open_record
from huref.recipe import load_recipe
from huref.registry.entry import make_entry
from huref.registry.stores import create_store
from tests.support.browser import Browser
from tests.support.page_server import HOSTILE, PATIENCE, Server, start, start_browser
from tests.support.zoo import ZOO


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A page whose root has two models of the zoo, records, a picture and a registry."""
    root, home = tmp_path_factory.mktemp("root"), tmp_path_factory.mktemp("home")
    for name in ("llama-a", "llama-b"):
        (root / name).symlink_to(ZOO / name)  # out of the root: not followed
    records = {name: open_record(str(ZOO / name)) for name in ("llama-a", "llama-b")}
    for name, record in records.items():
        record.save(root / f"{name}.safetensors")
    fine = open_record(str(ZOO / "llama-a-finetune"))
    fine.save(root / "fine.safetensors")
    huref.fingerprint(str(root / "fine.safetensors"), root / "dog.png")
    (root / HOSTILE).mkdir()
    (root / HOSTILE / "config.json").write_text("{")
    store = create_store(str(home / "registry"), load_recipe()[0])
    store.add([make_entry(record) for record in records.values()])
    started = start(root, home)
    yield started
    started.process.send_signal(signal.SIGINT)
    started.process.wait(PATIENCE)
    assert [path.name for path in (home / "serve").iterdir()] == ["lock"]  # the uploads are gone


@pytest.fixture(scope="module")
def browser(server: Server) -> Iterator[Browser]:
    with start_browser() as started:
        started.visit(server.url + "/")
        yield started
