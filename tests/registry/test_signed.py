"""Signed entries, the policy that requires them, and what entries do not say."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import huref
from huref.errors import RegistryError
from huref.evidence.keys import load_signer
from huref.registry.signing import FIELDS, check_entry, sign_entry, signer_id
from huref.registry.stores import create_store, open_store
from tests.evidence.conftest import Keys, run
from tests.evidence.conftest import keys as keys  # a fixture
from tests.support.registry_cases import RECIPE, random_entry
from tests.support.zoo import ZOO


@pytest.fixture(params=["folder", "lance"])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / ("r" if request.param == "folder" else "r.lance"))


def test_a_policy_takes_no_unsigned_entries(uri: str, keys: dict[str, Keys]) -> None:
    store = create_store(uri, RECIPE, "signed")
    one, two = random_entry(1), random_entry(2)
    signed = sign_entry(one, load_signer(keys["ed25519"].private))
    with pytest.raises(RegistryError, match="unsigned"):
        store.add([signed, two])
    assert len(store) == 0
    assert store.add([signed]) == 1
    opened = open_store(uri)
    assert opened.require == "signed"
    [entry] = opened.entries()
    check_entry(entry, "signed")
    assert signer_id(entry) == signer_id(signed)
    assert opened.remove(one.model) == 1
    assert open_store(uri).add([signed]) == 1


def test_no_field_of_a_signed_entry_can_be_changed(keys: dict[str, Keys]) -> None:
    signed = sign_entry(random_entry(1), load_signer(keys["p256"].private))
    check_entry(signed)
    other = sign_entry(signed, load_signer(keys["other"].private))
    edits: dict[str, object] = {name: f"x{getattr(signed, name)}" for name in FIELDS}
    edits["signature"] = other.signature
    edits["signer"] = other.signer
    for name in ("latent", "sketch", "anchors"):
        values = getattr(signed, name).copy()
        values.reshape(-1)[3] += 1
        edits[name] = values
    for name, value in edits.items():
        with pytest.raises(RegistryError, match="was edited"):
            check_entry(dataclasses.replace(signed, **{name: value}))  # type: ignore[arg-type]
    for name in ("signer", "signature"):
        with pytest.raises(RegistryError, match="was edited"):
            check_entry(dataclasses.replace(signed, **{name: ""}))  # type: ignore[arg-type]


@pytest.mark.slow
def test_an_edited_registry_is_found_out(tmp_path: Path, keys: dict[str, Keys]) -> None:
    """By the commands: who signed is shown, exports carry it, an edit of the file is refused."""
    import sqlite3

    folder = tmp_path / "r"
    assert run("registry", "init", folder, "--require", "signed").exit_code == 0
    refused = run("registry", "add", folder, ZOO / "llama-b")
    assert (refused.exit_code, "unsigned" in refused.stderr) == (1, True)
    added = run("registry", "add", folder, ZOO / "llama-b", "--key", keys["p256"].private)
    assert added.exit_code == 0, added.output
    [entry] = open_store(str(folder)).entries()
    name = signer_id(entry)
    assert name is not None
    found = json.loads(run("identify", ZOO / "llama-b", "--registry", folder, "--json").stdout)
    [candidate] = found["candidates"]
    assert (candidate["signer"], candidate["measured_at"]) == (name, entry.measured_at)
    shown = run("identify", ZOO / "llama-b", "--registry", folder).stdout
    assert name[:16] in shown
    assert entry.measured_at in shown
    out = tmp_path / "all.jsonl"
    assert run("registry", "export", folder, "-o", out).exit_code == 0
    text = out.read_text("utf-8")
    assert str(ZOO) not in text
    out.write_text(text.replace('"model": "llama-b"', '"model": "mine"'), "utf-8")
    copy = tmp_path / "copy"
    run("registry", "init", copy)
    result = run("registry", "add", copy, out)
    assert (result.exit_code, "was edited" in result.stderr) == (1, True)
    out.write_text(text, "utf-8")
    assert run("registry", "add", copy, out).exit_code == 0
    picture = tmp_path / "b.png"
    huref.fingerprint(ZOO / "llama-b", picture)
    with sqlite3.connect(folder / "registry.sqlite") as db:
        db.execute("UPDATE entries SET measured_at = '1999-01-01'")
    for model in (ZOO / "llama-b", picture):
        result = run("identify", model, "--registry", folder)
        assert (result.exit_code, "was edited" in result.stderr) == (1, True), result.output


def test_a_registry_of_an_older_huref_stays_readable(tmp_path: Path, keys: dict[str, Keys]) -> None:
    import sqlite3

    store = create_store(str(tmp_path / "r"), RECIPE)
    one, two = random_entry(1), random_entry(2)
    store.add([one])
    with sqlite3.connect(tmp_path / "r" / "registry.sqlite") as db:
        db.execute("DROP TABLE signatures")
        db.execute("DELETE FROM about WHERE name = 'require'")
    old = open_store(str(tmp_path / "r"))
    assert [label.signer for label in old.labels()] == [""]
    old.add([sign_entry(two, load_signer(keys["ed25519"].private))])
    assert sorted(bool(entry.signer) for entry in old.entries()) == [False, True]


@pytest.mark.slow
def test_two_folders_of_one_name(tmp_path: Path) -> None:
    import getpass

    uri = tmp_path / "r"
    run("registry", "init", uri)
    for place, source in (("x", "llama-a"), ("y", "llama-b")):
        shutil.copytree(ZOO / source, tmp_path / place / "model")
    first = run("registry", "add", uri, tmp_path / "x" / "model", tmp_path / "y" / "model")
    assert first.exit_code == 0, first.output
    entries = list(open_store(str(uri)).entries())
    names = sorted(entry.model for entry in entries)
    assert names[0] == "model"
    assert names[1].startswith("model-")
    assert not np.array_equal(entries[0].latent, entries[1].latent)
    assert {entry.measured_by for entry in entries} == {""}
    assert "known    model" in run("registry", "add", uri, tmp_path / "x" / "model").stdout
    for out in ("map.html", "all.jsonl", "all.csv"):
        verb = "map" if out == "map.html" else "export"
        assert run("registry", verb, uri, "-o", tmp_path / out).exit_code == 0
        text = (tmp_path / out).read_text("utf-8")
        assert str(tmp_path) not in text
        assert f'"{getpass.getuser()}"' not in text
    found = json.loads(
        run("identify", tmp_path / "y" / "model", "--registry", uri, "--json").stdout
    )
    assert found["base"] == names[1]
    assert found["candidates"][0]["ics"] == pytest.approx(1)
