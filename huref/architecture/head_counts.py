"""How many heads a block has, from its config and the shapes of its tensors.

Every shape is checked against the config here, so that `huref.architecture.assemble` only
computes. Shapes of matrices are (in, out), whichever way they are stored.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from huref.architecture.config_values import config_ints, look_up
from huref.architecture.layout import Heads
from huref.architecture.resolved import ResolvedLatent, Roles
from huref.errors import CheckpointError

Config = Mapping[str, Any]
Shape = tuple[int, ...]
MISMATCH = "config and weights do not belong together"


def count_heads(template: Heads, tensors: Roles, config: Config, index: int) -> tuple[int, int]:
    """Number of query heads and of key-value heads.

    Args:
        template: the layout's attention.
        tensors: attention's tensors by role.
        config: of the language model.
        index: of the block, for config values that differ between blocks.

    Raises:
        CheckpointError: a shape contradicts the config, or the config lacks the number of heads.
    """
    return _HeadCounter(template, tensors, config, index).count()


class _HeadCounter:
    """Counts and checks the heads of one block."""

    def __init__(self, template: Heads, tensors: Roles, config: Config, index: int):
        self._template, self._tensors = template, tensors
        self._heads = config_ints(config, template.heads, index)[0]
        self._candidates = config_ints(config, template.kv_heads, index)
        keys = [key for key in template.head_dim if look_up(config, key, index) is not None]
        self._head_dim = config_ints(config, tuple(keys), index)[0] if keys else None

    def count(self) -> tuple[int, int]:
        heads = self._heads
        if "qkv" in self._tensors:
            shape = self._matrix("qkv")
            fixed = 2 * heads if self._template.split == "gate_first" else heads
            size = self._head_dim or shape[0] // heads
            kv_heads = self._count_kv("qkv", shape, fixed, 2, size)
            q_columns, k_columns, v_columns = heads * size, kv_heads * size, kv_heads * size
            width, v_role = shape[0], "qkv"
        else:
            q_columns, width = self._check_queries()
            kv_heads, k_columns, v_columns, v_role = self._count_separate(width, q_columns)
        value_dim = v_columns // kv_heads
        self._check(v_role, v_columns == kv_heads * value_dim, f"{kv_heads} equal key-value heads")
        self._check_output(heads * value_dim, width)
        for role, columns, count in (
            ("q", q_columns, heads), ("k", k_columns, kv_heads), ("v", v_columns, kv_heads)
        ):  # fmt: skip
            self._check_gain(f"norms.{role}", columns, count)
        return heads, kv_heads

    def _matrix(self, role: str) -> Shape:
        """The shape (in, out) of a matrix; of one expert's where experts are stacked."""
        shape = self._tensors[role].stacked_shape
        stacked = self._template.mixture and role in ("q", "o")
        if len(shape) != (3 if stacked else 2):
            raise CheckpointError(
                f"its shape {list(shape)} is not a matrix's",
                tensor=self._tensors[role].name,
                advice=MISMATCH,
            )
        shape = shape[1:] if stacked else shape
        return shape[::-1] if self._template.stored == "out_in" else shape

    def _check_queries(self) -> tuple[int, int]:
        """Columns of q without an output gate, and the width of the residual stream."""
        latent = "latent.q_a" in self._tensors
        role = "latent.q_b" if latent else "q"
        rows, columns = self._tensors[role].shape[::-1] if latent else self._matrix(role)
        size = self._head_dim or columns // self._heads
        queries = self._heads * (2 if self._template.q_gated else 1)
        self._check(role, columns == queries * size, f"{queries} heads of {size}")
        columns = columns // 2 if self._template.q_gated else columns
        return columns, self._tensors["latent.q_a"].shape[1] if latent else rows

    def _count_separate(self, width: int, q_columns: int) -> tuple[int, int, int, str]:
        """Key-value heads, columns of k and of v, and the role that holds v."""
        if "kv" in self._tensors:
            shape = self._matrix("kv")
            kv_heads = self._count_kv(
                "kv", shape, 0, 2, self._head_dim or width // self._heads, width
            )
            return kv_heads, shape[1] // 2, shape[1] // 2, "kv"
        shape = self._matrix("k")
        v_role = "v" if "v" in self._tensors else "k"
        kv_heads = self._count_kv("k", shape, 0, 1, q_columns // self._heads, width)
        rows, v_columns = self._matrix(v_role)
        self._check(v_role, rows == width, f"width {width}")
        return kv_heads, shape[1], v_columns, v_role

    def _count_kv(
        self, role: str, shape: Shape, fixed: int, each: int, size: int, width: int | None = None
    ) -> int:
        """The first candidate that gives a matrix its columns.

        Args:
            role: of the matrix.
            shape: (in, out).
            fixed: number of heads in it besides those of keys and values.
            each: number of heads in it per key-value head.
            size: of a head.
            width: expected number of rows.
        """
        width = shape[0] if width is None else width
        for count in self._candidates:
            if shape == (width, (fixed + each * count) * size) and self._heads % count == 0:
                return count
        counts = " or ".join(dict.fromkeys(map(str, self._candidates)))
        raise CheckpointError(
            f"its shape {list(shape)} (in, out) contradicts config.json ({self._heads} heads of "
            f"{size}, {counts} key-value heads, width {width})",
            tensor=self._tensors[role].name,
            advice=MISMATCH,
        )

    def _check_output(self, columns: int, width: int) -> None:
        """Check o (columns, width), and its first factor where it has one."""
        rows = columns
        if "o_a" in self._tensors:
            rows, columns_of_first = self._tensors["o_a"].shape
            blocks = columns // columns_of_first
            fits = blocks * columns_of_first == columns and rows % max(blocks, 1) == 0
            self._check(
                "o_a", fits and blocks > 0, f"a block-diagonal factor of {columns} features"
            )
        width = width // 2 if self._template.beside_embedding else width
        self._check("o", self._matrix("o") == (rows, width), f"[{rows}, {width}]")

    def _check(self, role: str, fits: bool, expected: str) -> None:
        if not fits:
            raise CheckpointError(
                f"its shape {list(self._tensors[role].stacked_shape)} contradicts config.json "
                f"({self._heads} heads), which gives {expected}",
                tensor=self._tensors[role].name,
                advice=MISMATCH,
            )

    def _check_gain(self, role: str, columns: int, heads: int) -> None:
        """Check that a gain fits one head's features or those of all heads."""
        if role not in self._tensors:
            return
        fitting = [(columns,), (columns // heads,), (heads, columns // heads)]
        self._check(
            role, self._tensors[role].stacked_shape in fitting, f"{heads} heads, {columns} features"
        )


def count_latent_heads(
    template: Heads, latent: ResolvedLatent, tensors: Roles, config: Config, index: int
) -> int:
    """Number of heads of multi-head latent attention; arguments as for `count_heads`.

    Raises:
        CheckpointError: a shape contradicts the config, or the config lacks the number of heads.
    """
    heads = config_ints(config, template.heads, index)[0]
    shapes = {role: stored.shape[::-1] for role, stored in tensors.items()}
    q_role = "latent.q_b" if "latent.q_b" in shapes else "q"
    matrices = [q_role, "latent.kv_a", "latent.kv_b", "o"]
    for role in matrices:
        if len(shapes[role]) != 2:
            raise _latent_mismatch(role, tensors, "a matrix")
    nope, rope = latent.nope, latent.rope
    rank, kv_columns = shapes["latent.kv_b"]
    width = shapes["o"][1]
    value_dim = kv_columns // heads - nope
    q_rows = width
    if q_role == "latent.q_b":
        q_rows = shapes["latent.q_a"][1] * (2 if latent.q_both else 1)
    query_dim = nope + rope + (value_dim if template.q_gated else 0)
    expected: Sequence[Shape] = (
        (q_rows, heads * query_dim),
        (width, rank + rope),
        (rank, heads * (nope + value_dim)),
        (heads * value_dim, width),
    )
    for role, shape in zip(matrices, expected, strict=True):
        if shapes[role] != shape:
            wanted = f"{list(shape)} ({heads} heads of {nope} + {rope})"
            raise _latent_mismatch(role, tensors, wanted)
    return heads


def _latent_mismatch(role: str, tensors: Roles, expected: str) -> CheckpointError:
    return CheckpointError(
        f"its shape {list(tensors[role].shape[::-1])} (in, out) contradicts config.json, which "
        f"gives {expected}",
        tensor=tensors[role].name,
        advice=MISMATCH,
    )
