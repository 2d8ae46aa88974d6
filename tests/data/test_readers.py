"""CSV, NPZ and text files as people have them, and what is said when they are broken."""

from __future__ import annotations

import gzip
import json
import lzma
import struct
import zipfile
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from condiff.data import corpus, read, read_like
from condiff.data.inspect import inspect


def hourly(rows: int, *, skip: frozenset[int] = frozenset()) -> list[str]:
    start = np.datetime64("2024-01-01T00:00:00")
    return [f"{start + np.timedelta64(row, 'h')},{row}.0,{100 - row}" for row in range(rows) if row not in skip]


def test_a_wide_csv_is_one_series_of_several_channels(tmp_path: Path) -> None:
    path = tmp_path / "power.csv"
    path.write_text("\n".join(["time,load,price", *hourly(400)]))
    splits = read(path, length=10, stride=5)
    assert splits.train.kind == "series"
    assert splits.train.data.shape == (63, 2, 10)  # starts 0, 5, ... 310 within the first 320 steps
    assert splits.train.meta["channels"] == ["load", "price"]
    mean, std = (torch.tensor(splits.train.meta[name])[0] for name in ("mean", "std"))
    real = splits.test.data[0] * std[:, None].float() + mean[:, None].float()
    torch.testing.assert_close(real[0], torch.arange(360.0, 370.0), atol=1e-3, rtol=0)
    torch.testing.assert_close(real[1], 100 - torch.arange(360.0, 370.0), atol=1e-3, rtol=0)
    assert mean.tolist() == pytest.approx([159.5, -59.5])  # of hours 0 to 319 only
    assert read(path).train.data.shape[-1] == 24  # one day fits into the test part of 40 hours


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress])
def test_packed_csv_with_gaps_is_completed_and_says_so(tmp_path: Path, pack) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / f"power.csv.{'gz' if pack is gzip.compress else 'xz'}"
    lines = ["time;load", *(line.rsplit(",", 1)[0].replace(",", ";") for line in hourly(300, skip=frozenset({7, 8})))]
    lines[3] = lines[3].split(";")[0] + ";"
    path.write_bytes(pack("\n".join(lines).encode()))
    train = read(path, length=12, stride=12).train
    assert train.meta["missing"] == 3
    real = train.data[0, 0] * train.meta["std"][0][0] + train.meta["mean"][0][0]  # type: ignore[index]
    torch.testing.assert_close(real, torch.arange(12.0), atol=1e-3, rtol=0)


def test_a_long_csv_has_one_item_a_series(tmp_path: Path) -> None:
    path = tmp_path / "sales.csv"
    rows = [
        f"{item},{np.datetime64('2024-01-01') + day},{day * scale}"
        for item, scale in (("b", 1), ("a", 10))
        for day in range(100)
    ]
    path.write_text("\n".join(["item_id,timestamp,target", *rows[::-1]]))
    train = read(path, length=7, stride=7).train
    assert train.labels == {"item": ("a", "b")}
    assert train.data.shape == (22, 1, 7)
    assert train.conditions["item"].tolist() == [0] * 11 + [1] * 11
    torch.testing.assert_close(train.data[:11], train.data[11:])  # equal once each is scaled by itself
    assert train.meta["period"] == 7


def test_months_are_one_step(tmp_path: Path) -> None:
    path = tmp_path / "months.csv"
    months = np.arange("2000-01", "2015-01", dtype="datetime64[M]")
    path.write_text("\n".join(["month,value", *(f"{month},{row}" for row, month in enumerate(months) if row != 30)]))
    train = read(path).train
    assert train.meta["period"] == 12
    assert train.meta["missing"] == 1
    assert train.data.shape[-1] == 12


def test_a_plain_table_is_vectors_with_classes(tmp_path: Path) -> None:
    path = tmp_path / "iris.csv"
    path.write_text("\n".join(["width,height,label,id", *(f"{row},{row * row},{row % 3},x{row}" for row in range(60))]))
    train = read(path).train
    assert train.kind == "vectors"
    assert train.labels == {"label": ("0", "1", "2")}
    mean, std = (torch.tensor(train.meta[name]) for name in ("mean", "std"))
    real = train.data * std + mean
    torch.testing.assert_close(real[:, 0] ** 2, real[:, 1], atol=1e-2, rtol=1e-4)
    assert torch.equal(train.conditions["label"], real[:, 0].round().long() % 3)
    assert train.meta["left_out"] == ["id"]
    torch.testing.assert_close(train.data.mean(0), torch.zeros(2), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file is empty"),
        ("a,b\n", "no rows below the header"),
        ("a,b\n1,2\n3\n5,6", "line 3: expected 2 cells as in the header, found 1"),
        ("a,b\n1,2\nnan,4\n5,6", r"1 missing or infinite value\(s\) in column a"),
        ("a,b\n1,2\n3,inf\n5,6", "column b: infinite in line 3"),
        ("a,b\n1,2\n3,x\n5,6", r"column b: not a number in line 3 \('x'\)"),
        ("a,a\n1,2\n3,4\n5,6", "names a twice"),
        ("name,city\nx,y\nx,y", "no column of numbers"),
        ("label\n1\n2\n1", "only numeric column is the class"),
        ("time,v\n2024-01-01,1\n2024-01-01,2\n2024-01-02,3", r"1 time\(s\) appear more than once \(2024-01-01"),
        ("time,v\n2024-01-01,1\n2024-01-02,2\nlater,3\n2024-01-04,3", r"not a date in line 4 \('later'\)"),
        ("date,v\n01/02/2024,1\n02/02/2024,2", "is not a date that has one meaning"),
        ("time,v\n2024-01-01,1\n2024-01-02,2\n2024-01-03,1", "too few for windows"),
        (
            "time,v\n2024-01-01 00:00,1\n2024-01-01 01:00,2\n2024-01-01 02:00,2\n2024-01-01 03:25,2\n2024-01-01 04:25,",
            r"no regular step \(usually 3600 s, but 5100 s after 2024-01-01 02:00:00\)",
        ),
        ("time,v,w\n2024-01-01,1,\n2024-01-02,2,\n2024-01-03,1,", "column w has no value at all"),
    ],
)
def test_broken_tables_are_explained(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.csv"
    path.write_text(text)
    assert not inspect(path).good  # the inspection agrees
    with pytest.raises(ValueError, match=message) as caught:
        read(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_npz_images_with_labels_and_other_conditions(tmp_path: Path) -> None:
    images = np.arange(40 * 6 * 5 * 3, dtype=np.uint32).reshape(40, 6, 5, 3).astype(np.uint8)
    labels = np.arange(40) % 4 + 3
    np.savez(
        tmp_path / "a.npz", images=images, labels=labels, age=np.arange(40.0), mask=images[..., :1], extra=np.eye(4)
    )
    train = read(tmp_path / "a.npz").train
    assert train.data.shape[1:] == (3, 6, 5)
    assert train.labels == {"label": ("3", "4", "5", "6")}
    torch.testing.assert_close(train.conditions["mask"][:, 0], train.data[:, 0])
    age = (
        train.conditions["age"][:, 0] * train.meta["conditions"]["age"]["std"][0]
        + train.meta["conditions"]["age"]["mean"][0]
    )  # type: ignore[index]
    row = age.round().long()
    torch.testing.assert_close(train.data, torch.from_numpy(images).movedim(-1, 1)[row].float() / 127.5 - 1)
    assert torch.equal(train.conditions["label"], row % 4)
    assert train.meta["remarks"] == ["array extra (4, 4) has not one row an example and is left out"]


@pytest.mark.parametrize(
    ("name", "shape", "kind", "example"),
    [
        ("x", (9, 4), "vectors", (4,)),
        ("x", (9, 2, 30), "series", (2, 30)),
        ("series", (9, 30), "series", (1, 30)),
        ("poses", (9, 17, 2), "poses", (17, 2)),
        ("volumes", (9, 5, 6, 7), "volumes", (1, 5, 6, 7)),
        ("data", (9, 2, 5, 6, 7), "volumes", (2, 5, 6, 7)),
        ("images", (9, 5, 6), "images", (1, 5, 6)),
        ("images", (9, 3, 5, 6), "images", (3, 5, 6)),
    ],
)
def test_npz_kinds_follow_name_and_shape(
    tmp_path: Path, name: str, shape: tuple[int, ...], kind: str, example: tuple[int, ...]
) -> None:
    path = tmp_path / "a.npz"
    values = np.random.Generator(np.random.PCG64(0)).random(shape)
    np.savez_compressed(path, **{name: values})
    train = read(path).train
    assert (train.kind, tuple(train.data.shape[1:])) == (kind, example)
    if kind in ("images", "volumes"):
        assert train.meta["from_range"] == [0.0, 1.0]
        assert -1 <= float(train.data.min()) < -0.5
    else:
        assert float(train.data.mean()) == pytest.approx(0, abs=1e-6)


def claiming(path: Path, shape: tuple[int, ...]) -> None:
    """An NPZ of a few bytes whose header claims a huge array."""
    header = str({"descr": "<f8", "fortran_order": False, "shape": shape}).encode()
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("images.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + b"\0" * 64)


def test_broken_npz_files_are_explained(tmp_path: Path) -> None:
    path = tmp_path / "bad.npz"

    def refused(message: str) -> None:
        assert not inspect(path).good  # the inspection agrees
        with pytest.raises(ValueError, match=message) as caught:
            read(path)
        assert str(path) in str(caught.value)

    path.write_bytes(b"not a zip")
    refused("not an NPZ file, or cut short")
    np.savez(path, images=np.zeros((5, 4, 4), np.uint8))
    path.write_bytes(path.read_bytes()[:-40])
    refused("not an NPZ file, or cut short")
    claiming(path, (10**6, 1000, 1000))
    refused("array images: claims 8,000,000,000,000 bytes")
    np.savez(path, images=np.array([{"a": 1}], dtype=object))
    refused("Python objects")
    np.savez(path, pictures=np.zeros((5, 4, 4)))
    refused("found pictures: rename")
    np.savez(path, images=np.zeros((5, 4)))
    refused("expected images")
    np.savez(path, images=np.zeros((5, 4, 4), np.uint8), labels=np.zeros(4))
    refused("array labels has 4 rows, but images has 5")
    np.savez(path, images=np.full((5, 4, 4), 1e4))
    refused("values from 10000 to 10000")
    np.savez(path, x=np.array([[1.0], [np.nan], [2.0]]))
    refused(r"1 NaN or infinite value\(s\), in row 1")
    np.savez(path, images=np.zeros((5, 9, 9, 9), np.uint8))
    refused("1 to 4 channels")
    np.savez(path, images=np.zeros((2, 4, 4), np.uint8))
    refused("found 2 example")
    np.savez(path, x=np.zeros((5, 2)), field=np.zeros((5, 3, 3)))
    refused("fits no kind of condition")


def test_running_text_is_cut_by_position(tmp_path: Path) -> None:
    path = tmp_path / "book.txt"
    text = "".join(f"{number:04d} " for number in range(800))  # 4,000 bytes
    path.write_text(text)
    splits = read(path, length=40)
    assert splits.train.data.shape == (90, 40)
    assert corpus.text(splits.train.data[1].numpy()) == text[40:80]
    assert corpus.text(splits.test.data[0].numpy()) == text[3800:3840]
    assert read(path, length=40, stride=20).train.data.shape[0] == 179


def test_a_folder_of_texts_is_cut_by_file(tmp_path: Path) -> None:
    for name, count in (("train", 3), ("val", 1), ("test", 1)):
        for number in range(count):
            place = tmp_path / name / f"{number}.txt"
            place.parent.mkdir(exist_ok=True)
            place.write_text(f"{name} " * 20)
    splits = read(tmp_path, length=10)
    assert corpus.text(splits.test.data[0].numpy()) == "test test "
    assert len(splits.train) == 3 * 12
    assert "train" not in corpus.text(splits.validation.data[0].numpy())


def test_pairs_and_records(tmp_path: Path) -> None:
    (tmp_path / "pairs.tsv").write_text("\n".join(f"{n}\thard {n}\teasy é{n}" for n in range(30)), encoding="utf-8")
    train = read(tmp_path / "pairs.tsv", length=16).train
    data, given = (corpus.text(row[0].numpy()) for row in (train.data, train.conditions["input"]))
    assert data.removeprefix("easy é") == given.removeprefix("hard ")
    assert train.data.shape[1] == 16
    (tmp_path / "rows.jsonl").write_text("\n".join(f'{{"text": "row {n}", "label": "{n % 2}"}}' for n in range(30)))
    train = read(tmp_path / "rows.jsonl").train
    number = int(corpus.text(train.data[4].numpy()).removeprefix("row "))
    assert train.labels["label"][int(train.conditions["label"][4])] == str(number % 2)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"caf\xe9 " * 2000, "expected UTF-8 text, but byte 3 is 0xe9"),
        ("a.txt", b"", "the file is empty"),
        ("a.txt", b"short", "no window of 128 bytes"),
        ("a.txt", b"\0\1" * 5000, "zero bytes"),
        ("a.txt.gz", b"\x1f\x8b\x08broken", "damaged or cut short as a .gz file"),
        ("a.txt.xz", lzma.compress(b"text" * 999)[:-9], "damaged or cut short as a .xz file"),
        ("a.tsv", b"a\tb\nc\n", "line 2: expected 2 tab-separated cells"),
        ("a.tsv", b"a\nb\n", "line 1 has 1 tab-separated cells"),
        ("a.tsv", b"a\tb\nc\t \n", "line 2: an empty input or target"),
        ("a.jsonl", b'{"text": "a"}\n{"text"\n', "line 2 is not JSON"),
        ("a.jsonl", b'{"story": "a"}\n', 'line 1: expected a string "text"'),
        ("a.jsonl", b"[1]\n", "line 1 is not a JSON object"),
        ("a.mp4", b"0", "unknown kind of file .mp4"),
        ("a", b"0", r"unknown kind of file \(no ending\)"),
    ],
)
def test_broken_texts_are_explained(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        read(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_paths_name_the_nearest_one(tmp_path: Path) -> None:
    (tmp_path / "flowers").mkdir()
    with pytest.raises(FileNotFoundError, match="did you mean 'flowers'"):
        read(tmp_path / "flower")
    with pytest.raises(FileNotFoundError, match="did you mean 'digits'"):
        read("digit")
    with pytest.raises(ValueError, match="no images or text files in this folder"):
        read(tmp_path / "flowers")
    (tmp_path / "flowers" / "a.csv").write_text("a\n1")
    with pytest.raises(ValueError, match=r"give the file, such as .*a\.csv"):
        read(tmp_path / "flowers")


def test_a_folder_named_like_a_bundled_set_is_reached_by_its_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits").mkdir()
    assert len(read("digits").train) == 8000
    with pytest.raises(ValueError, match="no images"):
        read("./digits")


def test_picture_conditions_must_share_the_grid(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    images = np.zeros((5, 6, 6), np.uint8)
    for array, message in (
        (np.zeros((5, 5, 6), np.uint8), r"array map has the grid \(5, 6\), but images has"),
        (np.full((5, 6, 6), np.nan), "array map"),
        (np.full((5, 6, 6), -7.0), "array map"),
    ):
        np.savez(path, images=images, map=array)
        assert any("array map" in problem for problem in inspect(path).problems)
        with pytest.raises(ValueError, match=message):
            read(path)
    np.savez(path, images=images, map=np.ones((5, 6, 6, 2)))
    assert inspect(path).good
    assert read(path).train.conditions["map"].shape[1:] == (2, 6, 6)


def test_packing_lays_texts_one_after_another_with_an_end_between() -> None:
    rows = [np.array(row, np.int16) for row in ([1, 2, 3], [4], [5, 6])]
    assert corpus.packed(rows, 4, 4, 9).tolist() == [[1, 2, 3, 9], [4, 9, 5, 6]]  # the last end is a partial window
    assert corpus.packed(rows, 3, 2, 9).tolist() == [[1, 2, 3], [3, 9, 4], [4, 9, 5], [5, 6, 9]]
    assert corpus.packed(rows[:1], 5, 5, 9).shape == (0, 5)
    assert corpus.packed([], 5, 5, 9).shape == (0, 5)


@given(st.lists(st.lists(st.integers(0, 8), max_size=9), max_size=6), st.integers(1, 5), st.integers(1, 6))
@settings(deadline=None, max_examples=50)
def test_no_window_joins_two_texts_without_an_end(texts: list[list[int]], length: int, stride: int) -> None:
    """Texts whose number is in the id: within a window the number changes only across an end."""
    rows = [np.array([10 * (k + 1) + token for token in text], np.int16) for k, text in enumerate(texts)]
    whole = corpus.packed(rows, length, stride, 9)
    if stride == 1 and len(whole):
        assert np.concatenate([whole[0], *whole[1:, -1:]]).tolist() == [t for row in rows for t in (*row.tolist(), 9)]
    for window in whole.tolist():
        for left, right in pairwise(window):
            assert left // 10 == right // 10 or 9 in (left, right)
    filled = corpus.windows(rows, length, stride, 9)
    for window in filled.tolist():
        assert len({token // 10 for token in window if token != 9}) <= 1
        assert 9 not in window[: len(window) - window.count(9)]  # ends only behind the text
    if stride <= length:
        assert {t for row in rows for t in row.tolist()} == set(filled.flatten().tolist()) - {9}  # nothing is lost
    assert len(corpus.windows(rows, length, stride)) == sum(
        len(range(0, len(row) - length + 1, stride)) for row in rows
    )


def test_files_and_records_are_packed_on_demand(tmp_path: Path) -> None:
    stories = {f"{n:02d}": f"<{n:02d} tells {'x' * n}>" for n in range(40)}
    folder = tmp_path / "stories"
    folder.mkdir()
    for name, story in stories.items():
        (folder / f"{name}.txt").write_text(story)
    lines = "\n".join(json.dumps({"text": story}) for story in stories.values())
    (tmp_path / "stories.jsonl").write_text(lines)
    for place in (folder, tmp_path / "stories.jsonl"):
        splits = read(place, length=12, pack=True)
        assert splits.train.meta["packed"]
        assert splits.train.meta["read"] == {"length": 12, "pack": True}
        seen = set()
        for part in (splits.train, splits.validation, splits.test):
            line = part.data.flatten().tolist()
            told = bytes(10 if token == corpus.PAD else token for token in line).decode().split("\n")
            assert set(told[:-1]) <= set(stories.values())  # every end is where a story ends, in order and whole
            assert not seen & set(told[:-1])
            seen |= set(told[:-1])
        assert len(seen) >= 35
    rows = read(tmp_path / "stories.jsonl", length=64).train
    assert all(corpus.text(row.numpy()) in stories.values() for row in rows.data)
    windows = read(folder, length=12).train
    assert int((windows.data == corpus.PAD).any(1).sum()) >= 30  # the rest of a story is filled up, not thrown away
    assert all(corpus.text(row.numpy()) for row in windows.data)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"one text " * 400, "three texts or more, .* but there is 1"),
        ("a.tsv", b"a\tb\n" * 30, "cannot be conditioned on input"),
        ("a.jsonl", b'{"text": "a", "label": "x"}\n' * 30, "cannot be conditioned on label"),
        ("a.jsonl", b'{"text": "a"}\n' * 30, "no window of 128 bytes fits .*all texts there: "),
        ("a.csv", b"a,b\n1,2\n", "packing are for text"),
    ],
)
def test_what_cannot_be_packed_is_explained(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        read(tmp_path / name, pack=True)
    assert "\n" not in str(caught.value)


def test_pairs_are_as_long_as_the_longest_and_an_evaluation_reads_others_at_that_length(tmp_path: Path) -> None:
    def write(name: str, target: int, source: int) -> Path:
        rows = [f"{'s' * (1 + k % source)}\t{'t' * (1 + k % target)}" for k in range(60)]
        (tmp_path / name).write_text("\n".join(rows))
        return tmp_path / name

    path = write("a.tsv", 20, 9)
    splits = read(path)
    assert splits.train.data.shape[1:] == (24,)  # 20 and an end, in eights
    assert splits.train.conditions["input"].shape[1:] == (9,)
    assert int((splits.train.data != 256).sum(1).max()) == 20
    assert read(path, length=5).train.data.shape[1:] == (5,)
    assert read(write("long.tsv", 50, 300)).train.conditions["input"].shape[1:] == (60,)
    remembered = {"kind": "text", "meta": splits.train.meta}
    assert torch.equal(read_like(remembered).test.data, splits.test.data)
    for other in (write("short.tsv", 3, 2), write("b.tsv", 40, 30)):
        again = read_like(remembered, other).test
        assert again.data.shape[1:] == (24,)
        assert again.conditions["input"].shape[1:] == (9,)
        assert bool((again.conditions["input"][:, 2:] == 256).all()) == (other.name == "short.tsv")


def test_a_text_shorter_than_its_windows_says_which_would_do(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("the cat sat. " * 54)  # 702 bytes, of which validation and test have 35 each
    with pytest.raises(
        ValueError, match="no window of 128 bytes fits into the validation part .* a length of 35 or less"
    ):
        read(tmp_path / "a.txt")
    assert len(read(tmp_path / "a.txt", length=35).test) == 1
    with pytest.raises(ValueError, match="no window of 36 bytes"):
        read(tmp_path / "a.txt", length=36)
    (tmp_path / "b.txt").write_text("one short line")
    with pytest.raises(ValueError, match="it takes more text"):
        read(tmp_path / "b.txt")
