"""The progress line and the metrics file."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import pytest
from train.toy import FAST

from condiff.train.record import Log, Talk


class Terminal(io.StringIO):
    def isatty(self):
        return True


VALUES = {"step": 300, "loss": 0.12345, "samples_per_second": 1234.5, "seconds": 30.0}
LONG = replace(FAST, steps=1500)


def test_a_terminal_gets_one_line_that_is_overwritten(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "60")
    stream = Terminal()
    talk = Talk(stream, LONG)
    talk.step(VALUES)
    talk.step({**VALUES, "step": 600, "validation_loss": 0.5})
    talk.say("done")
    first, second, rest = stream.getvalue().removeprefix("\r\x1b[K").partition("\r\x1b[K")[0::2] + ("",)
    assert first == "step 300/1500  loss 0.1235  1234 samples/s  2:00 left"
    assert second.startswith("step 600/1500")
    assert second.endswith("\ndone\n")
    assert all(len(part) < 60 for part in second.splitlines())
    assert rest == ""


@pytest.mark.parametrize("plain", ["pipe", "NO_COLOR", "dumb"])
def test_elsewhere_lines_are_plain_and_rare(monkeypatch, plain):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "dumb" if plain == "dumb" else "xterm")
    if plain == "NO_COLOR":
        monkeypatch.setenv("NO_COLOR", "1")
    stream = io.StringIO() if plain == "pipe" else Terminal()
    talk = Talk(stream, LONG)
    for step in (300, 301, 1500):
        talk.step({**VALUES, "step": step})
    assert "\x1b" not in stream.getvalue()
    assert "\r" not in stream.getvalue()
    assert [line.split()[1] for line in stream.getvalue().splitlines()] == ["300/1500", "1500/1500"]


def test_the_time_left_follows_the_shorter_of_steps_and_clock():
    stream = io.StringIO()
    Talk(stream, replace(LONG, seconds=40.0)).step(VALUES)
    assert "0:10 left" in stream.getvalue()
    stream = io.StringIO()
    Talk(stream, replace(LONG, steps=10**6)).step({**VALUES, "seconds": 3.0})
    assert "2:46:37 left" in stream.getvalue()


def test_a_quiet_worker_says_nothing():
    stream = io.StringIO()
    talk = Talk(stream, LONG, quiet=True)
    talk.step(VALUES)
    talk.say("hello")
    assert stream.getvalue() == ""


def test_the_log_is_cut_back_to_the_resumed_step(tmp_path):
    log = Log(tmp_path, 0)
    for step in (1, 2, 3):
        log.add({"step": step, "loss": 1.0 / step})
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write("4\n")
    again = Log(tmp_path, 2)
    again.add({"step": 3, "loss": 9.0})
    found = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], line["loss"]) for line in found] == [(1, 1.0), (2, 0.5), (3, 9.0)]
    assert again.lines == found
