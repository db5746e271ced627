"""What commands print as JSON is what docs/schemas says."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from click.testing import CliRunner
from referencing import Registry, Resource

from huref.api.open import open_record
from huref.cli import main
from tests.support.endpoint_server import LoopbackEndpoint, Stub
from tests.support.timestamp_server import openssl
from tests.support.zoo import ROOT, ZOO

pytest_plugins = ["tests.support.served_models"]
SCHEMAS = ROOT / "docs" / "schemas"
PARTS = ("common",)  # no document of its own
FILES = sorted(SCHEMAS.glob("*.json"))


def load(name: str) -> dict[str, Any]:
    schema: dict[str, Any] = json.loads((SCHEMAS / f"{name}.json").read_text("utf-8"))
    return schema


RESOURCES: Registry[Any] = Registry().with_resources(
    (path.name, Resource.from_contents(load(path.stem))) for path in FILES
)


def validator(name: str) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(
        load(name), registry=RESOURCES, format_checker=jsonschema.FormatChecker()
    )


def run(schema: str, *arguments: object, exit_code: int = 0) -> Any:
    """Run a command with --json and hold what it prints against a schema."""
    result = CliRunner().invoke(main, [*map(str, arguments), "--json"])
    assert result.exit_code == exit_code, result.output
    data = json.loads(result.stdout)
    validator(schema).validate(data)
    return data


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Records of three zoo models, so that each is read once, and the picture of one."""
    folder = tmp_path_factory.mktemp("records")
    made = {
        name: folder / f"{name}.safetensors" for name in ("llama-b", "llama-a", "llama-a-finetune")
    }
    made["picture"] = folder / "llama-b.png"
    data = run(
        "fingerprint",
        *("fingerprint", ZOO / "llama-b", "-o", made["picture"], "--record", made["llama-b"]),
    )
    assert data["image"] == str(made["picture"])
    for name in ("llama-a", "llama-a-finetune"):
        open_record(str(ZOO / name)).save(made[name])
    return made


@pytest.fixture(scope="module")
def registry(records: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    uri = tmp_path_factory.mktemp("registry") / "bases"
    run("registry-init", "registry", "init", uri)
    data = run("registry-add", "registry", "add", uri, records["llama-a"], records["llama-b"])
    assert len(data["added"]) == 2
    return uri


def test_schemas_are_valid_and_refuse_unknown_keys() -> None:
    for path in FILES:
        jsonschema.Draft202012Validator.check_schema(load(path.stem))
        assert load(path.stem)["$id"] == path.name
        if path.stem not in PARTS:
            assert load(path.stem)["additionalProperties"] is False


def test_a_document_may_have_a_version_and_a_schema_number() -> None:
    for path in FILES:
        if path.stem not in PARTS:
            properties = load(path.stem)["properties"]
            assert {"huref", "schema"} <= set(properties), path.name
    document = {"uri": "bases", "recipe": "0123456789ab"}
    validator("registry-init").validate(document | {"huref": "0.1.0", "schema": 1})
    with pytest.raises(jsonschema.ValidationError):
        validator("registry-init").validate(document | {"surprise": 1})
    with pytest.raises(jsonschema.ValidationError):
        validator("registry-init").validate({"uri": "bases"})


def test_fingerprint_of_a_picture(records: dict[str, Path], tmp_path: Path) -> None:
    data = run("fingerprint", "fingerprint", records["picture"], "-o", tmp_path / "dog.png")
    assert data["anchors"] is None


def test_compare(records: dict[str, Path]) -> None:
    data = run("compare", "compare", *records.values())
    assert {pair["verdict"] for pair in data["pairs"]} >= {"descends", "unrelated", None}


def test_compare_full(tmp_path: Path) -> None:
    """With --depth full a pair has a layer map."""
    models = (ZOO / "llama-a", ZOO / "llama-a-pruned")
    data = run("compare", "compare", *models, "--depth", "full", "--no-cache")
    assert data["pairs"][0]["blocks"]


def test_bench(records: dict[str, Path], tmp_path: Path) -> None:
    a, child, b = (records[name] for name in ("llama-a", "llama-a-finetune", "llama-b"))
    rows = ("id_a\tid_b\trelation\texpected\trivals\tmore", f"{a}\t{child}\tx\tdescends\tA=1\tb")
    listed = tmp_path / "pairs.tsv"
    listed.write_text("\n".join([*rows, f"{a}\t{b}\ty\tdisputed", f"{a}\t\tz\tdescends"]), "utf-8")
    data = run("bench", "bench", listed, exit_code=1)
    assert [data[key] for key in ("right", "of", "disputed", "not_measured")] == [1, 1, 1, 1]


@pytest.mark.parametrize(
    ("model", "bases", "answer", "exit_code"),
    [
        ("llama-a-lora", (), None, None),
        ("llama-a-finetune", ("llama-a",), "confirmed", 0),
        ("llama-a-finetune", ("llama-b",), "contradicted", 3),
        ("llama-b", (), "nothing declared", 0),
    ],
)
def test_check(
    model: str, bases: tuple[str, ...], answer: str | None, exit_code: int | None
) -> None:
    named = [part for base in bases for part in ("--base", ZOO / base)]
    arguments = ["check", ZOO / model, *named, "--json"]
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    data = json.loads(result.stdout)
    validator("check").validate(data)
    assert answer in (None, data["answer"])
    assert exit_code in (None, result.exit_code)


def test_identify(records: dict[str, Path], registry: Path) -> None:
    data = run("identify", "identify", records["llama-a-finetune"], "--registry", registry)
    assert data["answer"] == "descends"
    data = run("identify", "identify", records["picture"], "--registry", registry, "--read", 0)
    assert data["of"] == 2


def test_identify_in_an_empty_registry(records: dict[str, Path], tmp_path: Path) -> None:
    run("registry-init", "registry", "init", tmp_path / "empty")
    data = run("identify", "identify", records["llama-b"], "--registry", tmp_path / "empty")
    assert data["base"] is None


def test_registry(records: dict[str, Path], registry: Path, tmp_path: Path) -> None:
    assert len(run("registry-list", "registry", "list", registry)["models"]) == 2
    found = run("registry-search", "registry", "search", registry, records["llama-a-finetune"])
    assert found["found"][0]["sketch_ics"] > 0.9
    run("registry-search", "registry", "search", registry, records["picture"])
    run("registry-export", "registry", "export", registry, "-o", tmp_path / "all.jsonl")
    again = run("registry-add", "registry", "add", registry, records["llama-a"])
    assert len(again["known"]) == 1
    missing = tmp_path / "missing"
    failed = run("registry-add", "registry", "add", registry, missing, exit_code=1)
    assert failed["failed"][0]["model"] == str(missing)
    model = run("registry-list", "registry", "list", registry)["models"][-1]["model"]
    run("registry-export", "registry", "export", registry, "-o", tmp_path / "copy")
    assert run("registry-remove", "registry", "remove", tmp_path / "copy", model)["removed"] == {
        model: 1
    }


def test_fleet(tmp_path: Path) -> None:
    listed = tmp_path / "models.txt"
    listed.write_text(f"{ZOO / 'llama-b'}\n{tmp_path / 'missing'}\n", "utf-8")
    data = run("fleet", "fleet", listed, "-o", tmp_path / "bases", "--workers", 1)
    assert (data["done"], data["failed"]) == (1, 1)


def test_tree(records: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "tree.json"
    result = CliRunner().invoke(main, ["tree", *map(str, records.values()), "-o", str(out)])
    assert result.exit_code == 0, result.output
    data = json.loads(out.read_text("utf-8"))
    validator("tree").validate(data)
    assert data["trees"][0]["rooted_by"]


def test_decoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HUREF_HOME", str(tmp_path))
    network = ROOT / "checkpoints" / "decoder.safetensors"
    run("decoder-import", "decoder", "import", network, "--name", "copy")
    assert [entry["shipped"] for entry in run("decoder-list", "decoder", "list")["decoders"]] == [
        True,
        False,
    ]


def test_probe(models: Callable[..., Path], tmp_path: Path) -> None:
    """On a model's own weights, run on this machine."""
    model, signature = models("llama"), tmp_path / "a.sig"
    size = run("probe-size", "probe", "size", model, "--yes")
    assert size["hidden_size"] is None or size["hidden_size"] > 0
    run("probe-signature", "probe", "signature", model, "-o", signature, "--yes")
    data = run("probe-match", "probe", "match", signature, model, models("llama", 1), "--yes")
    assert data["candidates"][0]["verdict"] == "same head"
    extracted = tmp_path / "w.safetensors"
    run("probe-extract", "probe", "extract", signature, model, "-o", extracted, "--yes")


@pytest.mark.slow
def test_probe_watch(
    served: Callable[..., Stub], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with LoopbackEndpoint(served("llama", 0, top=None, ids="token_id")) as endpoint:
        found = run("probe-capabilities", "probe", "capabilities", endpoint.url, "--yes")
        assert found["access"] == "full"
        arguments = ("probe", "watch", endpoint.url, "--baseline", tmp_path / "b.json", "--yes")
        assert run("probe-watch", *arguments)["changed"] is None
        assert run("probe-watch", *arguments)["changed"] is False


def test_layouts(records: dict[str, Path]) -> None:
    assert any(
        layout["name"] == "llama" for layout in run("layouts-list", "layouts", "list")["layouts"]
    )
    assert "block" not in run("layouts-show", "layouts", "show", "llama")
    assert run("layouts-show", "layouts", "show", ZOO / "llama-b")["block"]


def test_evidence(records: dict[str, Path], tmp_path: Path) -> None:
    key, public = tmp_path / "key.pem", tmp_path / "key.pub"
    openssl("genpkey", "-algorithm", "ed25519", "-out", key)
    openssl("pkey", "-in", key, "-pubout", "-out", public)
    out = tmp_path / "a.json"
    arguments = ("--key", key, "-o", out, "--base", records["llama-a"])
    data = run("attest", "attest", ZOO / "llama-a-finetune", *arguments)
    assert data["lineage"] == [{"base": "llama-a", "verdict": "descends"}]
    assert run("verify", "verify", out, "--key", public)["statement"]["model"] == data["model"]
    assert run("verify", "verify", records["picture"])["kind"] == "picture"


def test_check_suggests(records: dict[str, Path]) -> None:
    arguments = ("--base", records["llama-a"], "--base", records["llama-b"], "--suggest")
    data = run("check", "check", ZOO / "llama-a-finetune", *arguments, exit_code=3)
    assert data["suggested"]["base_model"] == ["llama-a.safetensors"]
    assert data["suggested"]["base_model_relation"] == "finetune"
    assert "contradicted" in data["suggested"]["notes"][0]


# Held against output elsewhere: "check-line" and "identify-line" in tests/cli/test_queue.py,
# "registry-pull" in tests/registry/test_pull.py, "serve-job" in tests/serve/test_page.py.
def test_every_schema_is_held_against_output() -> None:
    """A schema that no test of this file names would not be kept."""
    text = Path(__file__).read_text("utf-8")
    for path in FILES:
        assert path.name == "common.json" or f'"{path.stem}"' in text, path.name


def test_cache() -> None:
    run("compare", "compare", ZOO / "llama-a", ZOO / "llama-b")
    assert run("cache-list", "cache", "list")["records"]
    assert run("cache-purge", "cache", "purge")["removed"] >= 0
