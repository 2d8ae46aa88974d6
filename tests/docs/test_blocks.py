"""Every block of code in the README and the docs runs, and every command in them is one that exists."""

from __future__ import annotations

import re
import shlex
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch

from condiff.cli.main import main
from condiff.cli.parser import Parser

sys.path.insert(0, str(Path(__file__).parent))
from pages import PAGES, ROOT, blocks, commands

NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
LANGUAGES = {"python", "console", "text", "{toctree}", "{names}"}
TARGETS = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)


class ParsedError(Exception):
    """The command was understood."""


@pytest.fixture
def understood(monkeypatch):
    """Stop every command as soon as its arguments were read without complaint."""
    read = Parser.read

    def stop(self, words):
        arguments = read(self, words)
        raise ParsedError(arguments)

    monkeypatch.setattr(Parser, "read", stop)


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_blocks_are_of_a_known_language(page):
    unknown = {block.language for block in blocks(page)} - LANGUAGES
    assert not unknown, f"{page.name} has blocks of {unknown}, which nothing checks"


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_python_blocks_run(page, place):
    namespace = {"__name__": page.stem}
    with torch.random.fork_rng(devices=[]):
        for block in blocks(page):
            if block.language == "python":
                # Line numbers in a traceback are those of the page.
                code = compile("\n" * (block.line - 1) + block.text, str(page), "exec")
                exec(code, namespace)


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_commands_are_understood(page, place, understood):
    for block in blocks(page):
        if block.language != "console":
            continue
        assert commands(block), f"{page.name}:{block.line} is a console block without a command"
        for command in commands(block):
            words = shlex.split(command)
            match words:
                case ["condiff", *_] | ["python", "-m", "condiff", *_]:
                    check(words[words.index("condiff") + 1 :], f"{page.name}:{block.line}: {command}")
                case ["torchrun", *_] | ["accelerate", "launch", *_]:
                    assert words[words.index("condiff") - 1] == "-m"
                    check(words[words.index("condiff") + 1 :], f"{page.name}:{block.line}: {command}")
                case ["make", *targets]:
                    named = [word for word in targets if "=" not in word]
                    assert set(named) <= set(TARGETS), f"{page.name}:{block.line}: {command}"
                case ["python", script]:
                    assert (ROOT / script).is_file(), f"{page.name}:{block.line}: {command}"
                case _:
                    assert command.startswith(("git clone ", "cd ", "pip install "))


def check(words, where):
    """Assert that a command's verb and options exist."""
    if words[-1] in ("--help", "--version"):
        assert main(words) == 0, where
        return
    # The border of main turns every failure into a line and a code; the modules behind it do not.
    with pytest.raises(ParsedError) as caught:
        import_module(f"condiff.cli.{words[0]}_verb").run(words[1:])
    assert isinstance(caught.value, ParsedError), where


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_tested_commands_run(page, place, capfd):
    for block in blocks(page):
        if block.tested:
            assert block.language == "console", f"{page.name}:{block.line} is marked as tested but is no console block"
            for command in commands(block):
                words = shlex.split(command)
                assert words[0] == "condiff", command
                assert main(words[1:]) == 0, f"{page.name}: {command}\n{capfd.readouterr().err}"


def test_some_commands_are_tested():
    assert sum(len(commands(block)) for page in PAGES for block in blocks(page) if block.tested) >= 8
