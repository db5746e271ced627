"""Decoder files: reproducible pictures, and refusal of damaged files."""

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from huref.decoder.render import load_decoder, save_decoder, to_bytes
from huref.decoder.stylegan2 import Generator
from huref.errors import CheckpointDigestError
from tests.support.small_generator import small_generator
from tests.support.zoo import ROOT

METADATA = {"name": "test", "licence": "none", "psi": 0.7, "cutoff": 3, "lr_mul": 0.5}


def test_decoder_file_gives_the_same_bytes_whatever_the_batch(tmp_path: Path) -> None:
    path = tmp_path / "decoder.safetensors"
    saved = save_decoder(path, small_generator().state_dict(), METADATA | {"clamp": 256.0})
    decoder = load_decoder(path)
    assert decoder.digest == saved.digest
    assert len(decoder.digest) == 64
    z = torch.randn(5, 24)
    images = decoder.render(z)
    assert images.shape == (5, 16, 16, 3)
    assert images.dtype == np.uint8
    assert np.array_equal(images[3:4], load_decoder(path).render(z[3:4]))
    assert np.array_equal(images, decoder.render(2.5 * z)), "only the direction of z matters"
    assert not np.array_equal(images[0], images[1])
    half = {k: v.half().float() for k, v in small_generator().state_dict().items()}
    expected = Generator.from_state(half, lr_mul=0.5, clamp=256.0)(z, 0.7, 3)
    assert np.abs(images.astype(int) - to_bytes(expected).numpy().astype(int)).max() <= 1


def test_another_machine_may_differ_by_one_level_at_most(tmp_path: Path) -> None:
    """Machines differ in the order of sums; here threads and memory layout change that order."""
    decoder = save_decoder(tmp_path / "d", small_generator().state_dict(), METADATA)
    z = torch.randn(4, 24)
    images = decoder.render(z).astype(int)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1 if threads > 1 else 2)
        assert np.abs(decoder.render(z) - images).max() <= 1
    finally:
        torch.set_num_threads(threads)
    exact = decoder.generator.double()(z.double(), 0.7, 3)
    assert np.abs(to_bytes(exact).numpy() - images).max() <= 1


def test_another_setting_is_another_digest(tmp_path: Path) -> None:
    state = small_generator().state_dict()
    one = save_decoder(tmp_path / "a", state, METADATA | {"clamp": None})
    other = save_decoder(tmp_path / "b", state, METADATA | {"clamp": None, "psi": 0.6})
    assert one.digest != other.digest


@pytest.mark.parametrize("shape", [(24,), (1, 23), (1, 24, 1)])
def test_latents_of_another_shape_are_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    decoder = save_decoder(tmp_path / "d", small_generator().state_dict(), METADATA)
    with pytest.raises(ValueError, match="latents"):
        decoder.render(torch.zeros(shape))
    with pytest.raises(ValueError, match="finite"):
        decoder.render(torch.full((1, 24), math.nan))


def test_files_that_are_not_decoders_are_refused(tmp_path: Path) -> None:
    good = tmp_path / "good.safetensors"
    save_decoder(good, small_generator().state_dict(), METADATA)
    tensors = load_file(good)
    bad = tmp_path / "bad.safetensors"

    def refused(match: str) -> None:
        with pytest.raises(CheckpointDigestError, match=match) as caught:
            load_decoder(bad)
        assert "\n" not in str(caught.value)

    refused("not a readable decoder")  # there is no such file
    bad.write_bytes(b"not safetensors")
    refused("not a readable decoder")
    bad.write_bytes(good.read_bytes()[:-100])
    refused("not a readable decoder")
    save_file(tensors, bad)
    refused("not a decoder of huref")
    save_file(tensors, bad, metadata={"format": "huref decoder 1", "psi": "{"})
    refused("metadata")
    altered = bytearray(good.read_bytes())
    altered[-1] ^= 1
    bad.write_bytes(altered)
    refused("altered")
    for wrong, match in (
        ({"psi": "much"}, "numbers"),
        ({"lr_mul": None}, "numbers"),
        ({"cutoff": 1.5}, "cutoff"),
    ):
        with pytest.raises(CheckpointDigestError, match=match):
            save_decoder(bad, small_generator().state_dict(), METADATA | wrong)
    state = small_generator().state_dict() | {"mapping.w_avg": torch.full((16,), math.inf)}
    with pytest.raises(CheckpointDigestError, match="infinite"):
        save_decoder(bad, state, METADATA)


def test_loading_a_decoder_does_not_import_the_compiler() -> None:
    """torch._dynamo and SymPy take a second each; torch imports them for arithmetic on "meta"."""
    program = f"""
import sys
from huref.decoder.render import load_decoder
load_decoder({str(ROOT / "checkpoints" / "decoder.safetensors")!r})
assert not {{"torch._dynamo", "sympy"}} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert (done.returncode, done.stderr.decode()) == (0, "")
