"""Decisions over HTTP, and the page in a browser that asks for them."""

import asyncio
import io
import logging
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from alu_defects.data import decode
from alu_defects.deployment import heat
from alu_defects.deployment.access import PAGE, Guard, refuse
from alu_defects.deployment.bundle import Outputs
from alu_defects.deployment.labels import Labels
from alu_defects.deployment.model_slot import ModelSlot
from alu_defects.deployment.predictor import Prediction, Predictor
from alu_defects.deployment.source import image_suffix
from alu_defects.deployment.table import as_row
from alu_defects.errors import UserError, check_choice

log = logging.getLogger(__name__)

T = TypeVar("T")
HEADER_SECONDS = 15  # that a connection may be without a request
SHUTDOWN_SECONDS = 30  # for requests that have begun
_CONNECTIONS = 400  # at once; an ordinary process may open 1,024 files
_THREADS = 2  # one decodes an image while the network computes another


class Service:
    """Answers requests.

    Args:
        slot: holds the network.
        labels: where labels that people give are kept; None: nowhere.
        host: that it listens on.
        token: that clients must know; None: whoever reaches it on this machine may use it.
        queue: images in progress; more are refused.
        max_bytes: of an uploaded file.
        timeout: seconds that an upload may take.
    """

    def __init__(
        self,
        slot: ModelSlot,
        labels: Labels | None = None,
        *,
        host: str = "127.0.0.1",
        token: str | None = None,
        queue: int = 16,
        max_bytes: int = 50_000_000,
        timeout: float = 30,
    ) -> None:
        self.slot, self.labels, self.host, self.token = slot, labels, host, token
        self.queue, self.max_bytes, self.timeout = queue, max_bytes, timeout
        self._in_progress = 0
        self._pool = ThreadPoolExecutor(_THREADS)
        self._network = threading.Lock()  # a network that uses all cores gains nothing from two images at once

    def app(self) -> Starlette:
        """The application for an ASGI server."""
        return Starlette(
            routes=[
                Route("/health", self._health),
                Route("/model", self._model),
                Route("/model", self._reload, methods=["POST"]),
                Route("/predict", self._predict, methods=["POST"]),
                Route("/label", self._label, methods=["POST"]),
                Mount("/", StaticFiles(directory=PAGE, html=True)),
            ],
            middleware=[Middleware(Guard, host=self.host, token=self.token)],
            exception_handlers=dict.fromkeys((HTTPException, UserError, ClientDisconnect), _show_error),
        )

    async def _health(self, request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def _model(self, request: Request) -> Response:
        return JSONResponse(self._describe())

    async def _reload(self, request: Request) -> Response:
        try:
            await asyncio.to_thread(self.slot.reload)
        except UserError as error:
            raise HTTPException(409, str(error)) from error
        return JSONResponse(self._describe())

    def _describe(self) -> dict[str, Any]:
        predictor = self.slot.predictor
        bundle = predictor.bundle
        return {
            "file": self.slot.file,
            "since": self.slot.since,
            "classes": bundle.classes,
            "titles": bundle.titles,
            "image_size": bundle.image_size,
            "resize": bundle.resize,
            "normal": bundle.normal,
            "threshold": bundle.score_threshold,
            "ask_below": bundle.ask_below,
            "cells": bundle.cells and bundle.cells._asdict(),
            "about": bundle.about,
            "max_bytes": self.max_bytes,
            "max_pixels": predictor.max_pixels,
            "takes_labels": self.labels is not None,
        }

    async def _predict(self, request: Request) -> Response:
        path, with_map = request.query_params.get("path", "-"), request.query_params.get("map") == "true"
        with self._place_in_queue():
            content, _ = await self._read_image(request)
            answer = await self._work(self._decide, self.slot.predictor, content, path, with_map)
        return JSONResponse(answer, 200 if answer["status"] == "ok" else 422)

    def _decide(self, predictor: Predictor, content: bytes, path: str, with_map: bool) -> dict[str, Any]:
        image = _decode(predictor, content)
        if isinstance(image, Exception):
            return as_row(Prediction(path, None, f"{type(image).__name__}: {image}"))
        with self._network:
            found = predictor.outputs(image[None]) if with_map else Outputs(predictor.probabilities(image[None]), None)
        (decision,) = predictor.bundle.decide(found.probabilities)
        row = as_row(Prediction(path, decision))
        if with_map:
            row["map"] = None
        if found.maps is not None and predictor.bundle.cells is not None:
            own = heat.strength(found.maps[0, predictor.bundle.classes.index(decision.label)])
            row["map"] = [[round(float(value), 3) for value in line] for line in own]
        return row

    async def _label(self, request: Request) -> Response:
        label = request.query_params.get("label", "")
        if self.labels is None:
            raise HTTPException(403, "this server keeps no labels; start it with labels=<folder>")
        predictor = self.slot.predictor
        try:
            check_choice("label", label, predictor.bundle.classes)
        except UserError as error:
            raise HTTPException(422, str(error)) from error
        with self._place_in_queue():
            content, suffix = await self._read_image(request)
            image = await self._work(_decode, predictor, content)
            if isinstance(image, Exception):
                raise HTTPException(422, f"{type(image).__name__}: {image}")
            row = await self._work(self.labels.add, content, suffix, label)
        return JSONResponse(row)

    @contextmanager
    def _place_in_queue(self) -> Iterator[None]:
        if self._in_progress >= self.queue:
            raise HTTPException(503, f"{self.queue} images are in progress; try again", {"Retry-After": "1"})
        self._in_progress += 1
        try:
            yield
        finally:
            self._in_progress -= 1

    async def _read_image(self, request: Request) -> tuple[bytes, str]:
        """The uploaded file and the suffix of its kind."""
        too_large = HTTPException(413, f"a file may have {self.max_bytes} bytes (max_bytes); this one has more")
        if int(request.headers.get("content-length", 0)) > self.max_bytes:
            raise too_large
        content = bytearray()
        try:
            async with asyncio.timeout(self.timeout):
                async for part in request.stream():
                    content += part
                    if len(content) > self.max_bytes:  # of a client that did not say so
                        raise too_large
        except TimeoutError as error:
            message = f"the upload took more than {self.timeout:g} s (timeout)"
            raise HTTPException(408, message, {"Connection": "close"}) from error
        if not content:
            raise HTTPException(400, "there is no image; send the bytes of a file, as curl --data-binary @a.jpg does")
        if not (suffix := image_suffix(content)):  # Pillow would take kinds that start other programs, too
            raise HTTPException(415, "this is no JPEG, PNG, TIFF, BMP or WebP file; save the image as one of them")
        return bytes(content), suffix

    async def _work(self, function: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, function, *arguments)


def _decode(predictor: Predictor, content: bytes) -> decode.UInt8 | Exception:
    (image,) = decode.read_in_order(predictor.read, [io.BytesIO(content)], threads=1)
    return image


def _show_error(request: Request, error: Exception) -> Response:
    if isinstance(error, HTTPException):
        return refuse(error.status_code, error.detail, error.headers)
    if isinstance(error, UserError):
        log.error("%s", error)
        return refuse(500, str(error))
    return Response(status_code=400)  # nobody reads it: the client has gone


def listen(host: str, port: int) -> socket.socket:
    """A socket that clients may connect to already; a `UserError` if the address is not of this machine, or in use."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=_CONNECTIONS)
    except OSError as error:
        raise UserError(
            f"host={host} port={port} cannot be used ({error.strerror}); give another port (0: a free one) or host"
        ) from error


def url(listening: socket.socket) -> str:
    """Where a browser finds a socket."""
    host, port = listening.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/"


def create_server(app: ASGIApp) -> uvicorn.Server:
    """The server of an application; on SIGTERM and Ctrl-C it answers what has begun, and ends."""
    config = uvicorn.Config(
        app,
        http=_TimedProtocol,
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="warning",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        limit_concurrency=_CONNECTIONS,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
    )
    return uvicorn.Server(config)


class _TimedProtocol(H11Protocol):
    """Closes a connection that is without a request for too long; uvicorn would wait for the rest of one for ever."""

    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        super().connection_made(transport)
        # asyncio does so for its own sockets alone; without, an answer waits 40 ms for the client's acknowledgement
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._restart_timer()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._restart_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel_timer()
        super().connection_lost(exc)

    def _restart_timer(self) -> None:
        self._cancel_timer()
        self._timer = self.loop.call_later(HEADER_SECONDS, self._close_if_waiting)

    def _cancel_timer(self) -> None:
        if self._timer:
            self._timer.cancel()

    def _close_if_waiting(self) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()
