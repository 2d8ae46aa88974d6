"""The command `condiff`: finds the verb, runs it, and turns every failure into one line and an exit code.

Nothing here imports torch: a verb's module is imported when it runs.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module

from condiff.cli.errors import UsageError, nearest
from condiff.cli.output import alone

VERBS = {
    "systems": "list the systems that the package offers",
    "train": "train a recipe, or the general recipe for a folder or file",
    "sample": "draw samples from a trained run or checkpoint",
    "forecast": "forecast series with a trained run, with bands",
    "impute": "fill the gaps of series with a trained run",
    "bench": "compare what a run can do: solvers by quality and network calls",
    "eval": "measure a trained run on held-out data",
    "reproduce": "run a system's small experiment on real data",
    "serve": "serve a run: a live stream with its page, and batch jobs",
    "info": "say what is inside a checkpoint or a generated file",
    "doctor": "look at the machine, or at data or a run before using them",
    "replay": "regenerate a generated file from the recipe inside it",
}

SHARED = ("train", "sample", "eval")
"""Verbs whose work several workers share."""

GOOD, FAILED, WRONG_USAGE, INTERRUPTED = 0, 1, 2, 130


def _help() -> str:
    lines = ["usage: condiff VERB ...", "", "Conditional diffusion and flow models for any data.", "", "verbs:"]
    lines += [f"  {verb:<10} {text}" for verb, text in VERBS.items()]
    lines += [
        "",
        "options:",
        "  -v         show the full traceback of a failure",
        "  --version  print the version",
        "  --help     this text; condiff VERB --help tells about one verb",
        "",
        "start with:  condiff train digits --out runs/digits --seconds 120   then   condiff sample runs/digits",
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    verbose = any(word in ("-v", "--verbose") for word in words)
    words = [word for word in words if word not in ("-v", "--verbose")]
    try:
        code = _run(words)
        sys.stdout.flush()  # a full disk or a closed pipe behind stdout shows here, where it is answered
        return code
    except KeyboardInterrupt:
        code = INTERRUPTED
    except BrokenPipeError:
        _forget_output()  # the reader of a pipe went away, as `head` does
        code = GOOD
    except Exception as error:  # the border: everything becomes one line, and -v shows the rest
        code = WRONG_USAGE if isinstance(error, UsageError | FileNotFoundError | FileExistsError) else FAILED
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EFBIG) and not error.filename:
            _forget_output()
        if verbose:
            traceback.print_exc()
        if _tells(error):
            print(f"condiff: {describe(error)}", file=sys.stderr)
    if not alone():
        from condiff.train.workers import abandon

        abandon(code)
    return code


def _tells(error: Exception) -> bool:
    """Tell an error: the first of several workers does, so that a job ends with one line."""
    if alone():
        return True
    from condiff.train.workers import first_to_fail

    return first_to_fail(error)


def _forget_output() -> None:
    """Point stdout elsewhere, so that Python's own flush at exit is quiet."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _run(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(_help(), file=sys.stdout if words else sys.stderr)
        return GOOD if words else WRONG_USAGE
    if words[0] == "--version":
        from condiff import __version__

        print(f"condiff {__version__}")
        return GOOD
    verb, *rest = words
    if verb not in VERBS:
        kind = "option" if verb.startswith("-") else "verb"
        raise UsageError(f"no {kind} {verb!r}{nearest(verb, VERBS)} There are {', '.join(VERBS)}; see condiff --help")
    if verb not in SHARED and not alone():
        raise UsageError(
            f"condiff {verb} is for one process, start it by itself; launchers are for {', '.join(SHARED)}"
        )
    module = import_module(f"condiff.cli.{verb}_verb")
    try:
        code: int = module.run(rest)
    except SystemExit as leave:  # argparse leaves after --help
        return int(leave.code or 0)
    return code


def describe(error: BaseException) -> str:
    """Return one line for a failure, naming the file and the next step where the error knows them."""
    if isinstance(error, OSError) and error.errno is not None:
        name = f"{error.filename}: " if error.filename else "standard output: " if error.errno == errno.ENOSPC else ""
        advice = {
            errno.ENOSPC: "the disk is full; free some space and run again, nothing that was there is lost",
            errno.EFBIG: "the file would be larger than allowed here; nothing that was there is lost",
            errno.EACCES: "no permission; give another --out or path",
            errno.EROFS: "a read-only place; give another --out",
            errno.ENOTDIR: "a part of this path is a file, not a folder; give another path",
            errno.EEXIST: "a file is in the way; give another path",
            errno.EISDIR: "is a folder, but a file is expected",
            errno.ENOENT: "no such file or folder",
        }.get(error.errno, (error.strerror or str(error)).lower())
        return f"{name}{advice}"
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
        return "not enough memory for this; ask for fewer samples, a smaller --batch-size or a smaller network"
    if isinstance(error, RuntimeError) and "gloo/" in str(error):
        return "another worker is gone, so this one cannot go on; what ended it stands in its own output"
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    first = " ".join(text.split())
    if isinstance(error, ValueError | TypeError | RuntimeError | UsageError | OSError) and first:
        return first if len(first) <= 600 else first[:597] + "..."
    return f"{type(error).__name__}: {first or 'no further words'} (run again with -v for the traceback)"


if __name__ == "__main__":
    sys.exit(main())
