"""The picture of an endpoint: unrelated models differ; it is marked as an endpoint's and sealed."""

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from huref.cli import main
from huref.decoder.picture import read_png, write_png
from huref.evidence.seal import seal_text
from tests.support.timestamp_server import openssl
from tests.support.zoo import ZOO


@pytest.mark.slow
def test_signatures_of_unrelated_models_have_different_pictures(tmp_path: Path) -> None:
    pictures = []
    private, public = tmp_path / "key.pem", tmp_path / "key.pub"
    openssl("genpkey", "-algorithm", "ed25519", "-out", private)
    openssl("pkey", "-in", private, "-pubout", "-out", public)
    key = ["--key", str(private)]
    for name in ("llama-a", "llama-b"):
        out, png = tmp_path / f"{name}.sig", tmp_path / f"{name}.png"
        arguments = ["probe", "signature", str(ZOO / name), "--yes", "-o", str(out)]
        result = CliRunner().invoke(main, [*arguments, "--picture", str(png), *key])
        assert result.exit_code == 0, result.output
        with Image.open(png) as image:
            assert image.info["huref:kind"] == "endpoint"
            pictures.append(np.asarray(image.convert("RGB")).astype(float))
    difference = np.abs(pictures[0] - pictures[1]).mean()
    assert difference > 10, "unrelated models must not look alike"
    assert str(ZOO) not in Path(png).read_bytes().decode("latin-1")
    holds = CliRunner().invoke(main, ["verify", str(png), "--key", str(public)])
    assert (holds.exit_code, holds.stdout.count("holds")) == (0, 3), holds.output
    for command in (["compare", str(png), str(ZOO / "llama-a")], ["fingerprint", str(png)]):
        refused = CliRunner().invoke(main, command)
        assert (refused.exit_code, refused.stderr.count("\n")) == (1, 1), refused.output
        assert "the picture of an endpoint" in refused.stderr
    text, pixels = read_png(png)
    edits = [(text | {name: text[name] + "A"}, pixels) for name in text]
    edits += [({n: t for n, t in text.items() if n != name}, pixels) for name in text]
    changed = pixels.copy()
    changed[9, 9] ^= 4
    unsealed = {n: t for n, t in text.items() if n not in ("huref:digest", "huref:signature")}
    edits += [(text, changed), (seal_text(unsealed, changed), changed)]
    for edited, picture in edits:
        write_png(png, picture, edited)
        result = CliRunner().invoke(main, ["verify", str(png), "--key", str(public)])
        assert result.exit_code in (1, 3), (set(text.items()) ^ set(edited.items()), result.output)
