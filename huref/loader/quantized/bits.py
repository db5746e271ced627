"""Small integers packed into words and nibbles, taken apart."""

from math import gcd

import torch
from torch import Tensor

# E2M1, the four-bit float of the OCP microscaling formats: sign, two exponent bits, one fraction.
E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0)


def unpack_words(words: Tensor, bits: int) -> Tensor:
    """Integers of 1 to 8 bits from a stream of 32-bit words, lowest bits first.

    Args:
        words: (n, columns) int32; each column is a stream of its own.
        bits: of one integer. Integers may straddle words, as GPTQ's 3-bit ones do.

    Returns:
        (n * 32 // bits, columns) uint8.
    """
    per_period = 32 // gcd(32, bits)
    words_per_period = bits * per_period // 32
    count = words.shape[0] * 32 // bits
    if missing := -words.shape[0] % words_per_period:
        words = torch.cat([words, words.new_zeros(missing, words.shape[1])])
    grouped = words.reshape(-1, words_per_period, words.shape[1])
    values = torch.empty(len(grouped), per_period, words.shape[1], dtype=torch.uint8)
    mask = (1 << bits) - 1
    for index in range(per_period):
        word, shift = divmod(index * bits, 32)
        value = grouped[:, word] >> shift  # arithmetic: copies of the sign fill the upper bits
        if shift + bits > 32:
            held = 32 - shift
            upper = grouped[:, word + 1] & ((1 << (bits - held)) - 1)
            value = (value & ((1 << held) - 1)) | (upper << held)
        values[:, index] = value & mask
    return values.reshape(-1, words.shape[1])[:count]


def split_nibbles(data: Tensor, low_first: bool) -> Tensor:
    """Two integers from each byte of the last axis, (..., n) uint8 -> (..., 2 n) uint8."""
    low, high = data & 15, data >> 4
    pair = (low, high) if low_first else (high, low)
    return torch.stack(pair, dim=-1).reshape(*data.shape[:-1], -1)


def decode_nibbles(data: Tensor, table: Tensor, low_first: bool) -> Tensor:
    """Two table entries for each byte of the last axis, (..., n) uint8 -> (..., 2 n)."""
    pairs = table[split_nibbles(torch.arange(256, dtype=torch.uint8)[:, None], low_first).long()]
    return pairs[data.long()].reshape(*data.shape[:-1], -1)


def exponents(scale: Tensor) -> Tensor:
    """E8M0 scales, powers of two stored as their exponent plus 127: uint8 -> float32."""
    return torch.exp2(scale.float() - 127)
