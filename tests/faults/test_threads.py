"""A model has the same bits of terms and latent with one thread and with two."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from huref.api.open import open_record
from huref.api.picture import draw_latent
from huref.recipe import load_recipe
from tests.support.zoo import ZOO


@pytest.fixture
def threads() -> Iterator[tuple[int, ...]]:
    before = torch.get_num_threads()
    yield (1, 2)
    torch.set_num_threads(before)


@pytest.mark.slow
def test_bits_do_not_depend_on_the_number_of_threads(threads: tuple[int, ...]) -> None:
    decoder = load_recipe()[2]
    records, pictures = [], []
    for count in threads:
        torch.set_num_threads(count)
        record = open_record(str(ZOO / "llama-a-finetune"))
        assert record.latent is not None
        records.append(record.contents()[0])
        pictures.append(draw_latent(record.latent, decoder))
        assert torch.get_num_threads() == count
    assert [name for name in records[0] if not torch.equal(*(r[name] for r in records))] == []
    levels = np.abs(pictures[0].astype(int) - pictures[1].astype(int))
    assert levels.max() <= 1  # of 255: products of the decoder are rounded by threads
