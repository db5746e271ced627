"""A registry in LanceDB, in a local folder or an object store.

LanceDB commits each write as a new version of its table, so a writer that dies leaves the last
version intact. Unlike in a folder registry, removed models stay in old versions until LanceDB
cleans these up, and `add` commits a few thousand models at a time.
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from huref.bounded_json import loads
from huref.errors import RegistryError
from huref.recipe import LATENT_SIZE, Recipe, parse_recipe
from huref.registry.entry import Entry
from huref.registry.matrices import from_columns
from huref.registry.sketch import VERSION, kept_of
from huref.registry.store import Chunk, Store, parse_label, refuse_unfit, require_version
from huref.registry.stores.catalogue import MADE_ALREADY, MAKE_ONE, NO_REGISTRY, RESTORE

os.environ.setdefault("LANCE_LOG", "error")  # it logs a warning for every table it creates

try:
    import lancedb
    import pyarrow as pa
except ImportError as missing:
    raise RegistryError(
        "a registry in LanceDB needs two more packages", advice="pip install 'huref[lance]'"
    ) from missing

TABLE = "models"
BATCH = 2048  # models per commit
CHUNK = 512  # models read at a time
FRAGMENTS = 64  # small files from which on the table is compacted
SIGNATURE = ("signer", "signature")
LABELS = ("model", "revision", "base", "measured_at", "measured_by", *SIGNATURE)


class LanceStore(Store):
    """A registry in a LanceDB table."""

    def __init__(self, uri: str, recipe: Recipe, table: Any, require: str = ""):
        self.uri = uri
        self.recipe = recipe
        self.require = require
        self._table = table

    @classmethod
    def create(cls, uri: str, recipe: Recipe, require: str = "") -> "LanceStore":
        """See `create_store`."""
        with _explained(uri):
            database = lancedb.connect(uri)
            if TABLE in database.list_tables().tables:
                raise RegistryError(MADE_ALREADY, file=uri)
            table: Any = database.create_table(TABLE, schema=_schema(recipe, require))
            # So that of two writers that add one key at the same time, one fails and tries again.
            table.set_unenforced_primary_key("key")
            return cls(uri, recipe, table, require)

    @classmethod
    def open(cls, uri: str) -> "LanceStore":
        """See `open_store`."""
        if "://" not in uri and not Path(uri).is_dir():
            raise RegistryError(NO_REGISTRY, file=uri, advice=MAKE_ONE)
        with _explained(uri):
            database = lancedb.connect(uri)
            if TABLE not in database.list_tables().tables:
                raise RegistryError(NO_REGISTRY, file=uri, advice=MAKE_ONE)
            table = database.open_table(TABLE)
            about: Mapping[bytes, bytes] = table.schema.metadata or {}
        try:
            recipe = parse_recipe(loads(about[b"recipe"]), uri)
            version = about[b"sketch"].decode()
        except (KeyError, ValueError) as error:
            raise RegistryError(f"its table '{TABLE}' is no registry of huref", file=uri) from error
        require_version(version, uri)
        return cls(uri, recipe, table, about.get(b"require", b"").decode())

    def has(self, model: str, revision: str | None, recipe: str) -> bool:
        """See Store."""
        where = f"key = {_quote(_key(model, revision))}"
        with _explained(self.uri):
            self._table.checkout_latest()
            return recipe == self.recipe.digest and self._table.count_rows(where) > 0

    def add(self, entries: Iterable[Entry]) -> int:
        """See Store. Commits a few thousand entries at a time."""
        added, remaining = 0, iter(entries)
        while batch := list(islice(remaining, BATCH)):
            refuse_unfit(batch, self.recipe, self.uri, self.require)
            fresh = {_key(entry.model, entry.revision): entry for entry in reversed(batch)}
            with _explained(self.uri):
                if missing := [n for n in SIGNATURE if n not in self._table.schema.names]:
                    self._table.add_columns(dict.fromkeys(missing, "''"))  # an older huref's
                merge = self._table.merge_insert("key").when_not_matched_insert_all()
                result = merge.execute(self._rows(list(reversed(fresh.values()))))
            added += int(result.num_inserted_rows)
        with _explained(self.uri):
            if self._table.stats()["fragment_stats"]["num_small_fragments"] > FRAGMENTS:
                self._table.optimize()
        return added

    def remove(self, model: str, revision: str | None = None) -> int:
        """See Store."""
        where = f"model = {_quote(model)}"
        if revision is not None:
            where += f" AND revision = {_quote(revision)}"
        with _explained(self.uri):
            return int(self._table.delete(where).num_deleted_rows)

    def chunks(self, *, sketches: bool = True) -> Iterator[Chunk]:
        """See Store."""
        with _explained(self.uri):
            self._table.checkout_latest()
            names = [name for name in LABELS if name in self._table.schema.names]
            columns = [*names, "latent", "anchors", *(["sketch"] if sketches else [])]
            for batch in self._table.search().select(columns).to_batches(CHUNK):
                yield self._chunk(batch)

    def __len__(self) -> int:
        with _explained(self.uri):
            self._table.checkout_latest()
            return int(self._table.count_rows())

    def count_bases(self) -> int:
        """See Store."""
        with _explained(self.uri):
            self._table.checkout_latest()
            return int(self._table.count_rows("base IS NULL"))

    def _chunk(self, batch: Any) -> Chunk:
        count = batch.num_rows
        columns = {
            name: batch.column(name).flatten().to_numpy(zero_copy_only=False).reshape(count, -1)
            for name in ("latent", "sketch", "anchors")
            if name in batch.schema.names
        }
        empty = np.zeros((count, 0, 0), np.uint8)
        terms = len(self.recipe.layers) * 3
        sketches = columns["sketch"].reshape(count, terms, -1) if "sketch" in columns else empty
        m = from_columns([(columns["latent"], sketches, columns["anchors"])])
        names = [name for name in LABELS if name in batch.schema.names]
        texts = zip(*(batch.column(name).to_pylist() for name in names), strict=True)
        try:
            labels = [parse_label(*row) for row in texts]
        except ValueError as error:
            raise RegistryError(str(error), file=self.uri, advice=RESTORE) from error
        return Chunk(m.latents, m.sketches, m.vocabularies, m.vocabulary, labels)

    def _rows(self, entries: list[Entry]) -> Any:
        schema = _schema(self.recipe)
        columns: list[Any] = [[_key(e.model, e.revision) for e in entries]]
        columns += [[getattr(e, name) for e in entries] for name in LABELS]
        columns[2] = [e.revision or "" for e in entries]
        for name in ("latent", "sketch", "anchors"):
            numbers = np.stack([getattr(e, name).reshape(-1) for e in entries])
            kind = schema.field(name).type
            flat = pa.array(numbers.reshape(-1), kind.value_type)
            columns.append(pa.FixedSizeListArray.from_arrays(flat, kind.list_size))
        return pa.table(columns, schema=schema)


def _schema(recipe: Recipe, require: str = "") -> Any:
    size = len(recipe.layers) * 3 * kept_of(recipe.m) // 8
    fields = [pa.field("key", pa.string(), nullable=False)]
    fields += [pa.field(name, pa.string()) for name in LABELS]
    fields += [
        pa.field("latent", pa.list_(pa.float32(), LATENT_SIZE)),
        pa.field("sketch", pa.list_(pa.uint8(), size)),
        pa.field("anchors", pa.list_(pa.uint32(), recipe.m)),
    ]
    about = {"recipe": recipe.to_json(), "sketch": VERSION, "require": require}
    return pa.schema(fields, metadata=about)


def _key(model: str, revision: str | None) -> str:
    return f"{model}@{revision or ''}"


def _quote(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


@contextmanager
def _explained(uri: str) -> Iterator[None]:
    """Turn LanceDB's errors inside the block into RegistryErrors of one line."""
    try:
        yield
    except (RuntimeError, ValueError, OSError) as error:
        reason = str(error).strip().partition("\n")[0].partition(", /")[0]  # without source paths
        raise RegistryError(
            f"it is damaged, or cannot be reached ({reason})", file=uri, advice=RESTORE
        ) from error
