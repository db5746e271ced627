"""The picture of an endpoint: unrelated models differ, and the PNG is marked as an endpoint's."""

from pathlib import Path

import numpy as np
from click.testing import CliRunner
from PIL import Image

from huref.cli import main
from tests.support.zoo import ZOO


def test_signatures_of_unrelated_models_have_different_pictures(tmp_path: Path) -> None:
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
    assert difference > 10, "unrelated models must not look alike"
