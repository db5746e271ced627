"""Names of models that may be published: without the folders of this or another machine."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path, PureWindowsPath

from huref.invariants.record import Record
from huref.lineage.table import LineageTable


def public_name(record: Record) -> str:
    """A Hub id unchanged; for a path of this or another machine, the last part of it."""
    return public_path(record.model, record.revision)


def public_path(model: str, revision: str | None = None) -> str:
    """The same for a model's name and its commit, if it has one."""
    place = Path(model).expanduser()
    if place.exists() and not revision:
        return place.resolve().name
    windows = PureWindowsPath(model)
    is_path = place.is_absolute() or bool(windows.drive) or model[:1] in ("~", ".")
    return windows.name if is_path else model


def public_names(records: Iterable[Record]) -> list[str]:
    """Public names, with a number where several are equal."""
    names = [public_name(record) for record in records]
    return [
        name if names.index(name) == i else f"{name} #{names[: i + 1].count(name)}"
        for i, name in enumerate(names)
    ]


def public_table(table: LineageTable) -> LineageTable:
    """The same table under public names."""
    names = public_names(table.records)
    public = dict(zip(table.models, names, strict=True))

    def renamed(models: Sequence[str]) -> tuple[str, ...]:
        return tuple(public.get(model, model) for model in models)

    pairs = zip(combinations(range(len(names)), 2), table.pairs, strict=True)
    return replace(
        table,
        records=tuple(
            replace(record, model=name) for record, name in zip(table.records, names, strict=True)
        ),
        pairs=tuple(replace(pair, a=names[i], b=names[j]) for (i, j), pair in pairs),
        mixings=tuple(
            replace(
                one,
                child=renamed([one.child])[0],
                parents=renamed(one.parents),
                base=None if one.base is None else renamed([one.base])[0],
            )
            for one in table.mixings
        ),
    )
