"""The terms that a real transformers module computes: the oracle of every layout.

The module's own forward pass runs on token rows. Each batch entry is one token at position 0, so
that RoPE is the identity and the softmax over a single token is one. The module is made linear
where the terms are linear: biases are zero, activations are the identity, the block's own norms
preserve the scale of each row (gains and the subtraction of the mean are kept), gates of attention
and of shared experts are open, and routers weigh experts evenly. Everything else, above all every
reshape, transpose, split and repetition, is the module's.
"""

import functools
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

INNER_NORMS = re.compile(
    r"(^|[._])(q|k|v|query|key)_?([ab]_)?(norm|layernorm|ln)|kv_a_layernorm|kv_norm|norms\."
    r"|k_rope_only"
)
ATTENTION = ("self_attn", "attn", "attention", "self_attention", "self_att", "multi_head_attention",
             "norm_attn_norm", "mixer", "temporal_block")  # fmt: skip
FFN = ("mlp", "feed_forward", "block_sparse_moe", "ffn", "mlp_block", "moe", "fc2")
ACTIVATIONS = ("act_fn", "act", "activation_fn", "activation", "activation_func", "gelu_impl")
SIGMOIDS = (torch.sigmoid, torch.Tensor.sigmoid, F.sigmoid)
PRODUCTS = (
    torch.matmul, torch.Tensor.matmul, torch.Tensor.__matmul__, torch.bmm, torch.Tensor.bmm,
    torch.baddbmm, torch.Tensor.baddbmm,
)  # fmt: skip
ACTIVATION_FUNCTIONS = (F.silu, F.gelu, F.relu, torch.relu)
ROUTERS = re.compile(r"(router|[.]gate|gate[.]wg|classifier)([.]\w+)?[.]weight$|router$")


def find_layers(model: nn.Module) -> tuple[str, nn.ModuleList]:
    """The name and the list of the decoder layers: the first of the longest ModuleLists."""
    lists = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.ModuleList)]
    lists = [(n, m) for n, m in lists if n.split(".")[-1] in ("layers", "h", "blocks", "layer")]
    return max(lists, key=lambda pair: len(pair[1]))


def randomise(model: nn.Module, seed: int = 0) -> None:
    """Set random weights and gains and zero biases, so that a layout without a gain fails."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        data = parameter.data
        if name.endswith("bias") or "_bias" in name.rsplit(".", 1)[-1]:
            data.zero_()
        elif "sink" in name or "softmax_offset" in name:
            data.fill_(-1e9)
        elif ROUTERS.search(name) and data.shape[0] != data.shape[-1]:
            data.zero_()
        elif data.dim() == 1:
            data.copy_(data + 0.5 * (torch.rand(data.shape, generator=generator) - 0.5))
        elif data.dim() > 1:
            data.copy_(torch.randn(data.shape, generator=generator) / data.shape[-1] ** 0.5)


def _is_norm(module: nn.Module) -> bool:
    name = type(module).__name__
    return "Norm" in name and not list(module.children())


def removes_mean(norm: nn.Module, width: int) -> bool:
    """Whether a norm subtracts the mean, by a test on random input."""
    x = torch.randn(3, width, dtype=torch.float64)
    return bool(torch.allclose(norm(x), norm(x + 1.0), atol=1e-4))


def _keep_scale(norm: nn.Module, width: int) -> None:
    """Make a norm linear: multiply its output by the scale by which it divides."""
    original = norm.forward
    centred = removes_mean(norm, width)

    def forward(x: Tensor, *rest: Any, **named: Any) -> Tensor:
        y = x - x.mean(-1, keepdim=True) if centred else x
        scale = y.square().mean(-1, keepdim=True).sqrt()
        return torch.nan_to_num(original(x, *rest, **named)) * scale

    norm.forward = forward


class _Open(nn.Module):
    """Replaces a gate's linear map by a large constant, whose sigmoid is one."""

    def __init__(self, width: int):
        super().__init__()
        self.width = width

    def forward(self, x: Tensor) -> Tensor:
        return torch.full((*x.shape[:-1], self.width), 1e4, dtype=x.dtype)


def linearise(layer: nn.Module, width: int, drop_norms: bool) -> bool:
    """Make a layer linear where the terms are linear. Returns whether its norms remove the mean."""
    centred = False
    for name, module in layer.named_modules():
        for eps in ("eps", "variance_epsilon", "epsilon"):
            if isinstance(getattr(module, eps, None), float):
                setattr(module, eps, 0.0)
        for limit in ("limit", "swiglu_limit"):
            if isinstance(getattr(module, limit, None), float):
                setattr(module, limit, 1e300)
                for slope in ("alpha", "swiglu_alpha"):  # a sigmoid of slope 0 is constant
                    setattr(module, slope, 0.0)
        for attribute in ACTIVATIONS:
            if callable(getattr(module, attribute, None)):
                setattr(module, attribute, nn.Identity())
        if _is_norm(module) and not INNER_NORMS.search(name):
            shape = getattr(module, "normalized_shape", (width,))
            own = next((p.shape[-1] for p in module.parameters()), shape[-1])
            centred |= removes_mean(module, own)
            if drop_norms:
                module.forward = lambda x, *rest, **named: x
            else:
                _keep_scale(module, own)
    for parent in list(layer.modules()):
        for name, child in list(parent.named_children()):
            kinds = ("torch.nn.modules.activation", "transformers.activations")
            if type(child).__module__ in kinds and name not in ("score_fn", "softmax"):
                setattr(parent, name, nn.Identity())
        for gate in ("shared_expert_gate", "g_proj"):
            if isinstance(linear := getattr(parent, gate, None), nn.Linear):
                setattr(parent, gate, _Open(linear.out_features))
    return centred


class _One(nn.Module):
    """Replaces an activation, so that gates are one."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.ones_like(x)


def _set_activations(layer: nn.Module, function: nn.Module) -> None:
    for module in list(layer.modules()):
        if hasattr(module, "act_fn"):
            module.act_fn = function


def _submodules(layer: nn.Module, names: tuple[str, ...]) -> list[nn.Module]:
    """The modules of a layer among some dotted names."""
    modules = dict(layer.named_modules())
    return [modules[name] for name in names if name in modules]


@contextmanager
def muted(layer: nn.Module, names: tuple[str, ...]) -> Iterator[None]:
    """Make one half of a layer write zeros."""

    def silence(_: nn.Module, __: Any, output: Any) -> Any:
        if isinstance(output, (tuple, list)):
            return type(output)([torch.zeros_like(output[0]), *output[1:]])
        return torch.zeros_like(output)

    found = _submodules(layer, names)
    assert found or not names, f"{type(layer).__name__} has none of {names}"
    handles = [module.register_forward_hook(silence) for module in found]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class Interceptor(TorchFunctionMode):
    """Intercepts the operations of one layer's forward pass.

    Inside attention it records the factors of the first product of two activations, which are the
    queries and the keys (repeated by the module where they are shared), and opens output gates.
    In the whole layer it replaces functional activations by the identity.
    """

    def __init__(self) -> None:
        super().__init__()
        self.inside_layer = self.inside_attention = False
        self.heads: tuple[Tensor, Tensor] | None = None

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if self.inside_attention:
            if function in SIGMOIDS:
                return torch.ones_like(args[0])
            if self.heads is None and function in PRODUCTS:
                named = kwargs or {}
                query = named["batch1"] if "batch1" in named else args[-2]
                key = named.get("batch2", args[-1])
                if min(query.dim(), key.dim()) >= 3:  # a weight has two axes
                    self.heads = query.clone(), key.clone()
        if self.inside_layer and (
            function in ACTIVATION_FUNCTIONS or function is torch.Tensor.float
        ):
            return args[0]
        return function(*args, **(kwargs or {}))

    def attach(self, layer: nn.Module, attention: tuple[str, ...]) -> list[Any]:
        """Add hooks that track whether the forward pass is inside. Returns their handles."""
        handles = []
        parts = _submodules(layer, attention)
        for module, flag in [(layer, "inside_layer"), *((p, "inside_attention") for p in parts)]:
            enter, leave = (functools.partial(self._set, flag, inside) for inside in (True, False))
            handles.append(module.register_forward_pre_hook(enter))
            handles.append(module.register_forward_hook(leave))
        for indexer in _submodules(layer, tuple(f"{name}.indexer" for name in attention)):
            enter, leave = (
                functools.partial(self._set, "inside_attention", value) for value in (False, True)
            )
            handles.append(indexer.register_forward_pre_hook(enter))
            handles.append(indexer.register_forward_hook(leave))
        return handles

    def _set(self, flag: str, value: bool, *_: Any) -> None:
        setattr(self, flag, value)


def _scores(query: Tensor, key: Tensor, m: int) -> Tensor:
    """Sum over heads of every query with every key, from (m, heads, 1, dim) and (..., dim, 1)."""
    dim = max(query.shape[-2:])
    if key.numel() < query.numel():  # one key-value head, broadcast
        key = key.expand(-1, query.numel() // key.numel(), *key.shape[-2:])
    return query.reshape(m, -1, dim).flatten(1) @ key.reshape(m, -1, dim).flatten(1).T


def module_terms(
    model: nn.Module,
    index: int,
    E: Tensor,
    *,
    drop_norms: bool = False,
    attention: tuple[str, ...] = ATTENTION,
    ffn: tuple[str, ...] = FFN,
    silent: tuple[str, ...] = (),
    even: bool = False,
    ffn_index: int | None = None,
    without: tuple[str, ...] = (),
    streams: int = 1,
    chain: str = "",
) -> list[Tensor]:
    """qk, vo and ffn of one layer on token rows E (m, d) float64.

    Args:
        model: in float64, prepared by `randomise`.
        index: of the layer.
        E: token rows; large ones make epsilons that cannot be set to 0 negligible.
        drop_norms: the layer is post-LN, so that no gain belongs to one half.
        attention: candidate names of the attention module.
        ffn: candidate names of the feed-forward module.
        silent: the modules whose output is attention's, where the attention module itself also
            returns the residual stream.
        even: keep only the even part of the feed-forward network, where its gate is affine
            (gpt-oss multiplies by up + 1).
        ffn_index: index of the feed-forward network's layer, where it is a separate one.
        without: further modules of the layer, which always write zeros.
        streams: number of residual streams, all of which start as the token's row.
        chain: the module that holds both halves, where the feed-forward network reads only
            attention's output; attention then writes through that network with its gates at one.
    """
    layers = find_layers(model)[1]
    separate = ffn_index is not None
    reading = _LinearLayer(model, layers[index], E, drop_norms, without, streams)
    interceptor = Interceptor()
    handles = interceptor.attach(layers[index], attention)
    with interceptor:
        if chain:
            _set_activations(layers[index], _One())
            attention_write = reading.write((chain,), ())
            _set_activations(layers[index], nn.Identity())
            ffn, silent = (chain,), ()
        else:
            attention_write = reading.write(silent or attention, () if separate else ffn)
    for handle in handles:
        handle.remove()
    assert interceptor.heads is not None, "attention multiplied no queries with keys"
    other = (
        _LinearLayer(model, layers[ffn_index], E, drop_norms, without, streams)
        if ffn_index is not None
        else reading
    )
    interceptor.attach(other.layer, ())
    with interceptor:
        ffn_write = other.write(
            attention if separate else ffn, () if separate or chain else silent or attention, even
        )
    receiver = E - E.mean(dim=1, keepdim=True) if reading.centred else E
    return [
        _scores(*interceptor.heads, len(E)),
        attention_write @ receiver.T,
        ffn_write @ receiver.T,
    ]


class _LinearLayer:
    """A layer made linear, which returns the output of each of its halves."""

    def __init__(
        self,
        model: nn.Module,
        layer: nn.Module,
        E: Tensor,
        drop_norms: bool,
        without: tuple[str, ...],
        streams: int,
    ):
        self.layer = layer
        self._model = model
        self._E = E
        self._without = without
        self._streams = streams
        self.centred = linearise(layer, E.shape[1], drop_norms)

    def write(self, own: tuple[str, ...], other: tuple[str, ...], even: bool = False) -> Tensor:
        """What the half `own` adds to the residual stream while the half `other` is silent."""
        with muted(self.layer, (*other, *self._without)):
            both = self._run(1.0)
            if even:
                return (both + self._run(-1.0)) / 2
            with muted(self.layer, own):
                return both - self._run(1.0)

    def _run(self, sign: float) -> Tensor:
        row = sign * self._E[:, None]
        written: list[Tensor] = []

        def feed(_: nn.Module, args: Any, named: Any) -> Any:
            shape = (args[0] if args else named["hidden_states"]).shape
            rows = row
            if shape[0] == self._streams != len(row):
                rows = row.expand(shape)
            elif self._streams > 1:  # along an axis of their own, or side by side
                rows = (
                    row[:, :, None].expand(-1, -1, self._streams, -1).reshape(len(row), *shape[1:])
                )
            return ((rows, *args[1:]), named) if args else (args, {**named, "hidden_states": rows})

        def keep(_: nn.Module, __: Any, output: Any) -> None:
            out = output[0] if isinstance(output, (tuple, list)) else output
            out = out[0] if len(out) == self._streams != len(row) else out
            written.append(out[:, 0].reshape(len(row), -1, row.shape[2])[:, 0])

        handles = [
            self.layer.register_forward_pre_hook(feed, with_kwargs=True),
            self.layer.register_forward_hook(keep),
        ]
        with torch.no_grad():
            self._model(torch.ones(len(row), 1, dtype=torch.long), use_cache=False)
        for handle in handles:
            handle.remove()
        return written[0]
