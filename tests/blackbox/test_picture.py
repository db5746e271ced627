"""The dog of an endpoint: strangers differ, and the picture says what it is of."""

from pathlib import Path

import numpy as np
from click.testing import CliRunner
from PIL import Image

from huref.cli import main
from tests.support.zoo import ZOO


def test_a_signature_has_a_dog_of_its_own_kind(tmp_path: Path) -> None:
    pictures = []
    for name in ("llama-a", "llama-b"):
        out, png = tmp_path / f"{name}.sig", tmp_path / f"{name}.png"
        arguments = ["probe", "signature", str(ZOO / name), "--yes", "-o", str(out)]
        result = CliRunner().invoke(main, [*arguments, "--picture", str(png)])
        assert result.exit_code == 0, result.output
        with Image.open(png) as image:
            assert image.info["huref:kind"] == "endpoint"
            pictures.append(np.asarray(image.convert("RGB")).astype(float))
    difference = np.abs(pictures[0] - pictures[1]).mean()
    assert difference > 10, "strangers must not look alike"
