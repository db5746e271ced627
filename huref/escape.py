"""Text from outside, made harmless for the place where it is written.

Names of models, tensors and tokens, servers' messages and reasons are text that a stranger may have
chosen. Each writer passes them through the function of its format.
"""

import json
import re
import unicodedata
from typing import Any

# They change the direction of the text after them, so that a name could pose as another.
DIRECTION_MARKS = frozenset(
    "\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u061c"
)
_UNSAFE = ("Cc", "Cs", "Zl", "Zp")  # control characters, surrogates, line and paragraph separators
_ASCII = re.compile(r"[ -~]*")
_SPREADSHEET = tuple("=+-@\t\r\n|＝＋－＠")  # beginnings of cells that programs compute
_JSON_UNSAFE = re.compile(
    "[\x7f-\x9f\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff" + "".join(sorted(DIRECTION_MARKS)) + "]"
)
_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "[": "{[}", "]": "{]}", "*": "{*}", "|": "{|}",
    '"': "{''}", "`": r"\textasciigrave{}",
}  # fmt: skip
# An underscore inside a word begins no emphasis.
_MARKDOWN = re.compile(r"[\\`*\[\]<>|~$]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")
_LINK = re.compile(r"(?i)(://|www\.|@|&)")
_ENTITIES = {"://": "&#58;//", "@": "&#64;", "&": "&amp;"}


def is_unsafe(letter: str) -> bool:
    """Whether a character is invisible, controls a terminal, or cannot be encoded."""
    return (
        letter in DIRECTION_MARKS
        or unicodedata.category(letter) in _UNSAFE
        or ord(letter) & 0xFFFE == 0xFFFE  # no characters; XML does not allow them
        or letter == "\ufeff"
    )


def printable(text: str) -> str:
    """The text with each unsafe character replaced by U+FFFD; for pages and drawings."""
    if _ASCII.fullmatch(text):
        return text
    return "".join("\ufffd" if is_unsafe(letter) else letter for letter in text)


def terminal(text: object) -> str:
    r"""The text as one line for a terminal; unsafe characters are written as \x1b or \u202e."""
    words = str(text)
    if _ASCII.fullmatch(words):
        return words
    return "".join(
        letter.encode("unicode_escape").decode("ascii") if is_unsafe(letter) else letter
        for letter in words
    )


def terminal_lines(text: object) -> str:
    """Like `terminal`, for text of several lines that huref laid out: keeps line ends and tabs."""
    return "\n".join("\t".join(map(terminal, line.split("\t"))) for line in str(text).split("\n"))


def csv_cell(value: object) -> object:
    """A cell that no spreadsheet computes: text that begins like a formula gets an apostrophe."""
    if not isinstance(value, str):
        return value
    text = terminal(value)
    return f"'{text}" if text.lstrip().startswith(_SPREADSHEET) else text


def markdown(text: str) -> str:
    """Text for a cell of a table in Markdown, without markup, HTML or links."""
    linked = _LINK.sub(lambda match: _entity(match[0]), printable(text))
    return _MARKDOWN.sub(lambda match: f"\\{match[0]}", linked)


def _entity(text: str) -> str:
    return "www&#46;" if text.lower() == "www." else _ENTITIES[text]


def latex(text: str) -> str:
    """Text for a cell of a tabular.

    Brackets and stars are put into groups: after a line's end they would be arguments of it.
    """
    return "".join(_LATEX.get(letter, letter) for letter in text if not is_unsafe(letter))


def newick(label: str) -> str:
    """A quoted label of a tree; quotes are doubled, unsafe characters become spaces."""
    kept = "".join(" " if is_unsafe(letter) else letter for letter in label)
    return "'" + kept.replace("'", "''") + "'"


def to_json(value: Any, indent: int | None = None) -> str:
    r"""JSON in Unicode; characters that would act on a terminal are written as \u009b."""
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    return _JSON_UNSAFE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)
