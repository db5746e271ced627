"""What the command line owes its user, whatever happens: one line, no escapes, an exit code."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import huref.api.compare
import huref.loader.repository
from huref.api.open import picture_text
from huref.cli import main
from huref.errors import HurefError
from tests.support.hub_server import LoopbackHub

MakeModel = Callable[..., Path]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


def test_a_message_cannot_steer_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise HurefError("m.gguf: tensor '\x1b[2J\x07\udc80 é\n' is damaged")

    monkeypatch.setattr(huref.api.compare, "compare", refuse)
    result = run("compare", "a", "b")
    assert result.exit_code == 1
    assert result.stderr == "huref: m.gguf: tensor '\\x1b[2J\\x07\\udc80 é ' is damaged\n"


def test_ctrl_c_is_one_line_and_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(huref.api.compare, "compare", interrupt)
    result = run("compare", "a", "b")
    assert (result.exit_code, result.stderr) == (130, "huref: stopped\n")


@pytest.mark.skipif(os.name == "nt", reason="names are Unicode there")
@pytest.mark.parametrize("command", ["fingerprint", "compare", "attack"])
def test_a_name_that_is_no_unicode_is_refused(command: str) -> None:
    result = run(command, os.fsdecode(b"caf\xe9"), "b")
    assert result.exit_code == 1
    assert result.stderr == "huref: caf\\udce9: not valid Unicode; rename it\n"


def test_a_name_of_two_lines_is_drawn_as_one(make_llama: MakeModel, tmp_path: Path) -> None:
    folder = make_llama("model").rename(tmp_path / "two\nlines")
    assert run("fingerprint", folder, "-o", tmp_path / "dog.png", "--caption").exit_code == 0


def test_a_fleet_does_not_say_created_before_it_is(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("org/model\n")
    (tmp_path / "file").touch()
    result = run("fleet", tmp_path / "list.txt", "-o", tmp_path / "file" / "bases")
    assert result.exit_code == 1
    assert "created" not in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("url", ["http://", "http://[", "https://a:b/v1", "http://a:0"])
def test_a_url_is_checked_before_the_budget_is_asked_for(url: str) -> None:
    result = run("probe", "size", url)
    assert result.exit_code == 1
    assert "not a base URL" in result.stderr
    assert "requests" not in result.stderr


def test_a_folder_of_all_kinds_of_things_is_not_walked_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huref.loader.repository, "MOST_FILES", 20)
    for folder in range(5):
        (tmp_path / str(folder)).mkdir()
        for file in range(5):
            (tmp_path / str(folder) / str(file)).touch()
    result = run("fingerprint", tmp_path, "-o", tmp_path / "dog.png")
    assert result.exit_code == 1
    assert "more than 20 files" in result.stderr


def test_a_pictures_text_names_no_folder_of_another_machine(
    make_llama: MakeModel, tmp_path: Path
) -> None:
    from huref.api.open import open_record

    folder = make_llama("model")
    record = open_record(str(folder))
    folder.rename(tmp_path / "elsewhere")
    assert picture_text(record)["huref:model"] == "model"
    for name, shown in ((r"C:\Users\somebody\model", "model"), ("org/model", "org/model")):
        assert picture_text(replace(record, model=name))["huref:model"] == shown


@pytest.mark.slow
def test_a_folder_in_a_registry_is_never_taken_for_a_hub_id(
    make_llama: MakeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask(name: str, *_: object) -> None:
        raise AssertionError(f"the Hub was asked for {name}")

    monkeypatch.setattr("huref.loader.hub.repository.open_hub_repository", ask)
    folder = make_llama("model")
    (tmp_path / "org").mkdir()
    folder = folder.rename(tmp_path / "org" / "model")
    monkeypatch.chdir(tmp_path)
    uri = str(tmp_path / "bases")
    assert run("registry", "init", uri).exit_code == 0
    assert run("registry", "add", uri, "org/model").exit_code == 0
    monkeypatch.chdir("/")
    answer = json.loads(run("identify", folder, "--registry", uri, "--json").stdout)
    assert (answer["base"], answer["answer"]) == ("model", "descends")
    assert answer["candidates"][0]["ics"] == pytest.approx(1)
    moved = folder.rename(tmp_path / "org" / "elsewhere")
    answer = json.loads(run("identify", moved, "--registry", uri, "--json").stdout)
    assert answer["base"] == "model"
    assert "its folder is not known on this machine" in answer["why"]


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="signals are of another kind there")
def test_terminated_in_the_middle_it_leaves_nothing_behind(tmp_path: Path) -> None:
    code = (
        "import signal, sys, time; from pathlib import Path; import huref.api.compare;"
        "from huref.cli import main; from huref.files import replacing\n"
        # A job in the background of a script has Ctrl-C ignored, and so have its children.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "def slow(*_, **__):\n"
        "    with replacing(Path(sys.argv[-1]) / 'dog.png'):\n"
        "        print('writing', flush=True); time.sleep(60)\n"
        "huref.api.compare.compare = slow; main(['compare', 'a', 'b'])"
    )
    for number, line in ((signal.SIGTERM, b""), (signal.SIGINT, b"huref: stopped\n")):
        child = subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        assert child.stdout is not None
        child.stdout.readline()
        time.sleep(0.1)
        child.send_signal(number)
        _, err = child.communicate(timeout=20)
        assert child.returncode == 128 + number
        assert err in (line, b"huref: stopped\n")
        assert not list(tmp_path.iterdir())


def test_what_was_read_twice_is_no_share(
    hub: LoopbackHub, make_llama: MakeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huref.loader.formats.safetensors.FIRST_READ", 2**24)
    hub.add("org/tiny", make_llama("model", hidden_size=16, head_dim=8))
    result = run("fingerprint", "org/tiny", "-o", tmp_path / "dog.png")
    assert "bytes (some of them twice)" in result.stdout


ODD_ANSWERS: dict[str, tuple[dict[str, str], bytes, str]] = {
    "not what it says it is": ({"Content-Encoding": "gzip"}, b"no gzip", "the encoding 'gzip'"),
    "wait for days": ({"Retry-After": "999999"}, b"slow", "a Retry-After of 999,999 s"),
    "more than certain": (
        {},
        b'{"choices":[{"text":"a","logprobs":{"tokens":["a"],"token_logprobs":[1e300],'
        b'"top_logprobs":[{"token_id:1":1e300}]}}]}',
        "a log-probability is 1e+300",
    ),
}


@pytest.mark.parametrize("kind", ODD_ANSWERS)
def test_an_endpoint_of_odd_answers_gets_one_line(kind: str, tmp_path: Path) -> None:
    headers, body, wanted = ODD_ANSWERS[kind]
    status = 429 if "Retry-After" in headers else 200

    class Odd(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.do_GET()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Odd) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/v1"
        answers = tmp_path / "answers"
        result = run("probe", "size", url, "--model", "m", "--yes", "--answers", answers)
        server.shutdown()
    assert result.exit_code == 1
    assert wanted in result.stderr.splitlines()[-1]


def test_a_key_that_no_header_can_carry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEY", "ключ")
    result = run("probe", "size", "http://127.0.0.1:1/v1", "--yes", "--key-env", "SOME_KEY")
    wanted = "huref: the environment variable SOME_KEY has characters that are not allowed"
    assert result.stderr.startswith(wanted)


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="no limit for files there")
def test_a_full_disk_is_one_line_and_costs_a_comparison_only_its_cache(
    make_llama: MakeModel, tmp_path: Path
) -> None:
    folder = str(make_llama("model"))
    code = (
        "import resource, signal, sys; from huref.cli import main;"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000)); main(sys.argv[1:])"
    )
    environment = os.environ | {"HUREF_HOME": str(tmp_path / "home")}
    out, record = tmp_path / "dog.png", tmp_path / "record.safetensors"
    for arguments, wanted in (
        (["fingerprint", folder, "-o", str(out), "--record", str(record)], 1),
        (["compare", folder, folder], 0),
    ):
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            capture_output=True, text=True, env=environment, check=False,
        )  # fmt: skip
        assert done.returncode == wanted, done.stderr
        assert len(done.stderr.splitlines()) == wanted
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "model"]
