"""The page's server: one project's asked regions as bytes and JSON, and the page itself.

A region's label travels as it lies in memory: one byte a pixel of its box, row by row, 255 for unlabelled.
Its ETag names what is saved; a save that began from another label is refused, so that nobody overwrites what
they have not seen.
"""

import contextlib
import functools
import hashlib
import importlib.resources
import math
import re
import secrets
import socket
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ralx.datasets.errors import DataError
from ralx.labelling.page.guard import ANY_ADDRESS, LOOPBACK, SLACK, Guard, address
from ralx.labelling.page.view import crop_around, encode_bmp, superpixels
from ralx.support.files import RunError

if TYPE_CHECKING:
    from ralx.labelling.project import AskedRegion, Box, Project

LEASE_SECONDS = 600.0  # the page renews its lease while somebody works
LONGEST_SECONDS = 86400  # of work on one region
LINES_SHOWN = 12  # of what runs in the background
UNLABELLED = 255
PORT = 8765
MEDIA_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


class Job(Protocol):
    """What runs while people wait; `Background` is one."""

    @property
    def lines(self) -> list[str]: ...
    @property
    def returncode(self) -> int | None: ...
    def stop(self) -> None: ...


def page_app(
    project: "Project",
    token: str,
    *,
    allowed_hosts: Collection[str] = LOOPBACK,
    annotator: str = "",
    next_batch: Callable[[], Job] | None = None,
) -> Starlette:
    """The page of one project, as an ASGI application.

    Args:
        token: letters, digits, `-` and `_`. The page's address carries it once, as `/?token=…`.
        allowed_hosts: names and addresses that requests may name as their host; `*` adds every address in
            digits.
        annotator: the name that the page proposes to somebody who opens it for the first time.
        next_batch: starts training and asking once a batch is done. None: the page waits until somebody else
            has asked for more.

    Raises:
        ValueError: the token is empty or has other characters.
    """
    if not re.fullmatch(r"[\w-]+", token, re.ASCII):
        raise ValueError(f"token: expected letters, digits, - and _, got {token!r}")
    page = _Page(project, annotator, next_batch)
    files = _static_files()

    async def static(request: Request) -> Response:
        name = request.path_params.get("name", "index.html")
        if name not in files:
            raise HTTPException(404, f"no file of the page: {name!r}")
        return Response(files[name], media_type=MEDIA_TYPES["." + name.rpartition(".")[2]])

    region = "/api/regions/{region_id}"
    routes = [
        Route("/", static),
        Route("/static/{name}", static),
        Route("/api/project", page.project),
        Route("/api/next", page.next_region, methods=["POST"]),
        Route("/api/batch", page.batch),
        Route("/api/batch", page.start_batch, methods=["POST"]),
        Route(f"{region}/open", page.open, methods=["POST"]),
        Route(f"{region}/release", page.release, methods=["POST"]),
        Route(f"{region}/crop", page.crop),
        Route(f"{region}/guess", page.guess),
        Route(f"{region}/superpixels", page.superpixels),
        Route(f"{region}/label", page.label),
        Route(f"{region}/label", page.save, methods=["PUT"]),
    ]
    return Starlette(
        routes=routes,
        middleware=[Middleware(Guard, token=token, allowed_hosts={host.lower() for host in allowed_hosts})],
        exception_handlers={
            HTTPException: _answer_error,
            DataError: _answer_data_error,
            OSError: _answer_failure,
            sqlite3.Error: _answer_failure,
        },
        lifespan=page.lifespan,
    )


def serve(
    project: "Project",
    host: str = "127.0.0.1",
    port: int = PORT,
    *,
    token: str | None = None,
    annotator: str = "",
    next_batch: Callable[[], Job] | None = None,
    say: Callable[[str], None] = print,
) -> None:
    """Serve the page until the process is interrupted, and say its address with the token in it.

    Args:
        port: 0 for any that is free.
        token: None for a new one.
        say: told each line.

    Raises:
        RunError: the address can't be listened on, as where another program has the port.
    """
    token = token or secrets.token_urlsafe(24)
    try:
        listener = socket.create_server((host, port), family=_family(host))
    except OSError as error:
        raise RunError(f"{address(host, port)}: can't be listened on: {error.strerror}") from error
    # Else an answer's body waits some 40 ms until its head is acknowledged; connections inherit the option.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    port = listener.getsockname()[1]
    is_local = host in LOOPBACK
    hosts = LOOPBACK if is_local else LOOPBACK | {host, socket.gethostname(), ANY_ADDRESS}
    app = page_app(project, token, allowed_hosts=hosts, annotator=annotator, next_batch=next_batch)
    if not is_local:
        say(
            f"warning: --host {host}: whoever reaches this machine and knows the token sees the images and "
            "changes the labels, and nothing on the way is encrypted"
        )
    say(f"{project.name}: the page is at\n  http://{address(_shown(host), port)}/?token={token}")
    config = uvicorn.Config(app, log_level="warning", server_header=False, timeout_graceful_shutdown=2)
    with listener:
        uvicorn.Server(config).run(sockets=[listener])


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _shown(host: str) -> str:
    """What a browser on another machine may call this one."""
    return socket.gethostname() if host in ("", "0.0.0.0", "::") else host


class _Page:
    """The answers to the page. Starlette runs plain functions in threads, so a slow one holds up no other."""

    def __init__(self, project: "Project", annotator: str, next_batch: Callable[[], Job] | None) -> None:
        self._project, self._annotator, self._next_batch = project, annotator, next_batch
        self._job: Job | None = None
        self._job_lock = threading.Lock()
        self._saving = threading.Lock()  # from the look at a region's label to its replacement
        # Who comes back to a region, or reloads the page, asks for these again.
        self._crop_bmp = functools.lru_cache(maxsize=4)(self._encode_crop)
        self._superpixels = functools.lru_cache(maxsize=64)(self._find_superpixels)

    @contextlib.asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
        yield
        if self._job and self._job.returncode is None:
            self._job.stop()

    def project(self, request: Request) -> Response:
        classes = zip(self._project.classes.names, self._project.classes.colours, strict=True)
        answer = {
            "name": self._project.name,
            "annotator": self._annotator,
            "classes": [{"name": name, "colour": [int(part) for part in colour]} for name, colour in classes],
        }
        return JSONResponse(answer | self._situation())

    def next_region(self, request: Request) -> Response:
        region = self._project.next_region(_annotator(request), LEASE_SECONDS)
        return JSONResponse({"region": region and _described(region)} | self._situation())

    def open(self, request: Request) -> Response:
        """A region that the page had before, for which it takes the lease again."""
        region = self._region(request)
        self._hold(region, request)
        return JSONResponse({"region": _described(region)} | self._situation())

    def release(self, request: Request) -> Response:
        self._project.release(self._region(request).id, _annotator(request))
        return JSONResponse(self._situation())

    def crop(self, request: Request) -> Response:
        region = self._region(request)
        content = self._crop_bmp(region.image, region.box, region.image_size)
        return Response(content, media_type="image/bmp")

    def guess(self, request: Request) -> Response:
        return _bytes_or_nothing(self._project.prelabel(self._region(request).id))

    def superpixels(self, request: Request) -> Response:
        region = self._region(request)
        return _bytes_or_nothing(self._superpixels(region.image, region.box))

    def label(self, request: Request) -> Response:
        label = self._project.label_of(self._region(request).id)
        answer = _bytes_or_nothing(label)
        answer.headers["etag"] = _etag(label)
        return answer

    async def save(self, request: Request) -> Response:
        region = await run_in_threadpool(self._region, request)
        height, width = region.box[2:]
        content = await _read_body(request, height * width + SLACK)
        if len(content) != height * width:
            raise HTTPException(
                400, f"label: expected {height} x {width} = {height * width} bytes, got {len(content)}"
            )
        label = np.frombuffer(content, np.uint8).reshape(height, width)
        return await run_in_threadpool(self._save, request, region, label)

    def _save(self, request: Request, region: "AskedRegion", label: np.ndarray) -> Response:
        highest = int(label[label != UNLABELLED].max(initial=0))
        if highest >= len(self._project.classes):
            raise HTTPException(
                400, f"label: expected classes below {len(self._project.classes)} or 255, got {highest}"
            )
        seconds, is_unsure = _seconds(request), request.query_params.get("unsure") == "1"
        with self._saving:
            self._hold(region, request)
            if request.headers.get("if-match") != _etag(self._project.label_of(region.id)):
                raise HTTPException(412, "this region was saved elsewhere since this page opened it")
            self._project.receive(region.id, label, _annotator(request), seconds, unsure=is_unsure)
            etag = _etag(self._project.label_of(region.id))
        if self._project.progress()["left"] == 0:
            self._start_job()
        return JSONResponse({"etag": etag} | self._situation())

    def batch(self, request: Request) -> Response:
        return JSONResponse(self._situation())

    def start_batch(self, request: Request) -> Response:
        if self._next_batch is None:
            raise HTTPException(409, "this server was started without what trains and asks")
        left = self._project.progress()["left"]
        if left:
            raise HTTPException(409, f"{left} regions of this batch are still to be labelled")
        self._start_job()
        return JSONResponse(self._situation())

    def _situation(self) -> dict[str, Any]:
        """How far the batch is, and what runs in the background: part of every answer."""
        job = self._job
        code = job.returncode if job else None
        state = "none" if job is None else "running" if code is None else "failed" if code else "done"
        lines = job.lines[-LINES_SHOWN:] if job else []
        return {
            "progress": self._project.progress(),
            "job": {"state": state, "lines": lines, "can_start": self._next_batch is not None},
        }

    def _start_job(self) -> None:
        with self._job_lock:
            if self._next_batch and (self._job is None or self._job.returncode is not None):
                self._job = self._next_batch()

    def _region(self, request: Request) -> "AskedRegion":
        name = request.path_params["region_id"]
        try:
            return self._project.asked_region(name)
        except (KeyError, DataError):
            raise HTTPException(404, f"no region {name!r} was asked") from None

    def _hold(self, region: "AskedRegion", request: Request) -> None:
        if not self._project.renew(region.id, _annotator(request), LEASE_SECONDS):
            raise HTTPException(409, "somebody else has taken this region over")

    def _encode_crop(self, image: str, box: "Box", image_size: tuple[int, int]) -> bytes:
        return encode_bmp(_cut(self._project.pixels(image), crop_around(box, image_size)))

    def _find_superpixels(self, image: str, box: "Box") -> np.ndarray | None:
        return superpixels(_cut(self._project.pixels(image), box))


def _cut(pixels: np.ndarray, box: tuple[int, int, int, int]) -> np.ndarray:
    top, left, height, width = box
    return pixels[top : top + height, left : left + width]


def _described(region: "AskedRegion") -> dict[str, Any]:
    return {
        "id": region.id,
        "round": region.round,
        "image": region.image,
        "state": region.state,
        "box": list(region.box),
        "crop_box": list(crop_around(region.box, region.image_size)),
    }


def _annotator(request: Request) -> str:
    name = request.query_params.get("annotator", "").strip()
    if not 1 <= len(name) <= 80 or not name.isprintable():
        raise HTTPException(400, f"annotator: expected a name of 1 to 80 characters, got {name[:80]!r}")
    return name


def _seconds(request: Request) -> float:
    given = request.query_params.get("seconds", "")
    try:
        seconds = float(given)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds <= LONGEST_SECONDS:
        raise HTTPException(400, f"seconds: expected a number from 0 to {LONGEST_SECONDS}, got {given!r}")
    return seconds


def _etag(label: np.ndarray | None) -> str:
    return '"none"' if label is None else f'"{hashlib.sha256(label.tobytes()).hexdigest()[:32]}"'


def _bytes_or_nothing(array: np.ndarray | None) -> Response:
    if array is None:
        return Response(status_code=204)
    return Response(array.tobytes(), media_type="application/octet-stream")


async def _read_body(request: Request, limit: int) -> bytes:
    content = bytearray()
    async for chunk in request.stream():
        content += chunk
        if len(content) > limit:
            raise HTTPException(413, f"body: expected at most {limit} bytes")
    return bytes(content)


def _static_files() -> dict[str, bytes]:
    """The page's files by name, read once: no request names a path."""
    folder = importlib.resources.files(__package__) / "static"
    return {
        file.name: file.read_bytes() for file in folder.iterdir() if Path(file.name).suffix in MEDIA_TYPES
    }


def _answer_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


def _answer_data_error(request: Request, error: Exception) -> Response:
    """What the project refuses, such as an image that was changed since it was asked for."""
    return JSONResponse({"error": str(error)}, 422)


def _answer_failure(request: Request, error: Exception) -> Response:
    """A full disk, a folder that can't be written: the page keeps what it could not save."""
    return JSONResponse({"error": f"the server failed: {error}"}, 500)
