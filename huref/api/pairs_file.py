"""Reads a list of pairs of models with expected verdicts, for `huref bench`."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, get_args

from huref.assets import locate
from huref.errors import HurefError, one_line
from huref.lineage.evidence import Verdict

Side = Literal["a", "b"]
DISPUTED = "disputed"
EXPECTED = (*get_args(Verdict), DISPUTED)
REQUIRED = ("id_a", "id_b", "expected")
RELATION, RIVALS, OLDER = "relation", "rivals", "older"
KNOWN = (*REQUIRED, RELATION, RIVALS, OLDER)
MOST_PAIRS = 50_000  # each takes a second or more to measure
MOST_COLUMNS = 200
SHIPPED = {"public": "configs/public-pairs.tsv"}


@dataclass(frozen=True)
class ListedPair:
    """A row of the list.

    Attributes:
        line: of the file, from 1.
        id_a, id_b: the models, as the list names them.
        relation: free text by which results are grouped.
        expected: a verdict, or "disputed".
        older: which of the two models is the parent, where the list says so.
        rivals: published scores of other tools by their names.
        others: the cells of all other columns.
        fault: why the row cannot be used, or "".
    """

    line: int
    id_a: str
    id_b: str
    relation: str
    expected: str
    older: Side | None = None
    rivals: dict[str, str] = field(default_factory=dict)
    others: dict[str, str] = field(default_factory=dict)
    fault: str = ""


@dataclass(frozen=True)
class PairList:
    """A list of pairs.

    Attributes:
        path: the file.
        pairs: its rows in order, unusable ones included.
        faults: what is wrong with the list as a whole.
    """

    path: Path
    pairs: tuple[ListedPair, ...]
    faults: tuple[str, ...] = ()

    def where(self, conditions: Mapping[str, str]) -> "PairList":
        """The rows whose cells have the given values.

        Raises:
            HurefError: no row has a column of that name, or none has these values.
        """
        for column in conditions:
            if not any(column in cells(pair) for pair in self.pairs):
                raise HurefError(f"there is no column '{one_line(column)}'", file=self.path)
        chosen = tuple(
            pair
            for pair in self.pairs
            if all(cells(pair).get(name) == value for name, value in conditions.items())
        )
        if not chosen:
            wanted = ", ".join(f"{name}={value}" for name, value in conditions.items())
            raise HurefError(f"no row has {one_line(wanted)}", file=self.path)
        return replace(self, pairs=chosen)


def cells(pair: ListedPair) -> dict[str, str]:
    """A row's cells by column, except for the rivals' scores."""
    known = {name: str(getattr(pair, name)) for name in (*REQUIRED, RELATION)}
    return known | {OLDER: pair.older or ""} | pair.others


def find_list(name: str) -> Path:
    """The path of a list; "public" is the shipped one unless there is a file of that name."""
    path = Path(name).expanduser()
    return locate(SHIPPED[name]) if name in SHIPPED and not path.exists() else path


def read_pairs(path: Path) -> PairList:
    """Read a list: tab-separated (or comma-separated in a .csv), with a header line.

    Empty lines and lines that begin with "#" are skipped. A row that cannot be used has a `fault`.

    Raises:
        HurefError: the file cannot be read, or has no rows or no column of models or verdicts.
    """
    lines = _read_lines(path)
    if not lines:
        raise HurefError("the list of pairs is empty", file=path)
    header = [name.strip() for name in lines[0][1]]
    if len(header) > MOST_COLUMNS:
        raise HurefError(f"it has more than {MOST_COLUMNS} columns", file=path)
    repeated = sorted({name for name in header if name and header.count(name) > 1})
    if repeated:
        raise HurefError(f"it has several columns '{one_line(repeated[0])}'", file=path)
    missing = [name for name in REQUIRED if name not in header]
    if missing:
        raise HurefError(
            f"there is no column {' and no column '.join(repr(name) for name in missing)}",
            file=path,
            advice=f"the first line names the columns: {', '.join((*REQUIRED, RELATION))}",
        )
    pairs = tuple(_parse(number, header, row) for number, row in lines[1:])
    if not pairs:
        raise HurefError("it lists no pairs", file=path)
    faults = () if RELATION in header else (f"there is no column '{RELATION}'",)
    return PairList(path, pairs, faults)


def _read_lines(path: Path) -> list[tuple[int, list[str]]]:
    """The cells of the lines that are not skipped, each with its number."""
    if path.is_dir():
        raise HurefError("it is a folder, not a list of pairs", file=path)
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError as error:
        raise HurefError("there is no such list of pairs", file=path) from error
    except UnicodeDecodeError as error:
        raise HurefError("it is not a text in UTF-8", file=path) from error
    numbered = [
        (number, line)
        for number, line in enumerate(text.splitlines(), start=1)
        if line.strip() and not line.startswith("#")
    ]
    if len(numbered) > MOST_PAIRS:
        raise HurefError(
            f"it has more than {MOST_PAIRS:,} lines", file=path, advice="measure it in parts"
        )
    comma = path.suffix.lower() == ".csv"
    # Cells of a tab-separated list hold quotation marks as any other character.
    reader = csv.reader(
        (line for _, line in numbered),
        delimiter="," if comma else "\t",
        quoting=csv.QUOTE_MINIMAL if comma else csv.QUOTE_NONE,
    )
    try:
        return [(number, row) for (number, _), row in zip(numbered, reader, strict=True)]
    except (csv.Error, ValueError) as error:
        raise HurefError(f"it cannot be read ({error})", file=path) from error


def _parse(line: int, header: Sequence[str], row: Sequence[str]) -> ListedPair:
    values = {
        name: cell.strip() for name, cell in zip(header, row, strict=False) if name and cell.strip()
    }
    surplus = [cell for cell in row[len(header) :] if cell.strip()]
    older = values.get(OLDER, "")
    sides: dict[str, Side] = {"a": "a", "b": "b"}
    others = {name: values.get(name, "") for name in header if name and name not in KNOWN}
    if older and older not in sides:
        others[OLDER] = older  # a column of this name with another meaning
    return ListedPair(
        line=line,
        id_a=values.get("id_a", ""),
        id_b=values.get("id_b", ""),
        relation=values.get(RELATION, ""),
        expected=values.get("expected", ""),
        older=sides.get(older),
        rivals=parse_rivals(values.get(RIVALS, "")),
        others=others,
        fault=_find_fault(values, surplus),
    )


def _find_fault(values: Mapping[str, str], surplus: Sequence[str]) -> str:
    if surplus:
        return f"it has more cells than the header: '{one_line(surplus[0])}'"
    for name in REQUIRED:
        if name not in values:
            return f"the column '{name}' is empty"
    if values["expected"] not in EXPECTED:
        return (
            f"'{one_line(values['expected'])}' is no verdict; expected is one of "
            f"{', '.join(EXPECTED)}"
        )
    return ""


def parse_rivals(text: str) -> dict[str, str]:
    """Scores by tool from "NAME=SCORE; NAME=SCORE"; a part without "=" belongs to the last one."""
    scores: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in text.split(";"))):
        name, equals, score = part.partition("=")
        if equals and name.strip():
            scores[name.strip()] = score.strip()
        elif scores:
            last = next(reversed(scores))
            scores[last] = f"{scores[last]}; {part}"
        else:
            scores[part] = ""
    return scores
