"""A folder as a reader of the docs would have it: a trained run, pictures and tables of their own."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from condiff.cli.main import main


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """Run on one thread: on networks this small, two threads wait for each other more than they work."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def reader(tmp_path_factory):
    """Make the folder once; training it properly is the demo's business."""
    folder = tmp_path_factory.mktemp("reader")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        words = "train digits --out runs/demo --steps 2 --batch-size 16 --widths 8,16 --sample-every 0"
        assert main(words.split()) == 0
    generator = torch.Generator().manual_seed(0)
    for name in ("cats", "dogs"):
        (folder / "photos" / name).mkdir(parents=True)
        for k in range(20):
            pixels = torch.randint(0, 256, (16, 16, 3), generator=generator, dtype=torch.uint8)
            Image.fromarray(pixels.numpy()).save(folder / "photos" / name / f"{k}.png")
    rows = torch.randn(60, 3, generator=generator)
    lines = ["width,height,weight,label", *(f"{a:.3f},{b:.3f},{c:.3f},kind{int(a > 0)}" for a, b, c in rows.tolist())]
    (folder / "measurements.csv").write_text("\n".join(lines) + "\n")
    (folder / "book.txt").write_text("In the beginning was the word, and the word was long. " * 200)
    (folder / "pairs.tsv").write_text("\n".join(f"verse {k} saith\tverse {k} says" for k in range(100)))
    (folder / "stories.jsonl").write_text("\n".join(f'{{"text": "once there was story {k}"}}' for k in range(100)))
    days = np.datetime64("2024-01-01") + np.arange(160)
    lines = ["item_id,timestamp,target,price,region"]
    for item, size, region in (("apples", 100, "north"), ("pears", 40, "south")):
        lines += [
            f"{item},{day},{'' if k == 40 else size * (1 + (k % 7 == 5)) + k % 3},{1 + (k % 11 == 0)},{region}"
            for k, day in enumerate(days)
        ]
    (folder / "sales.csv").write_text("\n".join(lines) + "\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        words = "train sales.csv --horizon 7 --out runs/sales --steps 2 --batch-size 8 --width 32 --depth 1"
        assert main(words.split()) == 0
    return folder


@pytest.fixture
def place(reader, tmp_path, monkeypatch):
    """Give a test its own copy of the reader's folder, and stand in it."""
    shutil.copytree(reader, tmp_path / "place")
    monkeypatch.chdir(tmp_path / "place")
    return tmp_path / "place"
