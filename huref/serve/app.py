"""The routes of a page and of its API (docs/serve.md)."""

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from huref.bounded_json import JsonError, loads_object
from huref.errors import HurefError, one_line
from huref.serve.guard import POLICY, Guard
from huref.serve.jobs import BusyError, Job, Jobs
from huref.serve.names import Names
from huref.serve.pages import read_script, read_style, render_view
from huref.serve.settings import LARGEST_REQUEST, MOST_MODELS, Settings
from huref.serve.task import Kind
from huref.serve.uploads import Uploads
from huref.serve.worker import Setup
from huref.version import SCHEMA, __version__

# A map is a page with a script of its own; in a sandbox it has no rights on this page.
MAP_POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'self'; sandbox allow-scripts"
)
Handler = Callable[[Request], Awaitable[Response]]


class RefusedError(Exception):
    """A request that cannot be served, with its status and words for the page."""

    def __init__(self, status: int, words: str):
        super().__init__(words)
        self.status = status


class Routes:
    """The page's answers.

    Args:
        settings: the operator's.
        uploads: files that browsers sent.
        jobs: the queue.
    """

    def __init__(self, settings: Settings, uploads: Uploads, jobs: Jobs):
        self._settings = settings
        self._uploads = uploads
        self._jobs = jobs
        self._names = Names(settings.roots, uploads)

    async def show_page(self, _: Request) -> Response:
        """The page itself."""
        registry = self._settings.registry
        known = "://" in registry or registry.endswith(".lance") or Path(registry).is_dir()
        page = render_view(
            "page",
            roots=[str(root) for root in self._settings.roots],
            registry=registry,
            has_registry=known,
            most=MOST_MODELS,
        )
        return HTMLResponse(page)

    async def show_style(self, _: Request) -> Response:
        """The style sheet."""
        return Response(read_style(), media_type="text/css")

    async def show_script(self, _: Request) -> Response:
        """The script."""
        return Response(read_script(), media_type="text/javascript")

    async def list_models(self, _: Request) -> Response:
        """GET /api/models: what lies below the roots."""
        found = await run_in_threadpool(self._names.list_models)
        return _json({"models": [{"name": one.name, "kind": one.kind} for one in found]})

    async def add_file(self, request: Request) -> Response:
        """POST /api/files?name=NAME: a picture or a record, as the body."""
        name = request.query_params.get("name", "")
        return _json({"model": await self._uploads.save(name, request.stream())}, 201)

    async def add_job(self, kind: Kind, request: Request) -> Response:
        """POST /api/compare {"models": [...]}, /api/identify {"model": ...} or /api/map {}."""
        body = await _read_json(request)
        models = tuple(map(self._names.resolve, _names_in(kind, body)))
        job = self._jobs.add(kind, models)
        return _json({"job": job.id}, 202)

    async def show_job(self, request: Request) -> Response:
        """GET /api/jobs/ID."""
        return JSONResponse(self._jobs.describe(self._job(request)))

    async def cancel_job(self, request: Request) -> Response:
        """DELETE /api/jobs/ID."""
        job = self._job(request)
        self._jobs.cancel(job)
        return JSONResponse(self._jobs.describe(job))

    async def show_view(self, request: Request) -> Response:
        """GET /api/jobs/ID/view: the result as HTML for the page."""
        job = self._job(request)
        if job.result is None:
            raise RefusedError(409, "this job has no result yet")
        return HTMLResponse(job.result.view)

    async def show_file(self, request: Request) -> Response:
        """GET /api/jobs/ID/report or map: a page by itself."""
        job, name = self._job(request), request.path_params["name"]
        page = job.result.pages.get(name) if job.result else None
        if page is None:
            raise RefusedError(404, "this job has no such file")
        headers = {"Content-Security-Policy": MAP_POLICY if name == "map" else POLICY}
        if name != "map" or "save" in request.query_params:
            headers["Content-Disposition"] = f'attachment; filename="{page.name}"'
        return HTMLResponse(page.text, headers=headers)

    def _job(self, request: Request) -> Job:
        job = self._jobs.find(request.path_params["job"])
        if job is None:
            words = (
                "there is no such job any more: the server was started again, or many came after"
            )
            raise RefusedError(404, words)
        return job

    def routes(self) -> list[Route]:
        """All routes."""
        kinds: tuple[Kind, ...] = ("compare", "identify", "map")
        posts = [
            Route(f"/api/{kind}", partial(self.add_job, kind), methods=["POST"]) for kind in kinds
        ]
        return [
            Route("/", self.show_page),
            Route("/page.css", self.show_style),
            Route("/page.js", self.show_script),
            Route("/api/models", self.list_models),
            Route("/api/files", self.add_file, methods=["POST"]),
            *posts,
            Route("/api/jobs/{job}", self.show_job),
            Route("/api/jobs/{job}", self.cancel_job, methods=["DELETE"]),
            Route("/api/jobs/{job}/view", self.show_view),
            Route("/api/jobs/{job}/{name}", self.show_file),
        ]


def create_app(settings: Settings, port: int) -> Starlette:
    """The ASGI application; its worker processes run as long as it does.

    Raises:
        HurefError: the folder for uploads cannot be made.
    """
    uploads = Uploads()
    setup = Setup(settings.roots[0], (*settings.roots, uploads.folder))
    jobs = Jobs(settings, setup)

    @contextlib.asynccontextmanager
    async def live(_: Starlette) -> AsyncIterator[None]:
        jobs.start()
        try:
            yield
        finally:
            await run_in_threadpool(jobs.close)
            uploads.close()

    return Starlette(
        routes=Routes(settings, uploads, jobs).routes(),
        middleware=[Middleware(Guard, settings=settings, port=port)],
        exception_handlers={
            RefusedError: _answer_refusal,
            BusyError: partial(_answer_error, 503),
            HurefError: partial(_answer_error, 400),
            404: _answer_unknown,
            405: _answer_unknown,
            ClientDisconnect: partial(_answer_error, 400),
        },
        lifespan=live,
    )


def _json(data: dict[str, Any], status: int = 200) -> Response:
    return JSONResponse({"huref": __version__, "schema": SCHEMA, **data}, status)


async def _read_json(request: Request) -> dict[str, Any]:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    # A page can send other kinds without asking first; programs need not state one.
    if kind != "application/json" and "origin" in request.headers:
        raise RefusedError(415, "send JSON, with the content type application/json")
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > LARGEST_REQUEST:
            raise RefusedError(
                413,
                f"the list is longer than {LARGEST_REQUEST >> 20} MB; this page compares at most "
                f"{MOST_MODELS} models at once",
            )
    try:
        return loads_object(bytes(body))
    except JsonError as error:
        raise RefusedError(400, f"the request is not valid JSON ({error})") from error


def _names_in(kind: Kind, body: dict[str, Any]) -> list[str]:
    if kind == "map":
        return []
    found = [body.get("model")] if kind == "identify" else body.get("models")
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
        wanted = '{"model": NAME}' if kind == "identify" else '{"models": [NAME, NAME, ...]}'
        raise RefusedError(400, f"the request is not {wanted}")
    names = [name for name in found if name.strip()]
    if kind == "identify" and not names:
        raise RefusedError(400, "name a model")
    if kind == "compare" and len(names) < 2:
        raise RefusedError(400, "name at least two models")
    if len(names) > MOST_MODELS:
        raise RefusedError(
            400,
            f"{len(names):,} models are more than the {MOST_MODELS} that this page compares at "
            "once; 'huref compare' and 'huref fleet' take more",
        )
    return names


async def _answer_refusal(_: Request, error: Exception) -> Response:
    assert isinstance(error, RefusedError)
    return _json({"error": str(error)}, error.status)


async def _answer_error(status: int, _: Request, error: Exception) -> Response:
    return _json({"error": one_line(error)}, status)


async def _answer_unknown(_: Request, error: Exception) -> Response:
    status = getattr(error, "status_code", 404)
    words = "there is nothing at this address" if status == 404 else "not by this method"
    return _json({"error": words}, status)
