"""The arithmetic of one block on the residual stream of some sequences, without any measuring.

All functions can be differentiated: `huref.invariants.effect` runs them backwards.
"""

import torch
from torch import Tensor

from huref.architecture.block import Attention, FeedForward, LatentAttention
from huref.architecture.reader import ModelReader
from huref.architecture.running import Running

TINY = 1e-30


class BlockRunner:
    """Runs the parts of a model's blocks on streams (sequences * length, d) float32.

    Args:
        reader: the model.
        running: its activation, positions and scales.
        shape: (sequences, length).
    """

    def __init__(self, reader: ModelReader, running: Running, shape: tuple[int, int]):
        self.reader, self.running, self.shape = reader, running, shape

    def normal(self, x: Tensor) -> Tensor:
        """The stream as a norm without a gain lets it in."""
        if self.reader.layout.norms.kind == "layernorm":
            x = x - x.mean(dim=1, keepdim=True)
        normal: Tensor = x * (x.square().mean(dim=1, keepdim=True) + self.running.epsilon).rsqrt()
        return normal

    def reads(self, half: str, x: Tensor) -> Tensor:
        """What a half, "attention" or "ffn", reads of the stream."""
        norms = self.reader.layout.norms
        own = norms.attention if half == "attention" else norms.ffn
        out = norms.attention_out if half == "attention" else norms.ffn_out
        if norms.place == "after" or (out and not own):  # the norm follows, or is on the output
            return x
        return self.normal(x)

    def out(self, index: int, half: str, written: Tensor) -> Tensor:
        """Apply the norm on what a half writes, whose gain is already folded in."""
        gain = self.reader.gains(index, half).get(f"{half}_out")
        if gain is None:
            return written
        safe = torch.where(gain.abs() > TINY, gain, torch.ones_like(gain))
        return self.normal(written / safe) * gain

    def added(self, index: int, half: str, x: Tensor, written: Tensor) -> Tensor:
        """The stream after what a half writes was added to it."""
        total = x + self.running.residual_scale * written
        if self.reader.layout.norms.place != "after":
            return total
        gain = self.reader.gains(index, half).get(half)
        normal = self.normal(total)
        return normal if gain is None else normal * gain

    def mix_heads(
        self, index: int, attention: Attention | LatentAttention, x: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Values mixed by attention of the stream x, (tokens, heads, v_head_dim), and how.

        The second is the weight of each earlier token, (sequences, heads, length, length). Biases
        of values are left to `finish_attention`, so that a head is no louder for them.
        """
        sequences, length = self.shape
        x = self.reads("attention", x)
        queries, keys = attention.features(x, biased=True)
        values = attention.values(x)
        heads, size = queries.shape[1:]
        if keys.shape[1] != heads:
            keys = keys.repeat_interleave(heads // keys.shape[1], dim=1)
        if values.shape[1] != heads:
            values = values.repeat_interleave(heads // values.shape[1], dim=1)
        q, k, v = (
            part.reshape(sequences, length, heads, -1).transpose(1, 2)
            for part in (queries, keys, values)
        )
        rotary = attention.k_rope.shape[1] if isinstance(attention, LatentAttention) else size
        q, k = (self._rotate(index, part, rotary) for part in (q, k))
        scores = (q @ k.mT) * self.running.score_scale(index, size)
        if self.running.softcap:
            scores = torch.tanh(scores / self.running.softcap) * self.running.softcap
        if self.running.positions == "alibi":
            scores = scores + _alibi(heads, length)
        hidden = torch.ones(length, length, dtype=torch.bool).triu(1)
        pattern = scores.masked_fill(hidden, -torch.inf).softmax(dim=-1)
        mixed: Tensor = (pattern @ v).transpose(1, 2).flatten(0, 1)
        return mixed, pattern

    def finish_attention(
        self, index: int, attention: Attention | LatentAttention, written: Tensor
    ) -> Tensor:
        """What attention writes to the stream, (tokens, d), from mixed values times o."""
        biases = attention.biases if isinstance(attention, Attention) else {}
        if isinstance(attention, Attention) and "v" in biases:
            written = written + attention.written_bias()
        if (bias := biases.get("o")) is not None:
            gain = self.reader.gains(index, "attention").get("attention_out")
            written = written + (bias if gain is None else bias * gain)
        return self.out(index, "attention", written)

    def gates(self, x: Tensor, network: FeedForward) -> Tensor:
        """What the activation is taken of, gate or else up, (tokens, units)."""
        role, weight = ("up", network.up) if network.gate is None else ("gate", network.gate)
        y = x @ weight
        return y + network.biases[role] if role in network.biases else y

    def activate(
        self, x: Tensor, network: FeedForward, gates: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Activations of `gates` and hidden states, (tokens, units) each."""
        active = self.running.activation(self.gates(x, network) if gates is None else gates)
        if network.gate is None:
            return active, active
        up = x @ network.up
        if "up" in network.biases:
            up = up + network.biases["up"]
        return active, active * up

    def route(self, index: int, x: Tensor, count: int) -> Tensor:
        """The weight of each expert for each token, (tokens, experts); even without a router.

        What the family multiplies all routed experts by is in the weights.
        """
        router = self.reader.read_router(index)
        if router is None or router.weight.shape != (x.shape[1], count):
            return torch.full((len(x), count), self.running.routed_scale / count)
        return router.weigh(x)

    def _rotate(self, index: int, features: Tensor, rotary: int) -> Tensor:
        """Rotary positions on (sequences, heads, length, n); of a latent's head the last part."""
        size = features.shape[3]
        rotation = self.running.rotation(index, rotary, self.shape[1])
        if rotation is None:
            return features
        cosines, sines = rotation
        start, span = size - rotary, 2 * cosines.shape[1]
        part = features[..., start : start + span]
        if self.running.interleaved:
            first, second = part[..., 0::2], part[..., 1::2]
        else:
            first, second = part.chunk(2, dim=-1)
        a = first * cosines - second * sines
        b = second * cosines + first * sines
        turned = torch.stack([a, b], -1).flatten(-2) if self.running.interleaved else None
        joined = torch.cat([a, b], dim=-1) if turned is None else turned
        return torch.cat([features[..., :start], joined, features[..., start + span :]], dim=-1)


def _alibi(heads: int, length: int) -> Tensor:
    """Press, Smith and Lewis's linear biases, (heads, length, length)."""
    closest = 2 ** (heads.bit_length() - 1)
    slopes = [2 ** (-8 * (i + 1) / closest) for i in range(closest)]
    slopes += [2 ** (-4 * (2 * i + 1) / closest) for i in range(heads - closest)]
    distance = torch.arange(length)[None] - torch.arange(length)[:, None]
    return torch.tensor(slopes)[:, None, None] * distance
