"""What a tokenizer.json may make of a text, told before it is run."""

import base64
import struct
from typing import Any

import pytest
from tokenizers import Regex, Tokenizer, models, normalizers, processors

from huref.loader.vocabulary.growth import may_grow


def described(**parts: Any) -> dict[str, Any]:
    """The JSON of a tokenizer with these parts."""
    import json

    tokenizer = Tokenizer(models.BPE({"a": 0, "b": 1}, []))
    for name, part in parts.items():
        setattr(tokenizer, name, part)
    found: dict[str, Any] = json.loads(tokenizer.to_str())
    return found


USUAL = [
    {"normalizer": normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])},
    {"normalizer": normalizers.Replace(Regex(" {2,}"), "▁")},
    {"normalizer": normalizers.Replace("``", '"')},
    {"normalizer": normalizers.NFKC()},
    {"post_processor": processors.TemplateProcessing("<s> $A </s>", "<s> $A </s> $B </s>",
                                                     [("<s>", 0), ("</s>", 1)])},
    {},
]  # fmt: skip


@pytest.mark.parametrize("parts", USUAL)
def test_usual_tokenizers_do_not_grow(parts: dict[str, Any]) -> None:
    assert not may_grow(described(**parts))


GROWING = [
    {"normalizer": normalizers.Replace("a", "a" * 65)},
    {"normalizer": normalizers.Sequence([normalizers.Replace("a", "a" * 9)] * 2)},
    {"normalizer": normalizers.Sequence([normalizers.Replace("a", "aa")] * 7)},
    {"normalizer": normalizers.Replace(Regex("x*"), "a" * 64)},
    {"normalizer": normalizers.Prepend("a" * 300)},
    {"post_processor": processors.TemplateProcessing("$A $A", "$A $B", [])},
    {"post_processor": processors.Sequence([processors.TemplateProcessing("$A $A", "$A $B", [])])},
]  # fmt: skip


@pytest.mark.parametrize("parts", GROWING)
def test_those_that_make_a_text_longer_are_known(parts: dict[str, Any]) -> None:
    assert may_grow(described(**parts))


def test_padding_and_charsmaps_are_measured() -> None:
    tokenizer = described()
    for size, grows in ((512, False), (2**31, True)):
        tokenizer["padding"] = {"strategy": {"Fixed": size}}
        assert may_grow(tokenizer) is grows
    tokenizer["padding"] = {"strategy": "BatchLongest", "pad_to_multiple_of": 8}
    assert not may_grow(tokenizer)
    for longest, grows in ((33, False), (100, True)):
        data = struct.pack("<I", 8) + bytes(8) + b"ab\0" + b"c" * longest + b"\0"
        charsmap = base64.b64encode(data).decode()
        tokenizer["normalizer"] = {"type": "Precompiled", "precompiled_charsmap": charsmap}
        assert may_grow(tokenizer) is grows
