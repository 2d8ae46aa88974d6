"""Load on a served run: clients that send at twice the rate the machine can serve, kills, and garbage.

    python benchmarks/live.py RUN [--seconds 300] [--clients 8]

Prints one JSON object: memory over time, age of the frames served, fairness, and what the server counted. The frames are
real digits. Needs the extra `[serve]`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import re
import statistics
import subprocess
import sys
import time

import websockets

from condiff.data import read
from condiff.serve.clip import still_clip
from condiff.serve.wire import Message, encoded, pack, unpack


def memory(pid):
    with open(f"/proc/{pid}/status") as status:
        return int(re.search(r"VmRSS:\s+(\d+)", status.read())[1]) / 1024


async def client(address, frames, rate, until, out):
    """Send frames at a rate, whatever comes back; note the age of each answer."""
    async with websockets.connect(address, max_size=None) as socket:
        await socket.recv()

        async def listen():
            async for got in socket:
                if isinstance(got, bytes):
                    message = unpack(got)
                    out["ages"].append(time.monotonic() - message.captured)
                else:
                    said = json.loads(got)
                    out["errors"] += said["type"] == "error"
                    if said["type"] == "stats":
                        out["stats"] = said

        ear = asyncio.create_task(listen())
        k, due = 0, time.monotonic()
        while time.monotonic() < until:
            await socket.send(pack(Message(k, time.monotonic(), frames[k % len(frames)])))
            k, due = k + 1, due + 1 / rate
            await asyncio.sleep(max(0.0, due - time.monotonic()))
        await asyncio.sleep(0.5)
        ear.cancel()
        out["sent"] = k


async def alone(address, frames, seconds=5.0):
    """Frames a second that one client gets when it sends far more than can be made: what the machine can serve."""
    out = {"ages": [], "errors": 0, "sent": 0, "stats": {}}
    began = time.monotonic()
    await client(address, frames, 200.0, began + seconds, out)
    return len(out["ages"]) / seconds


async def _hear(socket):
    with contextlib.suppress(websockets.ConnectionClosed):
        async for _ in socket:
            pass


async def vandals(address, picture, kills, messages):
    """Kill clients in the middle of a frame, and send garbage."""
    rng = random.Random(0)
    for k in range(kills):
        socket = await websockets.connect(address, max_size=None)
        await socket.send(pack(Message(k, 0.0, picture)))
        socket.transport.abort()
    good, sent = pack(Message(1, 1.0, picture)), 0
    while sent < messages:
        try:
            async with websockets.connect(address, max_size=None) as socket:
                ear = asyncio.create_task(_hear(socket))  # who does not listen is not heard either, in the end
                for _ in range(200):
                    spoiled = bytearray(good[: rng.randrange(1, len(good))] if rng.random() < 0.5 else good)
                    spoiled[rng.randrange(len(spoiled))] ^= 1 << rng.randrange(8)
                    text = rng.choice(
                        ["{", "[]", '{"type": 1}', '{"type": "settings", "settings": {"steps": []}}', "[" * 9999]
                    )
                    await socket.send(text if rng.random() < 0.3 else bytes(spoiled))
                    sent += 1
                    await asyncio.sleep(0.005)
                ear.cancel()
        except websockets.ConnectionClosed:
            continue
    return sent


async def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("run")
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--garbage", type=int, default=10_000)
    asked = parser.parse_args()
    words = [sys.executable, "-m", "condiff", "serve", asked.run, "--port", "0"]
    server = subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    address = re.search(r"http://\S+", server.stderr.readline())[0].replace("http", "ws") + "v1/stream"
    frames = [encoded(frame) for frame in still_clip(read("digits").test.data[:20], 120).split(1)]
    await asyncio.sleep(2.0)
    capacity = await alone(address, frames)
    rate = 2.0 * capacity / asked.clients
    until = time.monotonic() + asked.seconds
    outs = [{"ages": [], "errors": 0, "sent": 0, "stats": {}} for _ in range(asked.clients)]
    crowd = [asyncio.create_task(client(address, frames, rate, until, out)) for out in outs]
    memories = []
    while time.monotonic() < until:
        await asyncio.sleep(min(5.0, asked.seconds / 10))
        memories.append(round(memory(server.pid), 1))
    await asyncio.gather(*crowd)
    served = [len(out["ages"]) for out in outs]
    ages = sorted(age for out in outs for age in out["ages"])
    before = memory(server.pid)
    garbage = await vandals(address, frames[0], asked.kills, asked.garbage)
    await asyncio.sleep(1.0)
    after = memory(server.pid)
    up = await alone(address, frames, 2.0)
    server.terminate()
    server.wait(20)
    warm = memories[len(memories) // 5]
    facts = {
        "clients": asked.clients,
        "seconds": asked.seconds,
        "capacity_fps": round(capacity, 1),
        "asked_fps": round(rate * asked.clients, 1),
        "served": served,
        "max_over_min_served": round(max(served) / max(1, min(served)), 3),
        "age_ms": {f"p{q}": round(1000 * ages[int(q / 100 * (len(ages) - 1))], 1) for q in (50, 95, 99, 100)},
        "server_p99_ms": round(statistics.median(out["stats"].get("p99", 0) for out in outs), 1),
        "missed": sum(out["stats"].get("missed", 0) for out in outs),
        "late": sum(out["stats"].get("late", 0) for out in outs),
        "dropped": sum(out["stats"].get("dropped", 0) for out in outs),
        "errors": sum(out["errors"] for out in outs),
        "memory_mib": {"warm": warm, "end": memories[-1], "growth": round(memories[-1] / warm - 1, 4)},
        "after_kills_and_garbage": {
            "kills": asked.kills,
            "messages": garbage,
            "memory_growth": round(after / before - 1, 4),
            "fps": round(up, 1),
        },
        "server_up": server.returncode in (0, -15),
    }
    print(json.dumps(facts))


if __name__ == "__main__":
    asyncio.run(main())
