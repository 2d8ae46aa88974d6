"""`condiff serve`."""

from __future__ import annotations

import secrets
import socket
from typing import Any

from condiff.cli.errors import UsageError, usage
from condiff.cli.output import say
from condiff.cli.parser import Parser, natural, number, positive

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def _parser() -> Parser:
    parser = Parser(prog="condiff serve", description="Serve a run: a live stream with its page, and batch jobs.")
    parser.add_argument("run", metavar="RUN", help="run folder, checkpoint folder or .safetensors file")
    parser.add_argument("--port", type=natural, default=7860, help="0 picks a free one [7860]")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; others than loopback need --token")
    parser.add_argument("--token", help="what a client must know; 'new' makes one")
    parser.add_argument("--sessions", type=positive, default=16, help="most streams at a time [16]")
    parser.add_argument(
        "--deadline", type=number, default=1.0, help="seconds after which a frame is dropped, 0 never [1]"
    )
    parser.add_argument(
        "--idle", type=number, default=60.0, help="seconds of silence after which a stream is closed [60]"
    )
    parser.add_argument(
        "--precision", choices=("fp32", "bf16"), default="fp32", help="type the network computes in [fp32]"
    )
    parser.add_argument("--device", default="cpu", help="where to compute [cpu]")
    return parser


def run(words: list[str]) -> int:
    """Serve until interrupted."""
    arguments = _parser().read(words)
    token: str | None = secrets.token_urlsafe(16) if arguments.token == "new" else arguments.token
    if arguments.port > 65_535:
        raise UsageError(f"--port must be at most 65535, got {arguments.port}")
    if arguments.deadline < 0 or arguments.idle <= 0:
        raise UsageError("--deadline must not be negative, and --idle must be positive")
    if arguments.host not in LOOPBACK and not token:
        raise UsageError(
            f"--host {arguments.host} can be reached from elsewhere, so it needs --token new (or one of yours)"
        )
    if token is not None and len(token) < 8:
        raise UsageError(f"--token needs at least 8 characters, got {len(token)}; --token new makes one")
    try:
        import uvicorn
    except ImportError:
        raise UsageError("serving needs the extra: pip install 'condiff[serve]'") from None

    from condiff.cli.sample_verb import opened, ready
    from condiff.serve.http import Limits, build

    system = ready(opened(arguments.run, arguments.device), {"precision": arguments.precision})
    names = (arguments.host,) if arguments.host not in ("0.0.0.0", "::") else _names()
    with usage():
        app = build(
            system,
            facts={"run": arguments.run},
            hosts=tuple({*LOOPBACK, *names}),
            token=token,
            limits=Limits(sessions=arguments.sessions, deadline=arguments.deadline, idle=arguments.idle),
        )
    listener = _listen(arguments.host, arguments.port)
    port = listener.getsockname()[1]
    shown = "127.0.0.1" if arguments.host in ("0.0.0.0", "::") else arguments.host
    shown = f"[{shown}]" if ":" in shown else shown
    say(
        f"serving {arguments.run} at http://{shown}:{port}/"
        + (f"?token={token}" if token else "")
        + "  (Ctrl-C ends it)"
    )
    config: Any = uvicorn.Config(
        app, log_level="warning", ws_max_size=4_300_000, ws_max_queue=4, timeout_graceful_shutdown=3,
        server_header=False, lifespan="on", h11_max_incomplete_event_size=65_536,
    )  # fmt: skip
    uvicorn.Server(config).run(sockets=[listener])
    return 0


def _listen(host: str, port: int) -> socket.socket:
    """Bind the port now, so that an address in use is one line and not a log."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(128)  # who connects before the server is up waits for it
    except OSError as error:
        listener.close()
        raise UsageError(f"cannot listen on {host}:{port} ({error.strerror}); choose another --port, or 0") from None
    listener.set_inheritable(True)
    return listener


def _names() -> set[str]:
    """Return this machine's names and addresses, for a server that listens on all of them."""
    name = socket.gethostname()
    found = {name.lower(), socket.getfqdn().lower()}
    try:
        found |= {str(info[4][0]) for info in socket.getaddrinfo(name, None)}
    except OSError:
        pass
    return found
