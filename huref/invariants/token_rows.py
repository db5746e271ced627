"""Rows of a model's embeddings and of its output head, each read once."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from huref.architecture.reader import ModelReader
from huref.errors import WeightsError

HEAD_NAMES = ("lm_head.weight", "embed_out.weight", "output.weight")
NORM_NAMES = (
    "model.norm.weight", "model.final_layernorm.weight", "transformer.ln_f.weight",
    "gpt_neox.final_layer_norm.weight", "model.decoder.final_layer_norm.weight",
    "transformer.norm_f.weight", "norm.weight", "ln_f.weight",
)  # fmt: skip


class TokenRows:
    """Embeddings and head rows of tokens, by id; a row is read when it is first asked for."""

    def __init__(self, reader: ModelReader):
        self.reader = reader
        self._embeddings = _Table(reader.embeddings)
        checkpoint, names = reader.checkpoint, set(reader.checkpoint.names)
        head = next((n for n in sorted(names) if n.endswith(HEAD_NAMES)), None)
        self._head = self._embeddings
        if head is not None:
            name = head
            self._head = _Table(lambda ids: checkpoint.read_rows(name, ids).float())
        self._gain_name = next((n for n in NORM_NAMES if n in names), None)

    def embeddings(self, ids: Sequence[int]) -> Tensor:
        """See `ModelReader.embeddings`: (len(ids), d) float32."""
        return self._embeddings.rows(ids)

    def readable(self, ids: Sequence[int]) -> list[int]:
        """Those whose embeddings are finite; the row of a token that never occurs may hold NaN."""
        try:
            self.embeddings(ids)
        except WeightsError:
            middle = len(ids) // 2
            parts = (ids[:middle], ids[middle:]) if middle else ()
            return [number for part in parts for number in self.readable(part)]
        return list(ids)

    def head(self, ids: Sequence[int]) -> Tensor | None:
        """Rows of the output head, with the gain of the last norm, (len(ids), d) float32.

        The logit of a token is the product of its row with the stream after `BlockRunner.normal`.
        Where there is no head of its own the embeddings are it. None where the head reads another
        width than the stream's.
        """
        rows = self._head.rows(ids)
        if self.reader.layout.embedding.factor or not torch.isfinite(rows).all():
            return None
        if self._gain_name is None:
            return rows
        checkpoint = self.reader.checkpoint
        stored = checkpoint.read([self._gain_name])[self._gain_name].float()
        gain = stored + self.reader.layout.norms.offset
        return rows * gain if len(gain) == rows.shape[1] else None

    def stored_head(self, ids: Sequence[int]) -> Tensor | None:
        """Rows of the output head as stored, (len(ids), w); None where the embeddings are it."""
        return None if self._head is self._embeddings else self._head.rows(ids)


class _Table:
    """Rows of one table, read where they are not known yet."""

    def __init__(self, read: Callable[[list[int]], Tensor]):
        self._read = read
        self._places: dict[int, int] = {}
        self._known: Tensor | None = None

    def rows(self, ids: Sequence[int]) -> Tensor:
        """Rows (len(ids), d)."""
        missing = sorted({number for number in ids if number not in self._places})
        if missing:
            new = self._read(missing)
            known = len(self._places)
            self._places |= {number: known + i for i, number in enumerate(missing)}
            self._known = new if self._known is None else torch.cat([self._known, new])
        assert self._known is not None
        return self._known[[self._places[number] for number in ids]]
