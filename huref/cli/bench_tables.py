"""Results of `huref bench` as text and as Markdown."""

from collections.abc import Iterator

from huref import escape
from huref.api.bench import Bench, BenchPair, Score
from huref.cli.tables import align, counted
from huref.errors import one_line

HEAD = ("relation", "right", "of", "95 % interval", "wrong", "inconclusive", "disputed",
        "not measured", "direction")  # fmt: skip
NAMED = 40  # pairs that the terminal names for each outcome; the files have all of them


def messages(result: Bench) -> Iterator[str]:
    """What is wrong with the list, its rows and its models, one line each."""
    place = one_line(result.path)
    yield from (one_line(f"{place}: {fault}") for fault in result.faults)
    for pair in result.pairs:
        line = f"{place}: line {pair.listed.line}"
        if pair.status == "not measured":
            yield one_line(f"{line}: {pair.why}")
        yield from (one_line(f"{line}: {note}") for note in pair.notes)


def as_text(result: Bench) -> str:
    """The counts by relation; then, by name, every pair that was not right."""
    rows = [list(HEAD), *([name or "-", *_cells(score)] for name, score in _groups(result))]
    lines = [*align(rows, left=1)]
    for status in ("wrong", "inconclusive", "disputed"):
        found = [pair for pair in result.pairs if pair.status == status]
        if found:
            lines += ["", f"{status}:", *(f"  {_sentence(pair)}" for pair in found[:NAMED])]
        if len(found) > NAMED:
            lines.append(f"  and {len(found) - NAMED:,} more")
    wrong = [pair for pair in result.pairs if pair.direction == "wrong"]
    if wrong:
        lines += ["", "direction wrong:", *(f"  {_names(pair)}" for pair in wrong[:NAMED])]
    return "\n".join(lines)


def _groups(result: Bench) -> Iterator[tuple[str, Score]]:
    """The results by relation; then those of all rows."""
    relations = result.relations
    yield from relations.items()
    if len(relations) > 1:
        yield "all", result.score


def _cells(score: Score) -> list[str]:
    data = score.to_json()
    low, high = data["right_interval"]
    interval = f"{100 * low:.1f} to {100 * high:.1f} %" if data["of"] else "-"
    directions = data["direction"]
    direction = "-"
    if any(directions.values()):
        direction = ", ".join(f"{count} {name}" for name, count in directions.items())
    counts = ("wrong", "inconclusive", "disputed", "not_measured")
    return [
        str(data["right"]), str(data["of"]), interval, *(str(data[name]) for name in counts),
        direction,
    ]  # fmt: skip


def _names(pair: BenchPair) -> str:
    return f"{one_line(pair.listed.id_a)} / {one_line(pair.listed.id_b)}"


def _sentence(pair: BenchPair) -> str:
    """A pair that was not right, in one line."""
    listed = pair.listed
    if pair.measured is None:
        return one_line(f"line {listed.line}: {_names(pair)}: {pair.why}")
    verdict = pair.measured["verdict"] or "no verdict"
    return one_line(f"{_names(pair)}: expected {listed.expected}, got {verdict}: {pair.why}")


def as_markdown(result: Bench) -> str:
    """The counts by relation, all pairs with the rivals' scores, and the costs of the models."""
    score = result.score
    title = escape.markdown(result.path.name)
    lines = [
        f"# {title}",
        "",
        f"{counted(score.measured, 'pair')} measured and not disputed, "
        f"{score.counts.get('right', 0)} right; recipe {result.recipe}.",
        "",
        *_table(list(HEAD), [[name or "-", *_cells(one)] for name, one in _groups(result)]),
        "",
        "## Pairs",
        "",
    ]
    head = ["a", "b", "relation", "expected", "measured", "", "ICS", "direction", "rivals"]
    lines += _table(head, [_pair_cells(pair) for pair in result.pairs], figures=("ICS",))
    lines += ["", "## Models", ""]
    costs = [
        [model["model"], f"{model['seconds']:.1f}", f"{model['bytes_read'] / 1e6:,.1f}",
         f"{model['bytes_total'] / 1e6:,.1f}", model["error"] or ""]
        for model in result.models
    ]  # fmt: skip
    head = ["model", "seconds", "MB read", "MB of weights", "error"]
    lines += _table(head, costs, figures=head[1:4])
    return "\n".join(lines) + "\n"


def _pair_cells(pair: BenchPair) -> list[str]:
    listed, measured = pair.listed, pair.measured
    rivals = "; ".join(f"{name} {score}".strip() for name, score in listed.rivals.items())
    verdict, ics = "-", "-"
    if measured is not None:
        verdict = measured["verdict"] or "no verdict"
        ics = "-" if measured["ics"] is None else f"{measured['ics'] + 0:.4f}"
    return [
        listed.id_a, listed.id_b, listed.relation, listed.expected, verdict, pair.status, ics,
        pair.direction or "", rivals,
    ]  # fmt: skip


def _table(
    head: list[str], rows: list[list[str]], figures: tuple[str, ...] | list[str] = HEAD[1:-1]
) -> Iterator[str]:
    yield "| " + " | ".join(head) + " |"
    yield "| " + " | ".join("---:" if name in figures else "---" for name in head) + " |"
    for row in rows:
        yield "| " + " | ".join(map(escape.markdown, row)) + " |"
