"""The layers of the encoder's networks."""

import pytest
import torch

from huref.encoder.network import FingerprintCNN, PaperCNN, Temper
from huref.invariants.terms import standardise


def test_omitted_parts_of_the_published_kernels_meet_only_padding() -> None:
    network = PaperCNN(256, (2, 2, 2))
    x = torch.randn(2, 6, 256, 256, generator=torch.Generator().manual_seed(4))
    sizes = []
    for layer in network.layers:
        if isinstance(layer, torch.nn.Conv2d):
            sizes.append(layer.kernel_size[0])
            whole = torch.nn.Conv2d(layer.in_channels, layer.out_channels, 48, 4, padding=22)
            edge = (48 - sizes[-1]) // 2
            weight = whole.weight.detach()
            weight[..., edge : 48 - edge, edge : 48 - edge] = layer.weight.detach()
            assert layer.bias is not None
            whole.bias = layer.bias
            torch.testing.assert_close(layer(x), whole(x), rtol=1e-4, atol=1e-5)
        x = layer(x)
    assert sizes == [48, 48, 28, 4]
    assert x.shape[-1] == 1


def test_tempering_limits_heavy_anchors() -> None:
    generator = torch.Generator().manual_seed(8)
    scale = torch.ones(64, 1)
    scale[:4] = 10.0
    base, other = (torch.randn(2, 3, 64, 64, generator=generator) * scale for _ in range(2))
    changed = base.clone()
    changed[..., :4, :] = other[..., :4, :]  # four of 64 anchors are other tokens

    def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
        return float(torch.cosine_similarity(a.flatten(), b.flatten(), dim=0))

    temper = Temper()
    with torch.no_grad():
        after = [temper(standardise(t)) for t in (base, changed)]
        assert torch.equal(temper(-standardise(base)), -after[0])  # odd
    torch.testing.assert_close(after[0].square().mean((-2, -1)), torch.ones(2, 3))
    assert cosine(base, changed) < 0.3
    assert cosine(*after) > 0.5


def test_kernels_start_orthonormal_so_that_an_untrained_network_is_an_isometry() -> None:
    network = FingerprintCNN(32, (64,), (8, 4), temper=False, share_blocks=False)
    noise = torch.randn(64, 2, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    latents = network(noise).detach()
    assert latents.shape == (64, 512)
    assert float(latents.square().mean()) == pytest.approx(1.0, abs=0.02)


def test_a_latent_has_the_same_bits_with_one_thread_and_with_two() -> None:
    """A mean to a single number is added up in other parts by other numbers of threads."""
    network = FingerprintCNN().eval()
    before = torch.get_num_threads()
    try:
        for seed in range(6):
            terms = torch.randn(1, 2, 3, 512, 512, generator=torch.Generator().manual_seed(seed))
            found = []
            for threads in (1, 2):
                torch.set_num_threads(threads)
                with torch.no_grad():
                    found.append(network(terms.pow(3)))
            assert torch.equal(*found)
    finally:
        torch.set_num_threads(before)
