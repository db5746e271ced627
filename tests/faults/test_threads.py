"""The same machine gives the same bits, whatever the number of threads and whatever else runs."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from huref.threads import THREADS, fixed_threads
from tests.support.zoo import ZOO

CODE = """
import hashlib, sys, huref
for model in sys.argv[1:]:
    made = huref.fingerprint(model)
    for part in (made.latent, made.record.terms.numpy(), made.image):
        print(hashlib.sha256(part.tobytes()).hexdigest())
"""


def _digests(model: Path, threads: int | None, one_core: bool = False) -> str:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "MKL_"))}
    if threads is not None:
        environment |= {"OMP_NUM_THREADS": str(threads)}
    command = [sys.executable, "-c", CODE, str(model)]
    if one_core:
        command = ["taskset", "-c", "0", *command]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return done.stdout


def test_threads_and_cores_change_no_bit() -> None:
    model = ZOO / "llama-b"
    expected = _digests(model, 1)
    assert expected.count("\n") == 3
    assert _digests(model, 3) == expected
    if shutil.which("taskset"):
        assert _digests(model, None, one_core=True) == expected


def test_the_users_number_of_threads_is_restored() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with fixed_threads():
            assert torch.get_num_threads() == THREADS
            with fixed_threads():
                assert torch.get_num_threads() == THREADS
            assert torch.get_num_threads() == THREADS
        assert torch.get_num_threads() == 3
        with pytest.raises(ValueError, match="x"), fixed_threads():
            raise ValueError("x")
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
