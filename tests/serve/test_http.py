"""The server from outside: its pages, its REST interface, its socket, and who is refused."""

from __future__ import annotations

import io
import json
import random
import time

import pytest
from PIL import Image
from serve.conftest import png, small

pytest.importorskip("fastapi", reason="extra [serve]")
pytest.importorskip("httpx", reason="extra [test]")

from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from condiff.serve.http import Limits, build
from condiff.serve.wire import Message, pack, unpack

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
HOST = "127.0.0.1:7860"
HERE = {"host": HOST}


def client(**kw):
    return TestClient(build(small(), **kw), base_url=f"http://{HOST}")


@pytest.fixture(scope="module")
def here():
    with client(limits=Limits(deadline=0.0, samples=64, rate=1e6)) as one:
        yield one


def finished(here, name, seconds=30.0):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        job = here.get(f"/v1/jobs/{name}").json()
        if job["state"] not in ("queued", "running"):
            return job
        time.sleep(0.02)
    raise AssertionError("the job did not finish")


def test_health_and_metrics(here):
    assert here.get("/healthz").json()["status"] == "ok"
    text = here.get("/metrics").text
    names = {line.split()[0].split("{")[0] for line in text.splitlines() if not line.startswith("#")}
    assert {"condiff_frames_made_total", "condiff_frames_missed_total", "condiff_fps", "condiff_jitter_seconds",
            "condiff_latency_seconds", "condiff_queue_depth", "condiff_sessions"} <= names  # fmt: skip


def test_the_settings_schema_is_the_one_a_page_builds_its_controls_from(here):
    facts = here.get("/v1/settings").json()
    assert facts["shape"] == [1, 8, 8]
    assert facts["schema"]["properties"]["steps"]["maximum"] == 16


def test_a_job_from_asking_to_its_picture(here):
    asked = {"num_samples": 20, "num_steps": 2, "seed": 3, "cond": {"label": [1]}}
    made = here.post("/v1/jobs", json=asked)
    assert made.status_code == 202
    job = finished(here, made.json()["id"])
    assert (job["state"], job["done"], job["total"]) == ("done", 20, 20)
    answer = here.get(f"/v1/jobs/{job['id']}/result")
    image = Image.open(io.BytesIO(answer.content))
    recipe = json.loads(image.info["condiff"])
    assert (recipe["seed"], recipe["cond"], recipe["made_by"]) == (3, {"label": [1]}, "condiff serve")
    events = [json.loads(line[6:]) for line in here.get(f"/v1/jobs/{job['id']}/events").text.splitlines() if line]
    assert events[-1]["state"] == "done"


def test_a_job_can_be_cancelled(here):
    names = [here.post("/v1/jobs", json={"num_samples": 64, "num_steps": 200}).json()["id"] for _ in range(2)]
    for name in names:
        assert here.delete(f"/v1/jobs/{name}").json()["state"] == "cancelled"
    assert here.get(f"/v1/jobs/{names[0]}/result").status_code == 409
    assert finished(here, here.post("/v1/jobs", json={"num_samples": 1}).json()["id"])["state"] == "done"


@pytest.mark.parametrize(
    "asked",
    [{"num_samples": 0}, {"num_samples": 65}, {"num_samples": "4"}, {"steps": 3}, {"solver": "eule"}, {"cond": {"lable": [1]}},
     {"cond": {"label": [7]}}, {"cond": {"label": None}}, {"guidance_scale": 1e9}, {"seed": -1}, {"num_steps": 0}, [], "x"],
)  # fmt: skip
def test_wrong_jobs_are_refused_with_a_reason(here, asked):
    answer = here.post("/v1/jobs", json=asked)
    assert answer.status_code == 422
    assert answer.json()["detail"]


def test_too_many_jobs_wait_in_no_queue(here):
    names, codes = [], []
    for _ in range(40):
        answer = here.post("/v1/jobs", json={"num_samples": 64, "num_steps": 500})
        codes.append(answer.status_code)
        if answer.status_code == 202:
            names.append(answer.json()["id"])
    assert 503 in codes
    for name in names:
        here.delete(f"/v1/jobs/{name}")


@pytest.mark.parametrize(
    "path",
    [
        "/v1/jobs/none",
        "/v1/jobs/none/result",
        "/v1/jobs/none/events",
        "/v1/streams/none/snapshot",
        "/nothing",
        "/../pyproject.toml",
        "/..%2f..%2fetc/passwd",
        "/assets/..%2f..%2f..%2fhttp.py",
        "//etc/passwd",
    ],
)
def test_what_is_not_there_is_404_and_no_path_leads_out(here, path):
    assert here.get(path).status_code == 404


def heard(socket):
    """The next message, text or bytes; a stream that was closed is an error, not an endless wait."""
    got = socket.receive()
    assert got["type"] == "websocket.send", got
    return got


def picture(socket):
    while True:
        got = heard(socket)
        if got.get("bytes"):
            return unpack(got["bytes"])


def conversation(here, frames, settings=None, headers=HERE):
    with here.websocket_connect("/v1/stream", headers=headers) as socket:
        hello = json.loads(socket.receive_text())
        assert hello["type"] == "hello"
        if settings:
            socket.send_text(json.dumps({"type": "settings", "settings": settings}))
            said = json.loads(socket.receive_text())
            assert said["type"] == "settings"
        out = []
        for message in frames:
            socket.send_bytes(pack(message))
            out.append(picture(socket))
        return hello, out


def test_a_stream_from_hello_to_pictures(here):
    frames = [Message(k, 100.0 + k, png(value=40 * k)) for k in range(4)]
    hello, out = conversation(here, frames, {"steps": 1, "cond": {"label": 2}})
    assert hello["shape"] == [1, 8, 8]
    assert [(m.frame, m.captured) for m in out] == [(k, 100.0 + k) for k in range(4)]


def test_snapshot_of_a_stream_carries_its_settings(here):
    with here.websocket_connect("/v1/stream", headers=HERE) as socket:
        name = json.loads(socket.receive_text())["session"]
        assert here.get(f"/v1/streams/{name}/snapshot").status_code == 409
        assert here.get(f"/v1/streams/{name}/recording").status_code == 409
        assert here.post(f"/v1/streams/{name}/recording").status_code == 204
        socket.send_text(json.dumps({"type": "settings", "settings": {"steps": 1, "seed": 7}}))
        socket.send_bytes(pack(Message(0, 0.0, png())))
        picture(socket)
        answer = here.get(f"/v1/streams/{name}/snapshot")
        recipe = json.loads(Image.open(io.BytesIO(answer.content)).info["condiff"])
        assert recipe["settings"]["seed"] == 7
        assert here.get(f"/v1/streams/{name}/recording").status_code in (200, 501)
    assert here.get(f"/v1/streams/{name}/snapshot").status_code == 404


def garbage(count):
    """Malformed messages of every kind: broken JSON, wrong types and names, cut and oversized frames, no pictures."""
    rng, good = random.Random(0), pack(Message(1, 1.0, png()))
    texts = ["", "{", "[]", "null", "1", '"x"', '{"type": 3}', '{"type": "run"}', '{"type": "settings"}', "[" * 5000,
             '{"type": "settings", "settings": []}', '{"type": "settings", "settings": {"steps": "1"}}',
             '{"type": "settings", "settings": {"cond": {"label": 99}}}', '{"type": "settings", "settings": {"__class__": 1}}']  # fmt: skip
    for k in range(count):
        kind = k % 4
        if kind == 0:
            yield texts[rng.randrange(len(texts))]
        elif kind == 1:
            yield rng.randbytes(rng.randrange(0, 60))
        elif kind == 2:
            yield good[: rng.randrange(1, len(good))]
        else:
            spoiled = bytearray(good)
            spoiled[rng.randrange(len(spoiled))] ^= 1 << rng.randrange(8)
            yield bytes(spoiled)


def test_malformed_messages_leave_the_server_and_other_streams_as_they_were(here):
    with here.websocket_connect("/v1/stream", headers=HERE) as other:
        other.receive_text()
        with here.websocket_connect("/v1/stream", headers=HERE) as socket:
            socket.receive_text()
            for message in garbage(300):
                (socket.send_text if isinstance(message, str) else socket.send_bytes)(message)
            socket.send_text(json.dumps({"type": "settings", "settings": {"steps": 1}}))
            said = []
            while not said or said[-1].get("type") != "settings":
                got = heard(socket)
                said += [json.loads(got["text"])] if got.get("text") else []
            assert any(one["type"] == "error" for one in said)
        other.send_text(json.dumps({"type": "settings", "settings": {"steps": 1}}))
        other.send_bytes(pack(Message(5, 0.0, png())))
        assert picture(other).frame == 5
    assert here.get("/healthz").status_code == 200


def test_clients_that_leave_in_the_middle_of_a_frame_leave_nothing_behind(here):
    for k in range(20):
        with here.websocket_connect("/v1/stream", headers=HERE) as socket:
            socket.receive_text()
            socket.send_bytes(pack(Message(k, 0.0, png())))
    end = time.monotonic() + 5.0
    while "condiff_sessions 0" not in here.get("/metrics").text and time.monotonic() < end:
        time.sleep(0.02)
    assert "condiff_sessions 0" in here.get("/metrics").text


def until_closed(socket):
    while True:
        socket.receive_text()


def test_limits_close_the_stream_with_a_reason():
    with client(limits=Limits(sessions=1, rate=5.0, idle=0.3, frame=100)) as one:
        with one.websocket_connect("/v1/stream", headers=HERE) as first:
            first.receive_text()
            assert refused(one) == 4503
            first.send_bytes(b"x" * 101)
            assert "at most 100 bytes" in json.loads(first.receive_text())["message"]
            with pytest.raises(WebSocketDisconnect) as idle:
                until_closed(first)
            assert idle.value.code == 4408
        time.sleep(0.1)
        with one.websocket_connect("/v1/stream", headers=HERE) as fast:
            for _ in range(40):
                fast.send_text('{"type": "ping"}')
            with pytest.raises(WebSocketDisconnect) as hasty:
                until_closed(fast)
        assert hasty.value.code == 4429


def refused(one, **headers):
    with pytest.raises(WebSocketDisconnect) as caught, one.websocket_connect("/v1/stream", headers={**HERE, **headers}):
        pass
    return caught.value.code


def test_cross_origin_sockets_and_requests_are_refused(here):
    for origin in ("http://evil.example", "null", "http://127.0.0.1:9999", "https://localhost.evil.example"):
        assert refused(here, origin=origin) == 4403
        assert here.get("/v1/settings", headers={"origin": origin}).status_code == 403
    conversation(here, [], headers={**HERE, "origin": f"http://{HOST}"})


def test_a_rebound_host_is_refused(here):
    for host in ("evil.example", "evil.example:7860", "127.0.0.1.evil.example", ""):
        assert here.get("/healthz", headers={"host": host}).status_code == 403
        assert refused(here, host=host) == 4403
    assert here.get("/healthz", headers={"host": "localhost:7860"}).status_code == 200
    assert here.get("/healthz", headers={"host": "[::1]:7860"}).status_code == 200


def test_a_token_is_asked_of_every_way_in(monkeypatch):
    from condiff.serve import guard

    compared = []
    real = guard.hmac.compare_digest
    monkeypatch.setattr(guard.hmac, "compare_digest", lambda a, b: compared.append((a, b)) or real(a, b))
    with client(token="secret-token") as one:
        assert one.get("/healthz").status_code == 200
        for headers in (
            {},
            {"authorization": "Bearer wrong"},
            {"cookie": "condiff_token=wrong"},
            {"authorization": "secret-token"},
        ):
            assert one.get("/v1/settings", headers=headers).status_code == 401
            assert refused(one, **headers) == 4401
        assert one.get("/v1/settings?token=secret-toke").status_code == 401
        assert one.get("/v1/settings?token=secret-token").status_code == 200
        assert one.get("/v1/settings", headers={"authorization": "Bearer secret-token"}).status_code == 200
        assert one.get("/v1/settings", headers={"cookie": "condiff_token=secret-token"}).status_code == 200
        conversation(one, [], headers={**HERE, "authorization": "Bearer secret-token"})
    # Every answer, no token at all included, went through the comparison that takes constant time.
    assert len(compared) >= 12
    assert all(b == b"secret-token" for _, b in compared)


def test_bodies_are_cut_off(here):
    assert here.post("/v1/jobs", content=b"x" * 70_000).status_code == 413

    def endless():
        for _ in range(100):
            yield b"x" * 1000

    assert here.post("/v1/jobs", content=endless()).status_code == 413


def test_answers_forbid_framing_and_guessing_of_types(here):
    headers = here.get("/healthz").headers
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"


def test_the_interface_is_described(here):
    paths = here.get("/openapi.json").json()["paths"]
    assert {
        "/v1/jobs",
        "/v1/jobs/{name}",
        "/v1/jobs/{name}/events",
        "/v1/jobs/{name}/result",
        "/v1/settings",
        "/healthz",
        "/metrics",
    } <= set(paths)
