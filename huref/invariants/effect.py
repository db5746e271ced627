"""What heads and hidden units add to a model's logits, by one pass backwards.

Let g be the gradient, with respect to the stream, of a sum of the logits of all positions under
random signs. What a part writes, z (tokens, d), then adds

    (g . z)_t      to first order, at token t

to that sum, through everything that later reads it. What nothing reads adds nothing. Blocks are run
again from the stream that each of them read, the last one first, so that only one is in memory.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from huref.architecture.block import Attention, FeedForward, LatentAttention, Mixture
from huref.invariants.forward import ForwardPass

TINY = 1e-30


@dataclass(frozen=True)
class BlockEffect:
    """What one block adds to the logits.

    Attributes:
        attention, ffn: root mean square of g . z over the tokens, for what each half writes.
        units: share of each hidden unit in what the feed-forward half adds, by the number of its
            network: <g . z_j, g . z> / |g . z|^2. Over all networks they sum to one.
    """

    attention: float
    ffn: float
    units: dict[int, Tensor]


class BackwardPass:
    """The gradient of the logits on its way back through a model's blocks.

    Args:
        run: the forward pass, at the end of the stream.
        head: rows of the output head (n, d), or None to take the stream after the last norm.
    """

    def __init__(self, run: ForwardPass, head: Tensor | None):
        self.run = run
        x = run.x.detach().requires_grad_()
        draw = torch.Generator().manual_seed(0)
        with torch.enable_grad():
            logits = run.runner.normal(x)
            if head is not None:
                logits = logits @ (head - head.mean(dim=0)).T
            signs = torch.randint(0, 2, logits.shape, generator=draw).float() * 2 - 1
            (self.gradient,) = torch.autograd.grad((logits * signs).sum(), x)

    def step(
        self,
        index: int,
        attention: Attention | LatentAttention,
        ffn: FeedForward | Mixture,
        start: Tensor,
    ) -> BlockEffect:
        """Move the gradient before one block.

        Args:
            index: of the block.
            attention: of the block.
            ffn: of the block.
            start: the stream that the block read, (tokens, d).
        """
        runner, running = self.run.runner, self.run.running
        x = start.detach().requires_grad_()
        with torch.enable_grad():
            mixed = runner.mix_heads(index, attention, x)[0]
            written = runner.finish_attention(index, attention, mixed.flatten(1) @ attention.o)
            if running.parallel:
                carried, read = x + running.residual_scale * written, x
            else:
                carried = read = runner.added(index, "attention", x, written)
            hidden = runner.reads("ffn", read)
        to_carried, to_output = self._through_sum(index, carried, hidden, ffn)
        to_hidden, added = self._through_networks(index, hidden, ffn, to_output)
        self.gradient, to_mixed = torch.autograd.grad(
            [carried, hidden], [x, mixed], [to_carried, to_hidden]
        )
        by_attention = (mixed * to_mixed)[self.run.counted].detach().sum(dim=(1, 2))
        by_ffn = torch.stack([part.sum(dim=1) for part in added.values()]).sum(dim=0)
        whole = by_ffn.square().sum().clamp(min=TINY)
        return BlockEffect(
            float(by_attention.square().mean().sqrt()),
            float(by_ffn.square().mean().sqrt()),
            {expert: by_ffn @ part / whole for expert, part in added.items()},
        )

    def _through_sum(
        self, index: int, carried: Tensor, hidden: Tensor, ffn: FeedForward | Mixture
    ) -> tuple[Tensor, Tensor]:
        """Gradients of the stream after attention and of what the networks write."""
        runner, running = self.run.runner, self.run.running
        base = carried.detach().requires_grad_()
        with torch.enable_grad():
            output = self._output(index, hidden.detach(), ffn).requires_grad_()
            written = runner.out(index, "ffn", output)
            if running.parallel:
                after = base + running.residual_scale * written
            else:
                after = runner.added(index, "ffn", base, written)
        to_base, to_output = torch.autograd.grad(after, [base, output], self.gradient)
        return to_base, to_output

    def _output(self, index: int, hidden: Tensor, ffn: FeedForward | Mixture) -> Tensor:
        """What the networks write, (tokens, d); only its shape matters where no norm follows."""
        runner = self.run.runner
        linear = runner.reader.layout.norms.place != "after"
        if linear and "ffn_out" not in runner.reader.gains(index, "ffn"):
            return torch.zeros_like(hidden)
        with torch.no_grad():
            if isinstance(ffn, FeedForward):
                return _write(runner.activate(hidden, ffn)[1], ffn)
            routing = runner.route(index, hidden, ffn.count)
            output = torch.zeros_like(hidden)
            if ffn.shared is not None:
                output += _write(runner.activate(hidden, ffn.shared)[1], ffn.shared)
            for expert in range(ffn.count):
                network = ffn.read(expert)
                written = _write(runner.activate(hidden, network)[1], network)
                output += routing[:, expert, None] * written
            return output

    def _through_networks(
        self, index: int, hidden: Tensor, ffn: FeedForward | Mixture, to_output: Tensor
    ) -> tuple[Tensor, dict[int, Tensor]]:
        """The gradient of what the networks read, and what each unit adds, (counted, units)."""
        leaf = hidden.detach().requires_grad_()
        if isinstance(ffn, FeedForward):
            to_leaf, added = self._through_network(leaf, ffn, to_output)
            return to_leaf, {-1: added}
        total, parts = torch.zeros_like(leaf), {}
        if ffn.shared is not None:
            to_leaf, parts[-1] = self._through_network(leaf, ffn.shared, to_output)
            total += to_leaf
        with torch.enable_grad():
            routing = self.run.runner.route(index, leaf, ffn.count)
        to_routing = torch.zeros_like(routing)
        for expert in range(ffn.count):
            network = ffn.read(expert)
            weight = routing[:, expert, None].detach()
            to_leaf, parts[expert] = self._through_network(leaf, network, weight * to_output)
            total += to_leaf
            with torch.no_grad():
                written = _write(self.run.runner.activate(leaf, network)[1], network)
            to_routing[:, expert] = (written * to_output).sum(dim=1)
        if routing.requires_grad:
            total += torch.autograd.grad(routing, leaf, to_routing)[0]
        return total, parts

    def _through_network(
        self, leaf: Tensor, network: FeedForward, to_output: Tensor
    ) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            hidden = self.run.runner.activate(leaf, network)[1]
            written = hidden @ network.down
        to_leaf, to_hidden = torch.autograd.grad(written, [leaf, hidden], to_output)
        return to_leaf, (hidden * to_hidden)[self.run.counted].detach()


def _write(hidden: Tensor, network: FeedForward) -> Tensor:
    output = hidden @ network.down
    return output + network.biases["down"] if "down" in network.biases else output
