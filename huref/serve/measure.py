"""What a worker does for a task: measure by huref's functions, draw, and put into words."""

import base64
import io
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image

from huref.api.compare import compare
from huref.api.fingerprint import render
from huref.api.public import public_table
from huref.decoder.picture import Picture
from huref.decoder.spoken import spoken_code
from huref.errors import HurefError
from huref.escape import printable
from huref.invariants.record import Record
from huref.lineage.signs import signs_of
from huref.lineage.table import LineageTable
from huref.progress import listening
from huref.registry.identification import SHOWN, Identification
from huref.registry.identify import identify
from huref.registry.stores import open_store
from huref.report.page import render_report
from huref.report.portraits import draw_portraits
from huref.report.sentences import tell_chance, tell_pairs, tell_power, tell_table
from huref.serve.pages import render_view
from huref.serve.stages import READING, Stages
from huref.serve.task import Advance, Page, Result, Task
from huref.version import SCHEMA, __version__

SIDE = 256  # pixels of a dog on the page


def measure_task(task: Task, tell: Callable[[Advance], None]) -> Result:
    """Do a task, telling how far it is.

    Raises:
        HurefError: it has no result; the message says why.
    """
    stages = Stages(task.kind, [model.shown for model in task.models], tell)
    with listening(stages.step):
        if task.kind == "compare":
            return _compare(task, stages)
        if task.kind == "identify":
            return _identify(task, stages)
        return _draw_map(task)


def _compare(task: Task, stages: Stages) -> Result:
    table = _shown(compare([model.name for model in task.models], skip_failed=True), task)
    stages.say("Drawing the dogs", READING)
    portraits = draw_portraits(table)
    report = render_report(public_table(table), portraits)
    labels = table.labels
    view = render_view(
        "comparison",
        job=task.job,
        sentences=[tell_table(table)],
        pair_sentences=list(tell_pairs(table)) if len(table.pairs) > 1 else [],
        chances=_once([tell_chance(pair) for pair in table.pairs]),
        dogs=[
            _dog(label, image, record)
            for label, image, record in zip(labels, portraits.images, table.records, strict=True)
        ],
        pairs=list(zip(_pair_labels(labels), table.pairs, strict=True)),
        signs=[(label, signs_of(one)) for label, one in zip(labels, table.records, strict=True)],
        failed=table.failed,
        mixings=table.mixings,
    )
    data = {"huref": __version__, "schema": SCHEMA, **table.to_json()}
    return Result(_relabel(data, task), view, {"report": Page(report, "huref-report.html")})


def _identify(task: Task, stages: Stages) -> Result:
    found = identify(task.models[0].name, _open_registry(task.registry))
    stages.say("Drawing the dogs", READING)
    nearest = found.candidates[:SHOWN]
    shown = [(task.models[0].shown, found.record)]
    shown += [(one.model, _latent_only(one.match.entry.latent, found.record)) for one in nearest]
    view = render_view(
        "identification",
        job=task.job,
        model=printable(_short(task.models[0].shown)),
        found=found,
        chance=_stranger(found),
        dogs=[_dog(_short(name), _draw(record), record) for name, record in shown],
        registry=task.registry,
    )
    data = {"huref": __version__, "schema": SCHEMA, **found.to_json()}
    return Result(_relabel(data, task), view)


def _draw_map(task: Task) -> Result:
    from huref.registry.map.draw import draw_map
    from huref.registry.map.page import render_page

    page = render_page(draw_map(_open_registry(task.registry)))
    return Result(None, "", {"map": Page(page, "huref-map.html")})


def _open_registry(uri: str) -> Any:
    return open_store(uri)


def _shown(table: LineageTable, task: Task) -> LineageTable:
    """The table with uploads and errors under the names that the page knows."""
    failed = tuple(
        replace(one, model=_rename(one.model, task), error=_rename(one.error, task))
        for one in table.failed
    )
    return replace(table, failed=failed)


def explain(error: Exception, task: Task) -> str:
    """An error's message under the names that the page knows."""
    return _rename(str(error), task)


def _rename(text: str, task: Task) -> str:
    for model in sorted(task.models, key=lambda one: -len(one.name)):
        if model.name != model.shown:
            text = text.replace(model.name, model.shown)
    return text


def _relabel(data: Any, task: Task) -> Any:
    """JSON without the paths under which uploads are stored."""
    uploads = replace(task, models=tuple(m for m in task.models if m.text.startswith("upload:")))
    if not uploads.models:
        return data
    if isinstance(data, dict):
        return {key: _relabel(value, uploads) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_relabel(value, uploads) for value in data]
    return _rename(data, uploads) if isinstance(data, str) else data


def _pair_labels(labels: list[str]) -> list[tuple[str, str]]:
    shown = [printable(label) for label in labels]
    return [(a, b) for i, a in enumerate(shown) for b in shown[i + 1 :]]


def _once(texts: list[str]) -> list[str]:
    return list(dict.fromkeys(filter(None, texts)))


def _stranger(found: Identification) -> str:
    """The chance that an unrelated model scores as high as the chosen base, or ""."""
    if found.chosen is None or found.base is None:
        return ""
    return tell_power(found.chosen.log10_stranger)


def _latent_only(latent: np.ndarray, like: Record) -> Record:
    return replace(like, terms=None, units=None, latent=latent)


def _draw(record: Record) -> Picture | None:
    try:
        return np.asarray(render(record, redraw=True), dtype=np.uint8)
    except HurefError:
        return None


def _dog(label: str, image: Picture | None, record: Record) -> dict[str, str]:
    """A dog for the page: its name, data URI and spoken code."""
    code = " ".join(spoken_code(record.latent)) if record.latent is not None else ""
    return {"name": printable(label), "uri": _uri(image), "code": code}


def _uri(image: Picture | None) -> str:
    if image is None:
        return ""
    buffer = io.BytesIO()
    dog = Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    dog.save(buffer, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def _short(name: str) -> str:
    return name.rstrip("/").rpartition("/")[2]


def warm_up() -> None:
    """Load the networks before the first task."""
    from huref.api.open import cached_encoder
    from huref.api.picture import cached_decoder
    from huref.recipe import load_recipe

    _, encoder, decoder = load_recipe()
    cached_encoder(encoder)
    cached_decoder(decoder)
