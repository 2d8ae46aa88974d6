"""The built page is the build of its sources, asks nothing of other hosts, and works in a real browser."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from serve.conftest import small

import condiff
from condiff.serve.clip import strip

ROOT = Path(__file__).parents[2]
PAGE, WEB = ROOT / "page", ROOT / "src" / "condiff" / "serve" / "web"


def test_the_built_files_are_the_build_of_the_sources():
    """`npm run build` in page/ writes this fingerprint; whoever changes a source must build."""
    names = [
        "index.html",
        "vite.config.ts",
        "tsconfig.json",
        "package.json",
        *(f"src/{p.name}" for p in (PAGE / "src").iterdir()),
    ]
    digest = hashlib.sha256()
    for name in sorted(names):
        digest.update(name.encode() + b"\0" + (PAGE / name).read_bytes() + b"\0")
    assert json.loads((WEB / "sources.json").read_text()) == {"sha256": digest.hexdigest()}


def test_the_page_asks_nothing_of_other_hosts():
    for path in WEB.iterdir():
        assert not re.findall(r"(?:https?:)?//[a-z]", path.read_text()), path.name


def test_the_page_is_served_with_its_files():
    pytest.importorskip("fastapi", reason="extra [serve]")
    from condiff.serve.http import pages

    found = {path: media for path, media, _ in pages()}
    html = (WEB / "index.html").read_text()
    assert found["/"].startswith("text/html")
    for name in re.findall(r'(?:src|href)="\./([^"]+)"', html):
        assert f"/{name}" in found
    assert found["/page.js"] == "text/javascript"


def test_the_clip_has_the_size_of_the_system():
    import io

    from PIL import Image

    image = Image.open(io.BytesIO(strip((3, 16, 20), 30)))
    assert (image.size, image.mode) == ((20, 16 * 30), "RGB")
    assert image.getextrema()[0][1] > 200


def serving(tmp_path, *more):
    condiff.save(small(), tmp_path / "s.safetensors")
    words = [sys.executable, "-m", "condiff", "serve", str(tmp_path / "s.safetensors"), "--port", "0", *more]
    return subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


def test_the_command_serves_says_where_and_ends_on_interrupt(tmp_path):
    pytest.importorskip("fastapi", reason="extra [serve]")
    import urllib.request

    process = serving(tmp_path, "--token", "a-long-token")
    try:
        line = process.stderr.readline()
        address = re.search(r"http://127\.0\.0\.1:\d+/\?token=a-long-token", line)[0]
        with urllib.request.urlopen(address, timeout=20) as answer:
            assert b"condiff live" in answer.read()
            assert "HttpOnly" in answer.headers["set-cookie"]
    finally:
        process.send_signal(signal.SIGINT)
        rest = process.communicate(timeout=30)[1]
    assert process.returncode in (0, 130)
    assert "Traceback" not in rest


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("chromium") or not shutil.which("node"), reason="needs Chromium and Node.js")
@pytest.mark.skipif(
    not (PAGE / "node_modules" / "playwright-core").is_dir(), reason="npm install --no-save playwright-core in page/"
)
def test_a_real_browser_streams_changes_reconnects_and_takes_a_snapshot(tmp_path):
    """The built-in clip and the pad stream; class and guidance change the result; the socket drops and comes back."""
    process = serving(tmp_path)
    try:
        address = re.search(r"http://\S+", process.stderr.readline())[0]
        run = [
            shutil.which("node"),
            str(Path(__file__).with_name("browse.mjs")),
            address,
            shutil.which("chromium"),
            str(tmp_path),
            str(PAGE),
        ]
        done = subprocess.run(run, capture_output=True, text=True, timeout=180, check=False)
        assert done.returncode == 0, done.stderr
        facts = json.loads(done.stdout)
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
    assert facts["errors"] == []
    assert facts["drawn"] > 200
    assert facts["steady"] < 1.0 < facts["changed"]
    assert "99" in facts["refused"]
    assert (facts["restored"], facts["kept"], facts["paused"]) == ("connected", facts["last"], "true")
    assert facts["overflow"] <= 0
    assert (tmp_path / "snapshot.png").is_file()
