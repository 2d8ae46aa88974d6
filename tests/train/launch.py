"""Workers as torchrun starts them, without the seconds that torchrun itself takes."""

from __future__ import annotations

import socket
import subprocess
import sys

from train.toy import environment


def start(arguments, *, size=2, cwd=None, **more):
    """Start one Python process a worker; returns them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    where = {
        "WORLD_SIZE": str(size),
        "LOCAL_WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    return [
        subprocess.Popen(
            [sys.executable, *arguments],
            env=environment(RANK=str(rank), LOCAL_RANK=str(rank), CUDA_VISIBLE_DEVICES="", **where, **more),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=cwd,
        )
        for rank in range(size)
    ]


def end(children, codes=None):
    """Wait for the workers; returns what they wrote on stderr, after a look at their exit codes."""
    said = [child.communicate(timeout=300) for child in children]
    found = [child.returncode for child in children]
    assert found == (codes or [0] * len(children)), "\n".join(out + err for out, err in said)
    return [err for _, err in said]
