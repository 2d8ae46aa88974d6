"""A session without sockets: what comes back, in what order, and what is counted."""

from __future__ import annotations

import pytest
import torch
from serve.conftest import png

from condiff.serve.session import Session
from condiff.serve.settings import Streamer
from condiff.serve.wire import Message, opened
from condiff.serve.worker import Worker


class Nothing:
    def advance(self):
        return False


@pytest.fixture
def made(system):
    out: list = []
    session = Session(Streamer(system), deadline=0.0, wake=lambda: None, deliver=out.append)
    return session, out


def frames(out):
    return [message for message in out if isinstance(message, Message)]


def feed(session, count, first=0, picture=None):
    for k in range(first, first + count):
        session.receive(Message(k, 10.0 + k, png(value=k * 20 % 256) if picture is None else picture))
        assert session.advance()


def test_frames_come_back_in_order_with_their_numbers_and_times_once_the_pipe_is_full(made):
    session, out = made
    feed(session, 6)
    assert [(m.frame, m.captured) for m in frames(out)] == [(0, 10.0), (1, 11.0), (2, 12.0)]
    assert opened(frames(out)[0].picture, (1, 8, 8)).shape == (1, 1, 8, 8)
    assert session.stats.counters() == {
        "received": 6,
        "made": 3,
        "skipped": 0,
        "dropped": 0,
        "late": 0,
        "missed": 0,
        "errors": 0,
    }


def test_what_is_under_way_comes_out_when_the_source_stops(made):
    session, out = made
    feed(session, 4)
    session._patience = -1.0
    while session.advance():
        pass
    assert [m.frame for m in frames(out)] == [0, 1, 2, 3]


def test_the_newest_frame_wins(made):
    session, out = made
    for k in range(5):
        session.receive(Message(k, 0.0, png()))
    session.change({"steps": 1})
    assert session.advance()
    assert [m.frame for m in frames(out)] == [4]
    assert session.stats.dropped == 4
    assert session.waiting == 0


def test_settings_are_taken_up_by_the_next_frame(made):
    session, out = made
    session.change({"steps": 1, "guiding": "none"})
    feed(session, 1, picture=png(value=200))
    session.change({"cond": {"label": 2}})
    feed(session, 1, first=1, picture=png(value=200))
    session.change({"seed": 5})
    feed(session, 1, first=2, picture=png(value=200))
    assert len(frames(out)) == 3
    with pytest.raises(ValueError, match="steps"):
        session.change({"steps": 0})
    assert session.settings.steps == 1


def test_a_new_class_reaches_frames_under_way_and_a_new_way_of_guiding_starts_again(made):
    session, out = made
    feed(session, 3)
    session.change({"cond": {"label": 1}})
    feed(session, 1, first=3)
    assert [m.frame for m in frames(out)] == [0]
    assert session._flight.cond.values["label"].tolist() == [1, 1, 1]
    session.change({"guiding": "full"})
    feed(session, 1, first=4)
    assert [m.frame for m in frames(out)] == [0]
    assert session._flight.frames == (4,)


def test_still_frames_are_answered_by_the_last_picture(made):
    session, out = made
    session.change({"steps": 1, "threshold": 0.5, "max_skip": 3})
    feed(session, 8, picture=png(value=99))
    assert [m.again for m in frames(out)] == [False, True, True, True, False, True, True, True]
    assert session.stats.skipped == 6
    assert len({m.picture for m in frames(out)[:4]}) == 1


def test_late_frames_are_not_made(system):
    out: list = []
    session = Session(Streamer(system), deadline=1e-9, wake=lambda: None, deliver=out.append)
    feed(session, 3)
    assert session.stats.late == 3
    assert out == [{"type": "late", "frame": k} for k in range(3)]


def test_a_bad_picture_is_an_error_message_and_nothing_else(made):
    session, out = made
    session.change({"steps": 1})
    feed(session, 1, picture=b"no picture")
    feed(session, 1, first=1)
    feed(session, 1, first=2, picture=b"")
    bad, empty = (m for m in out if isinstance(m, dict))
    assert bad["frame"] == 0
    assert "readable" in bad["message"]
    assert "strength 1" in empty["message"]
    assert [m.frame for m in frames(out)] == [1]
    session.change({"strength": 1.0})
    feed(session, 1, first=3, picture=b"")
    assert [m.frame for m in frames(out)] == [1, 3]


def test_pause_reset_and_recording(made):
    session, _ = made
    session.change({"steps": 1})
    session.record()
    feed(session, 2)
    session.paused = True
    session.receive(Message(9, 0.0, png()))
    assert not session.advance()
    session.paused = False
    assert len(session.recorded()) == 2
    assert session.recorded() == []
    session.reset()
    session.advance()
    assert session.last is None


def test_pictures_that_are_not_finite_are_an_error_and_the_stream_goes_on(made, monkeypatch):
    session, out = made
    session.change({"steps": 1})
    monkeypatch.setattr(
        type(session._batch), "push", lambda self, *a: (None, [(0, torch.full((1, 1, 8, 8), torch.nan))])
    )
    feed(session, 1)
    monkeypatch.undo()
    assert "not finite" in out[-1]["message"]
    feed(session, 1, first=1)
    assert [m.frame for m in frames(out)] == [1]


def test_the_worker_gives_everyone_a_turn(system):
    """Three sources that never stop are served equally: at most one frame apart."""
    worker, counts = Worker(Nothing()), [0, 0, 0]
    sessions = []
    for k in range(3):

        def deliver(message, k=k):
            counts[k] += isinstance(message, Message)

        session = Session(Streamer(system), deadline=0.0, wake=worker.wake, deliver=deliver)
        session.change({"steps": 1})
        sessions.append(session)
        worker.join(session)
    for _ in range(30):
        for session in sessions:
            session.receive(Message(0, 0.0, png()))
        worker.round()
        assert max(counts) - min(counts) <= 1
    worker.leave(sessions[1])
    assert worker.sessions == [sessions[0], sessions[2]]
    assert counts == [30, 30, 30]
