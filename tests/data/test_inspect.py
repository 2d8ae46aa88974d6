"""What the inspection says about good and bad data, and that it never fails on bad data nor loads torch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from condiff.data import corpus, read
from condiff.data.estimate import COSTS, propose, speed
from condiff.data.inspect import Inspection, inspect, sniff


def noise(path: Path, seed: int, size: tuple[int, int] = (8, 8), mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (size[1], size[0], 3) if mode == "RGB" else (size[1], size[0])
    Image.fromarray(np.random.Generator(np.random.PCG64(seed)).integers(0, 256, shape, np.uint8)).save(path)


def says(found: Inspection, words: str) -> bool:
    return any(words in line for line in (*found.problems, *found.warnings))


def test_a_good_folder(tmp_path: Path) -> None:
    for number in range(120):
        noise(tmp_path / ("even" if number % 2 else "odd") / f"{number}.png", number)
    found = inspect(tmp_path)
    assert found.good
    assert (found.kind, found.count) == ("images", 120)
    assert found.balance == {"label": {"even": 60, "odd": 60}}
    assert found.facts["sizes"] == {"8x8": 120}
    assert found.facts["duplicates"] == 0
    assert found.warnings == ()
    assert found.proposal is not None
    assert found.proposal.recipe == "images"
    assert found.proposal.command == f"condiff train {tmp_path} --steps 2000"
    assert json.loads(json.dumps(found.to_json()))["good"] is True
    lines = found.lines()
    assert lines[0] == f"{tmp_path}: images, 120 examples"
    assert any(line.strip().startswith("estimate: ") for line in lines)


def test_a_folder_with_everything_wrong(tmp_path: Path) -> None:
    for number in range(30):
        noise(tmp_path / "train" / "many" / f"{number}.png", number)
    noise(tmp_path / "train" / "few" / "a.png", 99, (16, 12))
    noise(tmp_path / "train" / "few" / "grey.png", 98, mode="L")
    Image.new("RGB", (8, 8), (5, 5, 5)).save(tmp_path / "train" / "few" / "flat.png")
    noise(tmp_path / "train" / "loose.png", 97)
    noise(tmp_path / "test" / "many" / "copy.png", 3)
    noise(tmp_path / "train" / "many" / "twin.png", 4)
    (tmp_path / "train" / "many" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (tmp_path / "train" / "notes.pdf").write_text("x")
    found = inspect(tmp_path)
    assert not found.good
    assert found.proposal is None
    assert found.facts["split"] == {"train": 36, "validation": 0, "test": 1}
    assert found.facts["duplicates"] == 2
    for words in (
        "1 unreadable image(s): train/many/broken.png",
        "1 exact duplicate(s) across train, validation and test (train/many/3.png = test/many/copy.png",
        "1 exact duplicate(s) (train/many/twin.png = train/many/4.png",
        "1 image(s) are one flat colour (train/few/flat.png",
        "label is uneven: few have less than a tenth",
        "2 different sizes: the central square is resized to 8x8",
        "grey and colour images are mixed",
        "1 image(s) lie beside the class folders",
        "1 file(s) of other kinds are left out (.pdf 1)",
        "only 37 examples",
    ):
        assert says(found, words), (words, found.problems, found.warnings)
    assert "next step" in found.lines()[-1]


def test_large_images_get_a_resolution_and_its_cost(tmp_path: Path) -> None:
    for number in range(3):
        noise(tmp_path / f"{number}.png", number, (100, 100))
    found = inspect(tmp_path)
    assert found.proposal is not None
    assert found.proposal.arguments == {"resolution": 64}
    assert "--resolution 64" in found.proposal.command


def test_series_facts_and_faults(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    hours = np.datetime64("2024-01-01T00") + np.arange(400).astype("timedelta64[h]")
    rows = [f"{hour},{'' if row % 4 == 0 else row},7" for row, hour in enumerate(hours) if row != 50]
    path.write_text("\n".join(["time,load,flat", *rows]))
    found = inspect(path)
    assert found.good
    assert found.count == 400
    assert found.facts["step_seconds"] == 3600.0
    assert found.facts["missing_values"] == 101  # the first is empty too, but a series begins with its first value
    assert found.facts["missing_times"] == 1
    assert found.facts["ranges"] == {"load": [1.0, 399.0], "flat": [7.0, 7.0]}
    assert found.proposal is not None
    assert found.proposal.arguments == {"horizon": 24}
    assert says(found, "column flat never changes")
    path.write_text("\n".join(["time,load", *rows[:1], *rows]).replace(",7", ""))
    assert says(inspect(path), "appear more than once (2024-01-01 00:00:00)")
    path.write_text("time,load\n2024-01-01,1\n2024-01-05,x\n2024-01-03,2\n")
    found = inspect(path)
    assert says(found, "column load: not a number in line 3 ('x')")
    assert says(found, "rows are not in order of time")
    assert says(found, "only 3 time steps")


def test_series_are_judged_as_a_forecaster_reads_them(tmp_path: Path) -> None:
    days = [str(np.datetime64("2024-01-01") + k) for k in range(300)]
    path = tmp_path / "a.csv"
    rows = [f"long,{day},{k % 7}" for k, day in enumerate(days)] + [f"short,{days[200]},3"]
    path.write_text("\n".join(["item_id,timestamp,target", *rows]))
    found = inspect(path)  # an item of one value is forecast by what the other teaches
    assert found.good
    assert found.facts["steps_of_an_item"] == [1, 300]
    assert not says(found, "by heart")
    wide = [f"{day},{k if k >= 250 else ''},{k % 5 if not 100 <= k < 180 else ''}" for k, day in enumerate(days)]
    path.write_text("\n".join(["date,late,gaps", *wide]))
    found = inspect(path)
    assert found.facts["missing_values"] == 80  # a late beginning is no gap
    assert says(found, "23% of the values are missing between the first and the last of their series")
    path.write_text("\n".join(["date,v", *(f"{day},5" for day in days)]))
    assert says(inspect(path), "no series ever changes")
    path.write_text("\n".join(["date,v", *(f"{day},{k}" for k, day in enumerate(days[:4]))]))
    assert says(inspect(path), "the longest series has 4 step(s)")
    path.write_text("\n".join(["date,v", *(f"0{1 + k}/02/2024,{k}" for k in range(9))]))
    assert inspect(path).problems == (
        "column date: '01/02/2024' is not a date that has one meaning: write dates as 2024-01-31 or 2024-01-31 12:00",
    )


def test_tabs_may_part_texts_or_numbers_over_time(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    days = [str(np.datetime64("2024-01-01") + k) for k in range(60)]
    path.write_text("\n".join(["date\tv", *(f"{day}\t{k % 7}" for k, day in enumerate(days))]))
    assert sniff(path) == "series"
    assert inspect(path).good
    assert len(read(path, horizon=3).train) > 0
    path.write_text("\n".join(["source\ttarget", *(f"{day}\tday {k}" for k, day in enumerate(days))]))
    assert sniff(path) == "text"


def test_vectors_and_arrays(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(
        "\n".join(["a,b,label", *(f"{row},{row % 5},{int(row > 1)}" for row in range(50)), "49,4,1", ",1,1"])
    )
    found = inspect(path)
    assert found.kind == "vectors"
    assert says(found, "column a: 1 missing or infinite value(s)")
    assert says(found, "label is uneven: 0 have")
    assert found.facts["duplicates"] == 1
    assert found.balance == {"label": {"1": 50, "0": 2}}
    path = tmp_path / "a.npz"
    images = np.arange(6 * 9, dtype=np.float32).reshape(6, 3, 3)
    images[4] = images[1]
    images[5, 0, 0] = np.inf
    np.savez(path, images=images, y=np.array([0, 0, 0, 0, 1, 1]))
    found = inspect(path)
    assert says(found, "1 NaN or infinite value(s)")
    assert found.facts["nan_or_infinite"] == 1
    assert found.facts["duplicates"] == 1
    assert found.balance == {"label": {"0": 4, "1": 2}}


def test_texts(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_text("\n".join([*(f"in {row}\tout {row}" for row in range(150)), "in 3\tout 3", f"x\t{'y' * 300}"]))
    found = inspect(path)
    assert found.good
    assert found.count == 152
    assert found.facts["duplicates"] == 1
    assert says(found, "1 text(s) are longer than 256 bytes")
    (tmp_path / "b.txt").write_text("short")
    assert says(inspect(tmp_path / "b.txt"), "only 5 bytes")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", b""),
        ("a.csv", b"\xff\xfe\x00"),
        ("a.csv", b'a,"b\n1,2'),
        ("a.csv", b"a,b\n1"),
        ("a.csv", b"time\n2024-01-01"),
        ("a.csv", b"time,v\nx,y\nz,w"),
        ("a.csv", b"time,v\n2024-01-01,1\n2024-01-02,2"),
        ("a.csv", b"a,b\n1,2\n3,nan\n5,6"),
        ("a.csv", b"label\n1\n2\n1"),
        ("a.csv.gz", b"\x1f\x8b"),
        ("a.npz", b"PK\x03\x04"),
        ("a.npz", b""),
        ("a.txt", b"\xc3"),
        ("a.txt", b"few words"),
        ("a.txt.gz", b""),
        ("a.jsonl", b"{}"),
        ("a.jsonl", b'{"text": "a"}'),
        ("a.jsonl.xz", b"x"),
        ("a.tsv", b"\t\t\t\t"),
        ("a.bin", b"\0"),
        ("a.png", b"\x89PNG"),
    ],
)
def test_bad_data_are_reported_and_never_raised(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    found = inspect(path)
    assert not found.good
    assert found.proposal is None
    assert all("\n" not in problem for problem in found.problems)
    json.dumps(found.to_json())
    with pytest.raises(ValueError, match=name):  # and reading agrees
        read(path)


def test_empty_and_strange_folders(tmp_path: Path) -> None:
    assert says(inspect(tmp_path), "it is empty")
    (tmp_path / "class").mkdir()
    (tmp_path / "class" / "a.png").write_bytes(b"")
    assert says(inspect(tmp_path), "1 unreadable image(s): class/a.png: empty file")
    (tmp_path / "metadata.csv").write_bytes(b"file_name\n\xff")
    assert says(inspect(tmp_path), "expected UTF-8 text")
    with pytest.raises(FileNotFoundError, match="no such file or folder"):
        inspect(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("name", "kind", "count"),
    [("digits", "images", 10000), ("digits8", "images", 10000), ("traffic", "series", 17520), ("verses", "text", 31039), ("mocap", "poses", 1620), ("phrases", "text", 8999),
     ("mni152", "volumes", 98)],
)  # fmt: skip
def test_bundled_sets(name: str, kind: str, count: int) -> None:
    assert sniff(name) == kind
    found = inspect(name)
    assert (found.path, found.kind, found.count, found.good) == (name, kind, count, True)


def test_nothing_here_loads_torch(tmp_path: Path) -> None:
    noise(tmp_path / "a" / "1.png", 1)
    code = (
        "import sys; from condiff.data.inspect import inspect; "
        f"found = inspect({str(tmp_path)!r}); inspect('traffic'); inspect('digits'); assert found.count == 1; "
        "raise SystemExit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


def test_the_estimate_grows_as_its_rule_says() -> None:
    small = propose("p", "images", (3, 40, 40), 100, {}, 1000, 4)
    large = propose("p", "images", (3, 80, 80), 100, {}, 2000, 4)
    assert large.seconds == pytest.approx(8 * small.seconds, rel=1e-2)
    cost = COSTS["images"]
    exact = (20 * cost.parameters + 8 * 100 * 4800 + 4 * 1600 * cost.kept) / 2**20
    assert small.memory_mib == pytest.approx(exact, abs=0.1)
    assert small.seconds == pytest.approx(1000 * 4 * 1600 * cost.operations / (0.5 * speed()), abs=0.06)
    tiny = propose("p", "images", (3, 32, 32), 100, {}, 1000, 4)  # gets the smaller network
    assert tiny.memory_mib < 0.2 * small.memory_mib
    assert propose("p", "text", (100,), 9, {"length": 100}, 1, 1).command == "condiff train p --length 100 --steps 1"


def test_a_first_line_that_names_the_columns_is_no_pair(tmp_path: Path) -> None:
    pairs = [f"word {k}\tsaid {k}" for k in range(9)]
    for head, count in (("source\ttarget", 9), ("Input\tOutput", 9), ("word\ttarget", 10)):
        (tmp_path / "a.tsv").write_text("\n".join([head, *pairs]))
        found = corpus.scan(tmp_path / "a.tsv")
        assert len(found.texts) == len(found.inputs) == count
        assert says(inspect(tmp_path / "a.tsv"), "line 1 names the columns") == (count == 9)
