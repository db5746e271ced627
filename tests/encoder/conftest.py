import pytest
import torch

from huref.encoder import Encoder, load_encoder
from huref.encoder.embeddings import EmbeddingPool
from huref.encoder.synthetic import Family
from tests.support.zoo import ROOT


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return load_encoder(ROOT / "checkpoints" / "encoder.safetensors")


@pytest.fixture(scope="module")
def families() -> list[Family]:
    generator = torch.Generator().manual_seed(77)
    pool = EmbeddingPool(2, 512, [96, 384], seed=77)
    return [Family(pool, generator) for _ in range(6)]


@pytest.fixture(scope="module")
def bases(families: list[Family]) -> torch.Tensor:
    return torch.stack([family.base() for family in families])
