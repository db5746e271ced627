"""Unpacking of small integers that are packed into 32-bit words or nibbles."""

from math import gcd

import torch
from torch import Tensor

# E2M1, the 4-bit float of the OCP microscaling formats: sign, two exponent bits, one mantissa bit.
E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0)


def unpack_words(words: Tensor, bits: int) -> Tensor:
    """Unpack integers of 1 to 8 bits from a bit stream in 32-bit words, lowest bits first.

    Args:
        words: (n, columns) int32 or uint32; each column is a separate bit stream.
        bits: width of one integer. An integer may span two words, as in 3-bit GPTQ.

    Returns:
        (n * 32 // bits, columns) uint8.
    """
    words = words.view(torch.int32) if words.dtype == torch.uint32 else words
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
        value = (
            grouped[:, word] >> shift
        )  # arithmetic shift: the upper bits are copies of the sign bit
        if shift + bits > 32:
            low_bits = 32 - shift
            upper = grouped[:, word + 1] & ((1 << (bits - low_bits)) - 1)
            value = (value & ((1 << low_bits) - 1)) | (upper << low_bits)
        values[:, index] = value & mask
    return values.reshape(-1, words.shape[1])[:count]


def decode_scales(scale: Tensor) -> Tensor:
    """Scales as float32: bytes are E8M0, all other types are numbers."""
    return exponents(scale) if scale.dtype == torch.uint8 else scale.float()


def split_nibbles(data: Tensor, low_first: bool) -> Tensor:
    """Split each byte of the last axis into two integers, (..., n) -> (..., 2 n) uint8."""
    low, high = data & 15, data >> 4
    pair = (low, high) if low_first else (high, low)
    return torch.stack(pair, dim=-1).reshape(*data.shape[:-1], -1)


def decode_nibbles(data: Tensor, table: Tensor, low_first: bool) -> Tensor:
    """Look up both nibbles of each byte in a table of 16 values, (..., n) uint8 -> (..., 2 n)."""
    pairs = table[split_nibbles(torch.arange(256, dtype=torch.uint8)[:, None], low_first).long()]
    return pairs[data.long()].reshape(*data.shape[:-1], -1)


def exponents(scale: Tensor) -> Tensor:
    """Decode E8M0 scales: a byte x stands for the float32 2^(x - 127)."""
    if scale.dtype == torch.float8_e8m0fnu:
        return scale.float()
    return torch.exp2(scale.float() - 127)


def unpack_last(words: Tensor, bits: int) -> Tensor:
    """Unpack integers of 1 to 8 bits from a stream of bits along the last axis.

    (..., n) 32-bit words -> (..., n * 32 // bits) uint8.
    """
    flat = words.contiguous().view(torch.int32).reshape(-1, words.shape[-1])
    return unpack_words(flat.T.contiguous(), bits).T.reshape(*words.shape[:-1], -1).contiguous()
