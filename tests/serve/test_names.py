"""Which models a page may name, and which files a worker may read."""

import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest
from click.testing import CliRunner

from huref.cli import main
from huref.errors import HurefError
from huref.serve.names import Names
from huref.serve.uploads import Uploads


@pytest.fixture
def uploads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Uploads:
    monkeypatch.setenv("HUREF_HOME", str(tmp_path / "home"))
    return Uploads()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with a model, beside one that may not be read, and links from one to the other."""
    for name in ("root/org/model", "root/tagged", "secret/model"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "config.json").write_text("{}")
        (tmp_path / name / "model.safetensors").write_bytes(b"x")
    (tmp_path / "root/one.gguf").write_bytes(b"GGUF")
    (tmp_path / "root/away").symlink_to(tmp_path / "secret")
    (tmp_path / "root/inside").symlink_to(tmp_path / "root/org")
    (tmp_path / "root/ring").symlink_to(tmp_path / "root/ring")
    return (tmp_path / "root").resolve()


@pytest.mark.parametrize(
    ("name", "opened"),
    [
        ("org/model", "org/model"), (" org/model \n", "org/model"), ("one.gguf", "one.gguf"),
        ("inside/model", "inside/model"), ("tagged:Q4_K_M", "tagged:Q4_K_M"),
        ("org/elsewhere", "org/elsewhere"), ("org/elsewhere@abc", "org/elsewhere@abc"),
        ("org/repo:Q4_K_M", "org/repo:Q4_K_M"), ("org/repo/file.gguf", "org/repo/file.gguf"),
        ("https://huggingface.co/org/other", "org/other"), ("hf://org/other", "org/other"),
        ("./org/model", "./org/model"), ("org/../org/model", "org/../org/model"),
    ],
)  # fmt: skip
def test_what_may_be_named(root: Path, uploads: Uploads, name: str, opened: str) -> None:
    assert Names((root,), uploads).resolve(name).name == opened


@pytest.mark.parametrize(
    "name",
    ["", " ", "/etc/passwd", "/etc", "../secret/model", "away/model", "away", "~", "~/x", "~root",
     "org/model/../../../secret/model", "file:///etc/passwd", "./nothing", "a\0b", "ollama:llama3",
     "https://ollama.com/library/llama3", "https://huggingface.co/datasets/a/b", "ring",
     "away/model:Q4", "upload:nothing", "upload:../x", "http://127.0.0.1/x", "a b/c", "x" * 300],
)  # fmt: skip
def test_what_may_not_be_named(root: Path, uploads: Uploads, name: str) -> None:
    with pytest.raises(HurefError) as error:
        Names((root,), uploads).resolve(name)
    assert "secret" not in str(error.value).replace(name.strip(), "")


def test_a_refusal_does_not_say_whether_a_file_exists(root: Path, uploads: Uploads) -> None:
    said = []
    for name in (root.parent / "secret/model", root.parent / "secret/nothing"):
        with pytest.raises(HurefError) as error:
            Names((root,), uploads).resolve(str(name))
        said.append(str(error.value).replace(str(name), "NAME"))
    assert said[0] == said[1]


def test_a_second_root_is_read_too(root: Path, uploads: Uploads) -> None:
    names = Names((root, root.parent / "secret"), uploads)
    assert names.resolve("model").name == str(root.parent / "secret/model")
    assert names.resolve(str(root / "org/model")).name == str(root / "org/model")


def test_the_list_has_what_lies_below_the_root_alone(root: Path, uploads: Uploads) -> None:
    found = {one.name: one.kind for one in Names((root,), uploads).list_models()}
    assert found == {"one.gguf": "GGUF", "org/model": "model", "tagged": "model"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("link", "words"),
    [("config.json", "outside"), ("model.safetensors", "outside"), ("adapter", "outside")],
)
def test_a_confined_process_reads_nothing_outside(root: Path, link: str, words: str) -> None:
    """Neither by a link inside a model nor as the base that an adapter names."""
    model, secret = root / "org/model", root.parent / "secret/model"
    name = link
    if link == "adapter":
        (model / "config.json").unlink()
        (model / "model.safetensors").unlink()
        (model / "adapter_model.safetensors").write_bytes(b"x")
        (model / "adapter_config.json").write_text(f'{{"base_model_name_or_path": "{secret}"}}')
        opening = f"open_checkpoint({str(model)!r}).config"
    else:
        (model / link).unlink()
        (model / link).symlink_to(secret / link)
        opening = f"open_repository({str(model / link)!r}).open({name!r})"
    program = f"""
        from pathlib import Path
        from huref.errors import HurefError
        from huref.loader.checkpoint import open_checkpoint
        from huref.loader.confinement import confine
        from huref.loader.model_name import open_repository
        {opening if link == "model.safetensors" else "pass"}  # which a user may name outside
        confine([Path({str(root)!r})])
        try:
            {opening}
        except HurefError as error:
            print(error)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True
    )
    assert words in done.stdout, done.stderr


def send(uploads: Uploads, name: str, data: bytes) -> str:
    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(data), 1000):
            yield data[start : start + 1000]

    return anyio.run(uploads.save, name, chunks())


@pytest.mark.parametrize(
    "data", [b"", b"GIF89a", b"\0" * 5000, b"PK\x03\x04", b"{}", b"\x80\x04", b"GGUF" * 9]
)
def test_unreadable_drops_are_refused_and_leave_nothing(uploads: Uploads, data: bytes) -> None:
    with pytest.raises(HurefError, match="neither a fingerprint picture nor a record"):
        send(uploads, "some.png", data)
    assert [path.name for path in uploads.folder.iterdir()] == ["lock"]


def test_names_of_drops_cannot_lead_elsewhere(uploads: Uploads, root: Path) -> None:
    key = send(uploads, "../../\u202eevil\n.png", b"\x89PNG\r\n\x1a\n")
    upload = uploads.find(key)
    assert upload.path.parent == uploads.folder
    assert "/" not in upload.name
    assert "\n" not in upload.name
    assert Names((root,), uploads).resolve(key).name == str(upload.path)
    assert upload.path.stat().st_mode & 0o077 == 0
    uploads.close()
    assert not uploads.folder.exists()


def test_a_lost_connection_leaves_no_half_file(uploads: Uploads) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield b"\x89PNG\r\n\x1a\n"
        raise OSError(28, "No space left on device")

    with pytest.raises(HurefError, match="No space left"):
        anyio.run(uploads.save, "dog.png", chunks())
    assert [path.name for path in uploads.folder.iterdir()] == ["lock"]


def test_a_page_without_a_folder_for_uploads_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "home").write_bytes(b"a file")  # as good as a folder that may not be written
    monkeypatch.setenv("HUREF_HOME", str(tmp_path / "home"))
    result = CliRunner().invoke(main, ["serve", "--no-browser", "--port", "0"])
    assert result.exit_code == 1
    assert "no folder for uploads can be made" in result.stderr
    assert "HUREF_HOME" in result.stderr
    assert result.stdout == ""  # no address of a page that does not run
