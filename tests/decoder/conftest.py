from pathlib import Path

import pytest

from tests.support.nvidia_generator import install_nvidia_modules


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home folder of huref."""
    monkeypatch.setenv("HUREF_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def nvidia_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    """The modules that NVIDIA's pickles name, so that such pickles can be written."""
    install_nvidia_modules(monkeypatch)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a test writes a pickle."""
    return tmp_path / "network.pkl"
