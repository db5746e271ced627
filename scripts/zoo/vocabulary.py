"""Tokenizers: byte-level BPE, SentencePiece-like BPE, and extended vocabularies."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

END = "<|endoftext|>"
BYTE_TOKENS = [f"<0x{value:02X}>" for value in range(256)]


def train_byte_level(texts: Iterable[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE as in GPT-2: the 256 bytes, the end token, and merges up to `vocabulary`."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, bos_token=END)


def train_metaspace(texts: Iterable[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """BPE over characters with ▁ for a space and byte fallback, as SentencePiece makes it."""
    specials = ["<unk>", "<s>", "</s>"]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Split(
        Regex(r"▁*\w+|▁*[^\w▁\n]+|▁+|\n+"), behavior="isolated"
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=specials + BYTE_TOKENS,
        limit_alphabet=160,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    # Published tokenizers do not list byte tokens among the added tokens.
    state = json.loads(tokenizer.to_str())
    state["added_tokens"] = [token for token in state["added_tokens"] if token["id"] < 3]
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(state)),
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
    )


TRAINERS: dict[str, Callable[[Iterable[str], int], PreTrainedTokenizerFast]] = {
    "byte-level": train_byte_level,
    "metaspace": train_metaspace,
}


def best_pairs(
    words: Counter[tuple[str, ...]], accept: Callable[[str], bool], count: int
) -> Iterator[tuple[str, str]]:
    """Yield the `count` most frequent acceptable pairs, merging each before the next is found.

    This continues BPE training (Sennrich et al., 2016) from segmented words. Among equally frequent
    pairs the one that sorts last is taken. Raises ValueError when no acceptable pair is left.
    """
    pairs: Counter[tuple[str, str]] = Counter()
    for symbols, often in words.items():
        for pair in pairwise(symbols):
            pairs[pair] += often
    for _ in range(count):
        candidates = (
            (often, pair) for pair, often in pairs.items() if often and accept("".join(pair))
        )
        best = max(candidates, default=None)
        if best is None:
            raise ValueError("the text is too short to grow the vocabulary that far")
        yield best[1]
        for symbols in [symbols for symbols in words if best[1][0] in symbols]:
            merged = merge_pair(symbols, best[1])
            often = words.pop(symbols)
            words[merged] += often
            for pair in pairwise(symbols):
                pairs[pair] -= often
            for pair in pairwise(merged):
                pairs[pair] += often


def merge_pair(symbols: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    """Join every occurrence of the pair into one symbol, from left to right."""
    joined: list[str] = []
    position = 0
    while position < len(symbols):
        width = 2 if symbols[position : position + 2] == pair else 1
        joined.append("".join(symbols[position : position + width]))
        position += width
    return tuple(joined)


def grow(
    tokenizer: PreTrainedTokenizerFast,
    texts: Iterable[str],
    count: int,
    accept: Callable[[str], bool],
) -> tuple[PreTrainedTokenizerFast, list[tuple[int, int]]]:
    """Append `count` merges learned from the texts to a byte-level tokenizer.

    Existing ids stay. `accept` gets the text of a token, with U+FFFD for incomplete characters.
    Returns the extended tokenizer and, for each new token, the ids of the two tokens that it is
    merged from.
    """
    backend = tokenizer.backend_tokenizer
    spoken = Counter(
        word for text in texts for word, _ in backend.pre_tokenizer.pre_tokenize_str(text)
    )
    words: Counter[tuple[str, ...]] = Counter()
    for word, often in spoken.items():
        words[tuple(token.value for token in backend.model.tokenize(word))] += often
    state = json.loads(backend.to_str())
    vocabulary, merges = state["model"]["vocab"], state["model"]["merges"]
    origins: list[tuple[int, int]] = []

    @cache
    def acceptable(token: str) -> bool:
        return token not in vocabulary and accept(backend.decoder.decode([token]))

    for pair in best_pairs(words, acceptable, count):
        origins.append((vocabulary[pair[0]], vocabulary[pair[1]]))
        vocabulary["".join(pair)] = len(vocabulary)
        merges.append(list(pair))
    grown = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(state)),
        eos_token=tokenizer.eos_token,
        bos_token=tokenizer.bos_token,
    )
    return grown, origins


def save_tokenizer(tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write tokenizer.json without whitespace, which would double its size, and its config."""
    tokenizer.save_pretrained(folder)
    path = folder / "tokenizer.json"
    state = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(state, ensure_ascii=False, separators=(",", ":")), encoding="utf-8")
