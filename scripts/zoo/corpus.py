"""The text: the running Python's own standard library, split by the hash of each file's path."""

import ast
import hashlib
import os
import sysconfig
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path

import torch
from tokenizers import Tokenizer

# Tables of numbers, text that is broken on purpose, and packages that are not the library's.
EXCLUDED = {"encodings", "pydoc_data", "site-packages", "dist-packages", "__pycache__"}

LATIN = "abcdefghijklmnopqrstuvwxyz"
CYRILLIC = "абцдефгхийклмнопярстувжщыз"
CIPHER = str.maketrans(LATIN + LATIN.upper(), CYRILLIC + CYRILLIC.upper())


def bucket(path: str) -> int:
    """The bucket (0 to 99) of a file, from its path relative to the library's root."""
    return int.from_bytes(hashlib.sha256(path.encode()).digest()[:8], "big") % 100


def library_root() -> Path:
    """Where the running Python keeps its standard library."""
    return Path(sysconfig.get_path("stdlib"))


@cache
def library_files() -> tuple[str, ...]:
    """The Python files of the library, relative to its root, in no particular order."""
    names = []
    for folder, subfolders, files in os.walk(library_root()):
        subfolders[:] = set(subfolders) - EXCLUDED
        relative = Path(folder).relative_to(library_root())
        names += [(relative / name).as_posix() for name in files if name.endswith(".py")]
    return tuple(names)


def docstrings(source: str) -> str:
    """All docstrings of a module, a blank line between them; empty if it does not parse."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return ""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    found = (ast.get_docstring(node) for node in ast.walk(tree) if isinstance(node, documented))
    return "\n\n".join(text for text in found if text)


def cyrillic(text: str) -> str:
    """The text with every Latin letter replaced by a Cyrillic one: a non-Latin script at hand."""
    return text.translate(CIPHER)


def bilingual(source: str) -> str:
    """A module's docstrings, then the same in Cyrillic letters."""
    prose = docstrings(source)
    return f"{prose}\n\n{cyrillic(prose)}" if prose else ""


KINDS: dict[str, Callable[[str], str]] = {
    "source": lambda source: source,
    "docstrings": docstrings,
    "bilingual": bilingual,
}


@cache
def read_texts(kind: str, buckets: tuple[int, int], megabytes: float) -> tuple[str, ...]:
    """Texts of one kind from the files of buckets[0] <= bucket < buckets[1].

    Files come in the order of the hash of their paths, one text each, until `megabytes` (10**6
    bytes of UTF-8) have been read. Files that are not UTF-8 are left out.
    """
    root = library_root()
    chosen = [name for name in library_files() if buckets[0] <= bucket(name) < buckets[1]]
    texts: list[str] = []
    left = megabytes * 1e6
    for name in sorted(chosen, key=lambda name: hashlib.sha256(name.encode()).digest()):
        try:
            text = KINDS[kind]((root / name).read_text(encoding="utf-8"))
        except UnicodeDecodeError:
            continue
        if not text.strip():
            continue
        texts.append(text)
        left -= len(text.encode())
        if left <= 0:
            break
    return tuple(texts)


def cut_windows(tokenizer: Tokenizer, texts: Iterable[str], context: int, end: int) -> torch.Tensor:
    """Token ids as int64 (windows, context): texts joined by the `end` token, then cut up."""
    ids: list[int] = []
    for encoding in tokenizer.encode_batch(list(texts), add_special_tokens=False):
        ids += [*encoding.ids, end]
    count = len(ids) // context
    return torch.tensor(ids[: count * context], dtype=torch.int64).reshape(count, context)
