"""`huref registry`: measured models under one URI, to look others up among them."""

import dataclasses
import sys
from pathlib import Path

import click

from huref.cli.options import as_file, echo, json_option, key_option, print_json, recipe_option
from huref.errors import RecipeError, RegistryError, one_line
from huref.escape import terminal

LISTED = ("model", "revision", "base", "measured_at", "measured_by")  # of an entry, as JSON


@click.group()
def registry() -> None:
    """Keep measured models, to look others up among them.

    A URI is a folder, or a LanceDB whose name ends in .lance (pip install 'huref[lance]').
    Nothing in a registry needs to be kept private: a model's latent, and a sketch of its terms, the
    signs of 49,152 random sums, from which no weight follows.
    """


@registry.command()
@click.argument("uri")
@click.option("--require", type=click.Choice(["signed"]), help="Take signed entries alone.")
@recipe_option
@json_option
def init(uri: str, require: str | None, recipe: str, as_json: bool) -> None:
    """Create an empty registry at URI."""
    from huref.recipe import load_recipe
    from huref.registry.stores import create_store

    store = create_store(uri, load_recipe(recipe)[0], require or "")
    if as_json:
        print_json({"uri": store.uri, "recipe": store.recipe.digest})
    else:
        echo(f"created {store.uri} for the recipe {terminal(recipe)} {store.recipe.digest}")


@registry.command()
@click.argument("uri")
@click.argument("models", nargs=-1, required=True)
@click.option("--base", metavar="MODEL", help="Their base.  [default: what the card declares]")
@click.option("--by", "measured_by", metavar="NAME", help="Who measures.  [default: nobody]")
@key_option
@recipe_option
@json_option
def add(
    uri: str,
    models: tuple[str, ...],
    base: str | None,
    measured_by: str | None,
    key: Path | None,
    recipe: str,
    as_json: bool,
) -> None:
    """Measure MODELS and add them to the registry at URI.

    A MODEL is a folder, a Hub id, a record, or a .jsonl file that 'huref registry export' wrote.
    A picture has no sketch and is refused. Models that the registry holds at the same commit are
    left as they are. Exits with 1 when one of them failed; the others are added all the same.
    """
    from huref.evidence.keys import load_signer
    from huref.registry.fleet.additions import add_models
    from huref.registry.stores import open_store

    signer = load_signer(key) if key is not None else None
    done = add_models(open_store(uri), models, recipe, base, measured_by, signer)
    if as_json:
        print_json(dataclasses.asdict(done))
    else:
        for model in done.added:
            echo(f"added    {terminal(model)}")
        for model in done.known:
            echo(f"known    {terminal(model)}")
    for failure in done.failed:
        echo(f"huref: {one_line(failure['model'])}: {one_line(failure['why'])}", err=True)
    if done.failed:
        sys.exit(1)


@registry.command("list")
@click.argument("uri")
@json_option
def list_entries(uri: str, as_json: bool) -> None:
    """List the models of the registry at URI."""
    from huref.cli.tables import align, counted
    from huref.registry.signing import signer_of
    from huref.registry.stores import open_store

    store = open_store(uri)
    labels = sorted(store.labels(), key=lambda label: (label.model, label.revision or ""))
    if as_json:
        entries = [
            {name: getattr(label, name) for name in LISTED} | {"signer": signer_of(label.signer)}
            for label in labels
        ]
        print_json({"uri": store.uri, "recipe": store.recipe.digest, "models": entries})
        return
    rows = [["model", "commit", "base", "measured", "by", "signed by"]]
    for label in labels:
        commit = (label.revision or "-")[:12]
        rows.append(
            [
                label.model,
                commit,
                label.base or "-",
                label.measured_at,
                label.measured_by or "-",
                (signer_of(label.signer) or "-")[:16],
            ]
        )
    echo("\n".join(align(rows, left=6)))
    models = counted(len(labels), "model")
    echo(f"{models}, recipe {terminal(store.recipe.name)} {store.recipe.digest}", err=True)


@registry.command()
@click.argument("uri")
@click.argument("models", nargs=-1, required=True)
@json_option
def remove(uri: str, models: tuple[str, ...], as_json: bool) -> None:
    """Remove MODELS (a name, or name@commit) from the registry at URI."""
    from huref.api.public import public_path
    from huref.registry.stores import open_store

    store = open_store(uri)
    gone = {}
    for model in models:
        # A local model's own name may hold an @.
        gone[model] = store.remove(model) or store.remove(public_path(model))
        name, at, revision = model.rpartition("@")
        if not gone[model] and at:
            gone[model] = store.remove(name, revision)
    if as_json:
        print_json({"removed": gone})
    missing = [model for model, count in gone.items() if count == 0]
    for model, count in gone.items():
        if count and not as_json:
            echo(f"removed  {terminal(model)}" + (f" ({count} commits)" if count > 1 else ""))
    if missing:
        raise RegistryError(f"{uri}: not there: {', '.join(missing)}")


@registry.command()
@click.argument("uri")
@click.argument("model")
@click.option("-n", "--limit", default=10, show_default=True, type=click.IntRange(1))
@click.option("--bases", is_flag=True, help="Only models that declare no base.")
@recipe_option
@json_option
def search(uri: str, model: str, limit: int, bases: bool, recipe: str, as_json: bool) -> None:
    """Show what in the registry at URI is most like MODEL.

    By the sketches alone; no weights but MODEL's are read.
    """
    from huref.api.open import open_record
    from huref.cli.tables import align
    from huref.registry.entry import make_query
    from huref.registry.stores import open_store

    store = open_store(uri)
    record = open_record(model, recipe)
    if record.recipe.digest != store.recipe.digest:
        raise RecipeError(
            f"{model}: made by the recipe {record.recipe.digest}, but {uri} holds "
            f"{store.recipe.digest}"
        )
    matches = store.search(make_query(record), limit, bases_only=bases)
    if as_json:
        found = [
            {
                "model": match.entry.model,
                "revision": match.entry.revision,
                "base": match.entry.base,
                "sketch_ics": match.ics,
                "shared_anchors": match.shared_anchors,
                "latent_cosine": match.latent_cosine,
            }
            for match in matches
        ]
        print_json({"model": model, "of": len(store), "found": found})
        return
    rows = [["model", "base", "ICS", "anchors", "cos z"]]
    for match in matches:
        ics = "-" if match.ics is None else f"{match.ics + 0:.3f}"
        anchors = "-" if match.shared_anchors is None else str(match.shared_anchors)
        rows.append(
            [match.entry.model, match.entry.base or "-", ics, anchors, f"{match.latent_cosine:.3f}"]
        )
    echo("\n".join(align(rows, left=2)))


@registry.command()
@click.argument("uri")
@click.option("-o", "--out", required=True, help="A .jsonl or .csv file, or another URI to create.")
@key_option
@json_option
def export(uri: str, out: str, key: Path | None, as_json: bool) -> None:
    """Write the registry to a file, or copy it into a new one.

    A .jsonl holds everything and can be added to another registry; a .csv only the names. Beside a
    .jsonl stands its digest (.sha256) and, with --key, a signature of that (.sig): so it can be
    published and fetched by 'huref registry pull'.
    """
    from huref.cli.tables import counted
    from huref.evidence.keys import load_signer
    from huref.registry.exchange import export as write
    from huref.registry.publication import publish
    from huref.registry.stores import open_store

    signer = load_signer(key) if key is not None else None
    if signer is not None and not out.endswith(".jsonl"):
        raise click.UsageError("--key signs a .jsonl file")
    count = write(open_store(uri), out)
    if out.endswith(".jsonl"):
        publish(Path(out), signer)
    if as_json:
        print_json({"out": out, "models": count})
    else:
        echo(f"wrote {out}: {counted(count, 'model')}")


@registry.command()
@click.argument("source", metavar="NAME|URL")
@click.option("-o", "--out", "uri", metavar="URI",
              help="Where it is added or created.  [default: ~/.huref/registry]")  # fmt: skip
@click.option("--sha256", default="", metavar="HEX", help="Its digest, if not the one beside it.")
@click.option(
    "--key", type=as_file, metavar="KEY.pub", help="Demand the signature of this public key."
)
@json_option
def pull(source: str, uri: str | None, sha256: str, key: Path | None, as_json: bool) -> None:
    """Fetch a registry that somebody published, and check its digest and signature.

    URL is the https address of a .jsonl file that 'huref registry export' wrote; NAME a data set of
    the Hub, org/name, which has it as registry.jsonl. The digest beside it finds damage; only
    --key, or a --sha256 from elsewhere, says who made it.
    """
    from huref.cli.tables import counted
    from huref.evidence.keys import load_public_key
    from huref.registry.pull import pull as fetch
    from huref.registry.store import default_uri

    public = load_public_key(key) if key is not None else None
    done = fetch(source, uri or default_uri(), sha256=sha256, key=public)
    if as_json:
        print_json(dataclasses.asdict(done))
        return
    signed = f"signed by {done.signer[:16]}" if done.signer else "signature not checked; see --key"
    echo(f"fetched  {counted(done.models, 'model')}, {done.added:,} new, into {done.uri}")
    echo(f"sha256   {done.sha256} ({signed})")


@registry.command("map")
@click.argument("uri")
@click.option(
    "-o",
    "--out",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="A page (.html) or a picture (.png).",
)
@click.option("--decoder", metavar="NAME|FILE", help="Another decoder than the registry's.")
def map_registry(uri: str, out: Path, decoder: str | None) -> None:
    """Draw the registry at URI as a map.

    Kin stand together, each family with its tree. The page can be searched and opens from disk; it
    needs no server and sends no requests.
    """
    from huref.cli.tables import counted
    from huref.registry.map.draw import draw_map
    from huref.registry.map.files import require_writable, save_map
    from huref.registry.stores import open_store

    require_writable(out)
    drawn = draw_map(open_store(uri), decoder)
    save_map(drawn, out)
    families = sum(len(family) > 1 for family in drawn.kinship.families)
    models, kin = counted(len(drawn.points), "model"), counted(families, "family", "families")
    echo(f"wrote {out}: {models}, {kin}", err=True)
