"""Training text: Python's standard library, split by the hash of each file's path."""

import ast
import hashlib
import os
import sysconfig
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path

import torch
from tokenizers import Tokenizer

# Tables of numbers, intentionally invalid text, and packages outside the library.
EXCLUDED = {"encodings", "pydoc_data", "site-packages", "dist-packages", "__pycache__"}

LATIN = "abcdefghijklmnopqrstuvwxyz"
CYRILLIC = "абцдефгхийклмнопярстувжщыз"
CIPHER = str.maketrans(LATIN + LATIN.upper(), CYRILLIC + CYRILLIC.upper())


def bucket(path: str) -> int:
    """The bucket (0 to 99) of a file, from its path relative to the library's root."""
    return int.from_bytes(hashlib.sha256(path.encode()).digest()[:8], "big") % 100


def library_root() -> Path:
    """Folder of the running Python's standard library."""
    return Path(sysconfig.get_path("stdlib"))


@cache
def library_files() -> tuple[str, ...]:
    """Paths of the library's Python files relative to its root, unordered."""
    names = []
    for folder, subfolders, files in os.walk(library_root()):
        subfolders[:] = set(subfolders) - EXCLUDED
        relative = Path(folder).relative_to(library_root())
        names += [(relative / name).as_posix() for name in files if name.endswith(".py")]
    return tuple(names)


def docstrings(source: str) -> str:
    """The docstrings of a module, separated by blank lines; empty if it does not parse."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return ""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    found = (ast.get_docstring(node) for node in ast.walk(tree) if isinstance(node, documented))
    return "\n\n".join(text for text in found if text)


def cyrillic(text: str) -> str:
    """Replace every Latin letter by a Cyrillic one, as a stand-in for a non-Latin script."""
    return text.translate(CIPHER)


def bilingual(source: str) -> str:
    """A module's docstrings, followed by the same text in Cyrillic letters."""
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

    Files are read in the order of the hash of their paths, one text each, until `megabytes` (10**6
    bytes of UTF-8) are reached. Files that are not UTF-8 are skipped.
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
    """Tokenise texts, join them by the `end` token, and cut into int64 (windows, context)."""
    ids: list[int] = []
    for encoding in tokenizer.encode_batch(list(texts), add_special_tokens=False):
        ids += [*encoding.ids, end]
    count = len(ids) // context
    return torch.tensor(ids[: count * context], dtype=torch.int64).reshape(count, context)
