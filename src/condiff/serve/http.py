"""The server: a page, a socket for streams, and a REST interface for batch jobs (extra `[serve]`)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib import resources
from typing import Annotated, Any, final

from fastapi import Body, FastAPI, HTTPException, Response, WebSocket, WebSocketDisconnect
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from condiff.core.system import System
from condiff.serve.clip import strip
from condiff.serve.guard import LOOPBACK, Guard
from condiff.serve.jobs import Jobs
from condiff.serve.session import Session
from condiff.serve.settings import Streamer
from condiff.serve.stats import Stats, prometheus
from condiff.serve.wire import Message, pack, unpack
from condiff.serve.worker import Worker

CLIP = 120
"""Frames of the built-in clip."""

MEDIA = {
    ".html": "text/html; charset=utf-8", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml",
    ".png": "image/png", ".json": "application/json",
}  # fmt: skip


@final
@dataclass(frozen=True)
class Limits:
    """What the server bears.

    Args:
        sessions: Most streams at a time.
        frame: Most bytes of one message.
        rate: Most messages a second of one client, over some seconds.
        idle: Seconds without a message after which a stream is closed.
        deadline: Seconds after which a waiting frame is not made any more; 0 is no deadline.
        samples: Most samples of one job.
    """

    sessions: int = 16
    frame: int = 4_194_304
    rate: float = 240.0
    idle: float = 60.0
    deadline: float = 1.0
    samples: int = 1024


class Asked(BaseModel):
    """A batch job: the arguments of `sample`."""

    model_config = ConfigDict(extra="forbid", strict=True)
    num_samples: Annotated[int, Field(ge=1, le=1_000_000)] = 16
    num_steps: Annotated[int, Field(ge=1, le=1000)] | None = None
    guidance_scale: Annotated[float, Field(ge=-100, le=100, allow_inf_nan=False)] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    solver: Annotated[str, Field(max_length=40)] | None = None
    cond: Annotated[dict[str, Any], Field(max_length=16)] | None = None


class Doing(BaseModel):
    """How far a job is."""

    id: str
    state: str
    done: int
    total: int
    error: str | None
    created: float
    asked: dict[str, Any]


@final
class Client:
    """The way back to one client: the newest frame, and messages in order; nothing waits without bound."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop, self.ready = loop, asyncio.Event()
        self.said: deque[dict[str, Any]] = deque(maxlen=64)
        self.frame: Message | None = None

    def deliver(self, message: Message | dict[str, Any]) -> None:
        """Take a message from the worker's thread."""
        if isinstance(message, Message):
            self.frame = message
        else:
            self.said.append(message)
        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self.ready.set)


def build(
    system: System[Any, Any],
    *,
    facts: dict[str, Any] | None = None,
    hosts: tuple[str, ...] = LOOPBACK,
    token: str | None = None,
    limits: Limits | None = None,
) -> Guard:
    """Build the application.

    Args:
        system: What to serve, see `Streamer`.
        facts: What results say of where they came from.
        hosts: Names the server answers to.
        token: Wanted from every client; None asks for none.
        limits: What it bears.

    Returns: An ASGI application.
    """
    limits = limits or Limits()
    streamer = Streamer(system)
    jobs = Jobs(streamer.system, {"made_by": "condiff serve", **(facts or {})})
    worker, past, began = Worker(jobs), Stats(), time.monotonic()

    @asynccontextmanager
    async def living(app: FastAPI) -> AsyncIterator[None]:
        Session(streamer, deadline=0.0, wake=lambda: None, deliver=lambda message: None).warm()
        worker.start()
        yield
        await asyncio.to_thread(worker.stop)

    app = FastAPI(title="condiff", version=_version(), lifespan=living, docs_url=None, redoc_url=None)

    def total() -> Stats:
        whole = Stats()
        whole.add(past)
        for session in worker.sessions:
            whole.add(session.stats)
        return whole

    @app.get("/healthz", tags=["server"])
    def health() -> dict[str, Any]:
        """Tell that the server is up."""
        return {"status": "ok", "seconds": round(time.monotonic() - began, 1)}

    @app.get("/metrics", tags=["server"], response_class=Response)
    def metrics() -> Response:
        """Return counters and latencies in Prometheus' text format."""
        sessions = worker.sessions
        gauges = {
            "sessions": float(len(sessions)),
            "queue_depth": float(sum(session.waiting for session in sessions)),
            "jobs_waiting": float(jobs.waiting),
        }
        return Response(prometheus(total().summary(), gauges), media_type="text/plain; version=0.0.4")

    @app.get("/v1/settings", tags=["stream"])
    def settings() -> dict[str, Any]:
        """Return the JSON schema of the live settings, from which a page can build its controls."""
        return {"schema": streamer.schema(), "shape": list(streamer.shape), "deadline": limits.deadline}

    @app.get("/v1/clip", tags=["stream"], response_class=Response, responses={200: {"content": {"image/png": {}}}})
    def clip() -> Response:
        """Return a clip to try the stream with: frames under each other in one PNG, their number in `X-Frames`."""
        return Response(strip(streamer.shape, CLIP), media_type="image/png", headers={"X-Frames": str(CLIP)})

    @app.post("/v1/jobs", tags=["jobs"], status_code=202, responses={409: {}, 422: {}, 503: {}})
    def create(asked: Annotated[Asked, Body()]) -> Doing:
        """Queue a batch job."""
        if asked.num_samples > limits.samples:
            raise HTTPException(422, f"num_samples may be at most {limits.samples}, got {asked.num_samples}")
        try:
            job = jobs.add(asked.model_dump())
        except OverflowError as error:
            raise HTTPException(503, str(error)) from None
        except (ValueError, TypeError, KeyError, IndexError, RuntimeError) as error:
            raise HTTPException(422, str(error)) from None
        worker.wake()
        return Doing(**job.to_json())

    def found(name: str) -> Any:  # noqa: ANN401 - a Job
        job = jobs.get(name)
        if job is None:
            raise HTTPException(404, f"there is no job {name[:40]!r}")
        return job

    @app.get("/v1/jobs/{name}", tags=["jobs"], responses={404: {}})
    def get(name: str) -> Doing:
        """Tell how far a job is."""
        return Doing(**found(name).to_json())

    @app.delete("/v1/jobs/{name}", tags=["jobs"], responses={404: {}})
    def cancel(name: str) -> Doing:
        """End a job that is not finished."""
        job = found(name)
        jobs.cancel(job)
        return Doing(**job.to_json())

    @app.get("/v1/jobs/{name}/events", tags=["jobs"], responses={404: {}}, response_class=StreamingResponse)
    async def events(name: str) -> StreamingResponse:
        """Follow a job as server-sent events, until it is finished."""
        job = found(name)

        async def lines() -> AsyncIterator[str]:
            before = None
            while True:
                now = {**job.to_json()}
                if now != before:
                    before = now
                    yield f"data: {json.dumps(now)}\n\n"
                if now["state"] not in ("queued", "running"):
                    return
                await asyncio.sleep(0.05)

        return StreamingResponse(lines(), media_type="text/event-stream")

    @app.get(
        "/v1/jobs/{name}/result",
        tags=["jobs"],
        responses={200: {"content": {"image/png": {}}}, 404: {}, 409: {}},
        response_class=Response,
    )
    def result(name: str) -> Response:
        """Return the pictures of a finished job: a PNG that carries its recipe."""
        job = found(name)
        if job.result is None:
            raise HTTPException(409, f"job {name[:40]!r} is {job.state}" + (f": {job.error}" if job.error else ""))
        return Response(job.result, media_type="image/png")

    def session_of(name: str) -> Session:
        for session in worker.sessions:
            if session.id == name:
                return session
        raise HTTPException(404, f"there is no stream {name[:40]!r}")

    @app.get(
        "/v1/streams/{name}/snapshot",
        tags=["stream"],
        responses={200: {"content": {"image/png": {}}}, 404: {}, 409: {}},
        response_class=Response,
    )
    def snapshot(name: str) -> Response:
        """Return the last picture of a stream: a PNG that carries the settings it was made with."""
        from condiff.tasks.pictures import picture, pixels, png_bytes

        session = session_of(name)
        if session.last is None:
            raise HTTPException(409, "this stream has made no picture yet")
        recipe = {"made_by": "condiff serve", **(facts or {}), "settings": streamer.to_json(session.settings)}
        return Response(png_bytes(picture(pixels(session.last.cpu())[0]), recipe), media_type="image/png")

    @app.post("/v1/streams/{name}/recording", tags=["stream"], status_code=204, responses={404: {}})
    def record(name: str) -> None:
        """Begin a recording of a stream's pictures."""
        session_of(name).record()

    @app.get(
        "/v1/streams/{name}/recording",
        tags=["stream"],
        responses={200: {"content": {"video/mp4": {}}}, 404: {}, 409: {}, 501: {}},
        response_class=Response,
    )
    def recording(name: str, fps: Annotated[int, Field(ge=1, le=120)] = 15) -> Response:
        """End the recording and return it as MP4."""
        from condiff.serve.record import mp4

        frames = session_of(name).recorded()
        if not frames:
            raise HTTPException(409, "nothing was recorded")
        try:
            return Response(mp4(frames, fps), media_type="video/mp4")
        except ModuleNotFoundError:
            raise HTTPException(501, "recording needs the extra: pip install 'condiff[video]'") from None

    @app.websocket("/v1/stream")
    async def stream(socket: WebSocket) -> None:
        if len(worker.sessions) >= limits.sessions:
            await socket.close(4503, f"{limits.sessions} streams are running already; try again later")
            return
        await socket.accept()
        client = Client(asyncio.get_running_loop())
        session = Session(streamer, deadline=limits.deadline, wake=worker.wake, deliver=client.deliver)
        worker.join(session)
        hello = {
            "type": "hello", "session": session.id, "schema": streamer.schema(), "shape": list(streamer.shape),
            "settings": streamer.to_json(session.settings), "deadline": limits.deadline,
        }  # fmt: skip
        client.deliver(hello)
        tasks = [
            asyncio.create_task(one)
            for one in (_listen(socket, session, client, limits), _speak(socket, client), _tell(session, client))
        ]
        # A server that goes down cancels this; the stream then ends as when a client leaves.
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        worker.leave(session)
        past.add(session.stats)
        for task in tasks:
            task.cancel()

    for path, media, content in pages():
        _serve_file(app, path, media, content)
    return Guard(app, hosts, token)


def pages() -> Iterator[tuple[str, str, bytes]]:
    """Yield the address, media type and content of every file of the page, read once: no path is ever looked up."""
    root = resources.files("condiff.serve") / "web"

    def walk(folder: Any, prefix: str) -> Iterator[tuple[str, str, bytes]]:  # noqa: ANN401 - a Traversable
        for item in folder.iterdir():
            if item.is_dir():
                yield from walk(item, f"{prefix}{item.name}/")
            else:
                media = MEDIA.get("." + item.name.rsplit(".", 1)[-1])
                if media is not None:
                    yield ("/" if prefix + item.name == "/index.html" else prefix + item.name), media, item.read_bytes()

    if root.is_dir():
        yield from walk(root, "/")


def _serve_file(app: FastAPI, path: str, media: str, content: bytes) -> None:
    app.add_api_route(path, lambda: Response(content, media_type=media), include_in_schema=False)


async def _listen(socket: WebSocket, session: Session, client: Client, limits: Limits) -> None:
    """Take messages in until the client leaves, is idle, or asks for more than it may."""
    allowance, before = limits.rate, time.monotonic()
    while True:
        try:
            message = await asyncio.wait_for(socket.receive(), limits.idle)
        except TimeoutError:
            with contextlib.suppress(RuntimeError):
                await socket.close(4408, f"nothing came for {limits.idle:g} s")
            return
        except (WebSocketDisconnect, RuntimeError):
            return
        if message["type"] == "websocket.disconnect":
            return
        now = time.monotonic()
        allowance = min(2 * limits.rate, allowance + (now - before) * limits.rate) - 1.0
        before = now
        if allowance < 0.0:
            await socket.close(4429, f"more than {limits.rate:g} messages a second")
            return
        try:
            _take(message, session, client, limits)
        except ValueError as error:
            session.stats.errors += 1
            client.deliver({"type": "error", "frame": None, "message": str(error)})


def _take(message: Any, session: Session, client: Client, limits: Limits) -> None:  # noqa: ANN401 - ASGI
    data = message.get("bytes")
    if data is not None:
        if len(data) > limits.frame:
            raise ValueError(f"a frame may have at most {limits.frame:,} bytes, got {len(data):,}")
        session.receive(unpack(data))
        return
    text = message.get("text") or ""
    if len(text) > 65_536:
        raise ValueError("a message may have at most 65,536 characters")
    try:
        said = json.loads(text)
    except (json.JSONDecodeError, RecursionError):
        raise ValueError("a text message must be JSON") from None
    kind = said.get("type") if isinstance(said, dict) else None
    if kind == "settings":
        settings = session.change(said.get("settings"))
        client.deliver({"type": "settings", "settings": session.streamer.to_json(settings)})
    elif kind == "pause":
        session.paused = True
    elif kind == "resume":
        session.paused = False
    elif kind == "reset":
        session.reset()
    elif kind != "ping":
        raise ValueError("a message has a type: settings, pause, resume, reset or ping")


async def _speak(socket: WebSocket, client: Client) -> None:
    """Send what there is: messages in order, and of the frames the newest."""
    with contextlib.suppress(WebSocketDisconnect, RuntimeError):  # it has gone
        while True:
            await client.ready.wait()
            client.ready.clear()
            while client.said:
                await socket.send_text(json.dumps(client.said.popleft()))
            frame, client.frame = client.frame, None
            if frame is not None:
                await socket.send_bytes(pack(frame))


async def _tell(session: Session, client: Client) -> None:
    """Say every half second how the stream is doing."""
    while True:
        await asyncio.sleep(0.5)
        client.deliver({"type": "stats", "waiting": session.waiting, **session.stats.summary()})


def _version() -> str:
    import condiff

    return condiff.__version__
