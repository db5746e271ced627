"""A short forward pass: what each head, hidden unit and block does on a text.

The canonical blocks that are read anyway run in float32 over a few short sequences of token ids,
one block after the other, so that only one is in memory. What is measured of a block is data
(`BlockUse`); the residual stream stays in the pass. See docs/maths.md, Function.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from huref.architecture.block import Attention, FeedForward, LatentAttention, Mixture
from huref.architecture.reader import ModelReader
from huref.architecture.running import Running, running

TINY = 1e-30
WIDEST = 2048  # width up to which directions that nothing writes are looked for in every basis
UNWRITTEN = 1e-4  # of the upper quartile of the energies; a mean would be that of outliers


# Called with the number of an expert (-1: shared), the network, its use and its routing mass.
Observer = Callable[[int, FeedForward, "UnitUse", float], None]


class StreamOverflowError(ArithmeticError):
    """The residual stream became infinite or NaN; weights are then weighed as they stand."""


@dataclass(frozen=True)
class HalfUse:
    """What one half of a block writes on the text.

    Attributes:
        share: norm of what it writes over the norm of the stream that it reads, a mean over tokens.
        token_share: the same for the parts of both within the span of the anchors' embeddings.
    """

    share: float
    token_share: float


@dataclass(frozen=True)
class UnitUse:
    """What the hidden units of one network do on the text.

    Attributes:
        active: root mean square of each unit's activation, (units,).
        shares: share of each unit in what the network writes, (units,): the inner product of its
            output with the sum of all, over the squared norm of the sum. They sum to one.
    """

    active: Tensor
    shares: Tensor


@dataclass(frozen=True)
class BlockUse:
    """What a block does on the text.

    Attributes:
        attention, ffn: what each half writes.
        heads: (heads,), the share of each query head in what attention writes: the inner product
            of the head's output with the sum of all, over the squared norm of the sum. They sum to
            one, whatever cancels.
        head_energy: (heads,), the root mean square of each head's output over the stream's norm.
        units: by the number of the network, -1 where every token passes it.
        routing: mean probability with which a token takes each expert, (experts,), or None.
        experts_agree: of a mixture, the norm of what its experts write together over the root of
            the sum of their squared norms: near zero where they cancel; 1 otherwise.
    """

    attention: HalfUse
    ffn: HalfUse
    heads: Tensor
    head_energy: Tensor
    units: dict[int, UnitUse]
    routing: Tensor | None = None
    experts_agree: float = 1.0

    @property
    def share(self) -> float:
        """The larger share of the two halves; of each the smaller of its two figures."""
        halves = (self.attention, self.ffn)
        return max(min(half.share, half.token_share) for half in halves)


class ForwardPass:
    """The residual stream of some sequences on their way through a model's blocks.

    Args:
        reader: the model.
        ids: token ids, (sequences, length); every sequence begins as the model's texts begin.
        basis: orthonormal rows (k, d) that span the anchors' embeddings.
        embedded: embeddings of many tokens (n, d), from which unwritten directions are told.
    """

    def __init__(self, reader: ModelReader, ids: Tensor, basis: Tensor, embedded: Tensor):
        self.reader, self.ids, self._basis = reader, ids, basis
        self.shape = (ids.shape[0], ids.shape[1])
        distinct, places = torch.unique(ids.flatten(), return_inverse=True)
        rows = reader.embeddings(distinct.tolist())
        learned = reader.read_positions(self.shape[1])
        self.running: Running = running(
            reader.layout, reader.config, rows.shape[1], learned is not None
        )
        self.x = rows[places] * self.running.embedding_scale  # (sequences * length, d)
        if learned is not None and learned.shape[1] == self.x.shape[1]:
            self.x = self.x + learned.repeat(self.shape[0], 1)
        # Energy of what is written to each direction of the stream: (d, d), or its diagonal (d,).
        self._written = self._energy(embedded, torch.full((len(embedded),), 1 / len(embedded)))
        # The first token of a text attends to itself alone and often holds a huge constant.
        self.counted = torch.ones(self.shape, dtype=torch.bool)
        self.counted[:, 0] = False
        self.counted = self.counted.flatten()

    @property
    def exact(self) -> bool:
        """Whether hidden states of this family are known to agree with the module's."""
        return self.running.exact

    def run(
        self,
        index: int,
        attention: Attention | LatentAttention,
        ffn: FeedForward | Mixture,
        observe: Observer | None = None,
    ) -> BlockUse:
        """Run one block and move the stream past it.

        Args:
            index: of the block.
            attention: of the block.
            ffn: of the block.
            observe: is shown each network of a mixture while it is in memory.

        Raises:
            StreamOverflowError: a number overflows.
        """
        start = self.x
        self._pending: list[tuple[Tensor, Tensor]] = []
        written, heads, energy = self._attend(index, attention)
        self._check(written)
        middle = start if self.running.parallel else self._added(index, "attention", start, written)
        output, units, routing, agree = self._feed(index, middle, ffn, observe)
        self._check(output)
        if self.running.parallel:
            after = start + self.running.residual_scale * (written + output)
        else:
            after = self._added(index, "ffn", middle, output)
        halves = self._half(written, start), self._half(output, middle)
        use = BlockUse(*halves, heads, energy, units, routing, agree)
        stream = start.square().sum(dim=1).mean()
        for rows, weights in self._pending:
            self._written = self._written + self._energy(rows, weights * stream)
        self._pending = []
        self.x = after
        return use

    @property
    def written(self) -> Tensor:
        """Energy of what was written to each direction so far; to be given to `forget`."""
        return self._written

    def forget(self, written: Tensor) -> None:
        """Set the energies back to what they were, where blocks undid each other since."""
        self._written = written

    def _energy(self, rows: Tensor, weights: Tensor) -> Tensor:
        """Sum of w x x^T over rows x (n, d), or its diagonal for a wide stream."""
        if rows.shape[1] > WIDEST:
            return weights @ rows.square()
        return rows.T @ (weights[:, None] * rows)

    def unwritten(self) -> Tensor:
        """Orthonormal rows (n, d): directions that neither embeddings nor earlier blocks use.

        In a stream wider than WIDEST only whole dimensions are found.
        """
        if self._written.ndim == 1:
            unused = self._written < UNWRITTEN * self._written.quantile(0.75)
            return torch.eye(len(unused))[unused]
        energies, directions = torch.linalg.eigh(self._written.double())
        unused = energies < UNWRITTEN * energies.quantile(0.75)
        found: Tensor = directions[:, unused].T.float()
        return found

    def _check(self, values: Tensor) -> None:
        if not torch.isfinite(values).all():
            raise StreamOverflowError

    def _half(self, written: Tensor, stream: Tensor) -> HalfUse:
        scaled = self.running.residual_scale * written[self.counted]
        read = stream[self.counted]
        ratio = scaled.norm(dim=1) / read.norm(dim=1).clamp(min=TINY)
        within = (scaled @ self._basis.T).norm(dim=1)
        within = within / (read @ self._basis.T).norm(dim=1).clamp(min=TINY)
        return HalfUse(float(ratio.mean()), float(within.mean()))

    def normal(self, x: Tensor) -> Tensor:
        """The stream as a norm without a gain lets it in."""
        if self.reader.layout.norms.kind == "layernorm":
            x = x - x.mean(dim=1, keepdim=True)
        normal: Tensor = x * (x.square().mean(dim=1, keepdim=True) + self.running.epsilon).rsqrt()
        return normal

    def _reads(self, half: str, x: Tensor) -> Tensor:
        """What a half reads of the stream."""
        norms = self.reader.layout.norms
        own = norms.attention if half == "attention" else norms.ffn
        out = norms.attention_out if half == "attention" else norms.ffn_out
        if norms.place == "after" or (out and not own):  # the norm follows, or is on the output
            return x
        return self.normal(x)

    def _out(self, index: int, half: str, written: Tensor) -> Tensor:
        """Apply the norm on what a half writes, whose gain is already folded in."""
        gains = self.reader.gains(index, half)
        gain = gains.get(f"{half}_out")
        if gain is None:
            return written
        safe = torch.where(gain.abs() > TINY, gain, torch.ones_like(gain))
        return self.normal(written / safe) * gain

    def _added(self, index: int, half: str, x: Tensor, written: Tensor) -> Tensor:
        total = x + self.running.residual_scale * written
        if self.reader.layout.norms.place != "after":
            return total
        gain = self.reader.gains(index, half).get(half)
        normal = self.normal(total)
        return normal if gain is None else normal * gain

    def _attend(
        self, index: int, attention: Attention | LatentAttention
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What attention writes (tokens, d), each head's share in it, and each head's energy."""
        sequences, length = self.shape
        x = self._reads("attention", self.x)
        queries, keys = attention.features(x, biased=True)
        values = attention.values(x, biased=True)
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
        mixed = scores.masked_fill(hidden, -torch.inf).softmax(dim=-1) @ v
        by_head = mixed.transpose(1, 2).flatten(0, 1)  # (tokens, heads, v_head_dim)
        o = attention.o.reshape(heads, -1, attention.o.shape[1])
        written = by_head.flatten(1) @ attention.o
        bias = attention.biases.get("o") if isinstance(attention, Attention) else None
        stream = self.x[self.counted].norm(dim=1, keepdim=True).clamp(min=TINY)
        total = written[self.counted] / stream
        # <z_h o_h, total> = <z_h, total o_h^T>, without each head's output.
        shares, energies = torch.empty(heads), torch.empty(heads)
        for head in range(heads):
            z = by_head[self.counted, head] / stream
            shares[head] = (z * (total @ o[head].T)).sum()
            gram = o[head] @ o[head].T
            energies[head] = ((z @ gram) * z).sum().clamp(min=0)
            self._pending.append((o[head], z.square().mean(dim=0)))
        energies = (energies / max(int(self.counted.sum()), 1)).sqrt()
        whole = total.square().sum().clamp(min=TINY)
        if bias is not None:
            written = written + bias * self._gain_of_bias(index, "attention", bias)
        return self._out(index, "attention", written), shares / whole, energies

    def _gain_of_bias(self, index: int, half: str, bias: Tensor) -> Tensor:
        gain = self.reader.gains(index, half).get(f"{half}_out")
        return torch.ones_like(bias) if gain is None else gain

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

    def _feed(
        self, index: int, stream: Tensor, ffn: FeedForward | Mixture, observe: Observer | None
    ) -> tuple[Tensor, dict[int, UnitUse], Tensor | None, float]:
        """What the feed-forward half writes, its units, the routing, and how far experts agree."""
        x = self._reads("ffn", stream)
        scale = stream[self.counted].norm(dim=1, keepdim=True).clamp(min=TINY)
        if isinstance(ffn, FeedForward):
            output, use = self._network(x, ffn, scale)
            return self._out(index, "ffn", output), {-1: use}, None, 1.0
        units: dict[int, UnitUse] = {}
        output = torch.zeros_like(x)
        if ffn.shared is not None:
            output, units[-1] = self._network(x, ffn.shared, scale)
            if observe is not None:
                observe(-1, ffn.shared, units[-1], 1.0)
        routing = self._route(index, x, ffn.count)
        routed, alone = torch.zeros_like(x), 0.0
        for expert in range(ffn.count):
            network = ffn.read(expert)
            written, units[expert] = self._network(x, network, scale)
            if observe is not None:
                mass = float(routing[self.counted, expert].mean())
                observe(expert, network, units[expert], mass)
            weighed = routing[:, expert, None] * written
            routed = routed + weighed
            alone += float(weighed.square().sum())
        agree = float(routed.norm()) / max(alone**0.5, TINY)
        masses = routing[self.counted].mean(dim=0)
        return self._out(index, "ffn", output + routed), units, masses, agree

    def _network(self, x: Tensor, network: FeedForward, scale: Tensor) -> tuple[Tensor, UnitUse]:
        """What a network writes, and what its units do; `scale` is the norm of the stream."""
        up = x @ network.up
        if "up" in network.biases:
            up = up + network.biases["up"]
        if network.gate is None:
            active = hidden = self.running.activation(up)
        else:
            gate = x @ network.gate
            if "gate" in network.biases:
                gate = gate + network.biases["gate"]
            active = self.running.activation(gate)
            hidden = active * up
        output = hidden @ network.down
        own, total = hidden[self.counted] / scale, output[self.counted] / scale
        self._pending.append((network.down, own.square().mean(dim=0)))
        shares = (own * (total @ network.down.T)).sum(dim=0)
        shares = shares / total.square().sum().clamp(min=TINY)
        if "down" in network.biases:
            output = output + network.biases["down"]
        return output, UnitUse(active[self.counted].square().mean(dim=0).sqrt(), shares)

    def _route(self, index: int, x: Tensor, count: int) -> Tensor:
        """The weight of each expert for each token, (tokens, experts); even without a router."""
        router = self.reader.read_router(index)
        if router is None or router.shape != (x.shape[1], count):
            return torch.full((len(x), count), 1 / count)
        config = self.reader.config
        chosen = config.get("num_experts_per_tok") or config.get("moe_topk") or count
        chosen = min(int(chosen), count) if isinstance(chosen, int) else count
        probabilities = (x @ router).softmax(dim=1)
        kept, places = probabilities.topk(chosen, dim=1)
        if config.get("norm_topk_prob", True):
            kept = kept / kept.sum(dim=1, keepdim=True)
        return torch.zeros_like(probabilities).scatter(1, places, kept)


def _alibi(heads: int, length: int) -> Tensor:
    """Press, Smith and Lewis's linear biases, (heads, length, length)."""
    closest = 2 ** (heads.bit_length() - 1)
    slopes = [2 ** (-8 * (i + 1) / closest) for i in range(closest)]
    slopes += [2 ** (-4 * (2 * i + 1) / closest) for i in range(heads - closest)]
    distance = torch.arange(length)[None] - torch.arange(length)[:, None]
    return torch.tensor(slopes)[:, None, None] * distance


def row_space(E: Tensor) -> Tensor:
    """Orthonormal rows (k, d) that span the rows of whitened embeddings E (m, d)."""
    squared, vectors = torch.linalg.eigh((E @ E.T).double())
    kept = squared > 1e-3 * squared.mean()
    basis: Tensor = (vectors[:, kept].T @ E.double()) / squared[kept, None].sqrt()
    return basis.float()
