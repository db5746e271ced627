"""`huref cache`: the records that huref keeps of measured models."""

import click

from huref.cli.options import echo, json_option, print_json


@click.group()
def cache() -> None:
    """List or remove the cached records of measured models.

    Records leak weights; the cache is readable by you alone.
    """


@cache.command("list")
@json_option
def list_records(as_json: bool) -> None:
    """List the cached records: model, commit, recipe, size and date."""
    from huref.api.cache import cache_folder, list_cached
    from huref.cli.tables import align, counted

    entries = list_cached()
    if as_json:
        records = [entry.to_json() for entry in entries]
        print_json({"folder": str(cache_folder()), "records": records})
        return
    rows = [["model", "commit", "recipe", "MB", "written"]]
    for entry in entries:
        commit = (entry.revision or "-")[:12]
        rows.append([entry.model, commit, entry.recipe, f"{entry.size / 1e6:.1f}", entry.written])
    echo("\n".join(align(rows, left=3)))
    total = sum(entry.size for entry in entries)
    size = f"{total / 1e6:,.1f} MB"
    echo(f"{counted(len(entries), 'record')}, {size}, in {cache_folder()}", err=True)


@cache.command()
@json_option
def purge(as_json: bool) -> None:
    """Remove all cached records."""
    from huref.api.cache import cache_folder, purge_cache
    from huref.cli.tables import counted

    count, size = purge_cache()
    if as_json:
        print_json({"folder": str(cache_folder()), "removed": count, "bytes": size})
    else:
        echo(f"removed {counted(count, 'record')}, {size / 1e6:,.1f} MB")
