"""Folders of images: the layouts people have, and files that are broken."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from condiff.data import corpus, images, read
from condiff.data.batch import Splits


def paint(path: Path, value: int = 100, size: tuple[int, int] = (8, 8), mode: str = "RGB") -> Path:
    """Write an image whose pixels differ by `value`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    bands = len(Image.new(mode, (1, 1)).getbands())
    grid = (np.add.outer(np.arange(size[1]), np.arange(size[0])) + value) % 256
    pixels = np.stack([(grid + 40 * band) % 256 for band in range(bands)], axis=-1).astype(np.uint8)
    Image.fromarray(pixels[..., 0] if bands == 1 else pixels, mode=None).save(path)
    return path


def whole(splits: Splits) -> list[tuple[int, int]]:
    """(label, first red byte) of every row of all parts."""
    return sorted(
        (int(label), round(float((row[0, 0, 0] + 1) * 127.5)))
        for part in (splits.train, splits.validation, splits.test)
        for row, label in zip(part.data, part.conditions["label"], strict=True)
    )


def test_class_folders(tmp_path: Path) -> None:
    for number, name in enumerate(("cat", "dog")):
        for value in range(10):
            paint(tmp_path / name / f"{value}.png", 100 * number + value)
    splits = read(tmp_path)
    assert splits.train.kind == "images"
    assert splits.train.labels["label"] == ("cat", "dog")
    assert splits.train.data.shape[1:] == (3, 8, 8)
    assert whole(splits) == [(0, value) for value in range(10)] + [(1, 100 + value) for value in range(10)]
    assert splits.train.meta["resized"] == "no"
    assert splits.train.present["label"].all()


def test_a_class_named_by_a_number_sorts_by_value(tmp_path: Path) -> None:
    for name in ("10", "9", "1"):
        paint(tmp_path / name / "a.png", int(name))
    assert read(tmp_path).train.labels["label"] == ("1", "9", "10")


def test_grey_is_kept_grey_and_pixels_map_to_minus_one_and_one(tmp_path: Path) -> None:
    for number in range(3):
        pixels = np.full((4, 6), 7 * number, np.uint8)
        pixels[0, 0], pixels[0, 1] = 0, 255
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    data = torch.cat([part.data for part in (read(tmp_path).train, read(tmp_path).test)])
    assert data.shape[1:] == (1, 4, 6)
    assert data[0, 0, 0, :2].tolist() == [-1, 1]
    assert read(tmp_path, channels=3).train.data.shape[1] == 3


def test_train_and_test_folders_win_and_validation_comes_from_train(tmp_path: Path) -> None:
    for value in range(40):
        paint(tmp_path / "train" / str(value % 2) / f"{value}.png", value)
    for value in range(3):
        paint(tmp_path / "test" / "1" / f"{value}.png", 200 + value)
    splits = read(tmp_path)
    assert sorted(float(row[0, 0, 0]) for row in splits.test.data) == pytest.approx(
        [(200 + value) / 127.5 - 1 for value in range(3)]
    )
    assert splits.test.conditions["label"].tolist() == [1, 1, 1]
    assert len(splits.train) + len(splits.validation) == 40
    assert "validation from train" in str(splits.train.meta["split_rule"])


def test_metadata_csv_gives_classes_numbers_and_captions(tmp_path: Path) -> None:
    rows = ["file_name,species,weight,caption"]
    for value in range(20):
        paint(tmp_path / f"{value}.png", value)
        weight = "" if value == 3 else str(10.0 * value)
        rows.append(f"{value}.png,{'owl' if value % 2 else 'hen'},{weight},bird number {value}")
    (tmp_path / "metadata.csv").write_text("\n".join(rows))
    splits = read(tmp_path)
    train = splits.train
    assert train.labels == {"species": ("hen", "owl")}
    value = ((train.data[:, 0, 0, 0] + 1) * 127.5).round().long()
    assert torch.equal(train.conditions["species"], value % 2)
    assert torch.equal(train.present["weight"], value != 3)
    scale = train.meta["conditions"]["weight"]  # type: ignore[index]
    has = train.present["weight"]
    weights = train.conditions["weight"][:, 0] * scale["std"][0] + scale["mean"][0]
    torch.testing.assert_close(weights[has], 10.0 * value[has].float(), atol=1e-3, rtol=0)
    assert train.conditions["weight"][~has].tolist() in ([[0.0]], [])
    assert corpus.text(train.conditions["caption"][0].numpy()) == f"bird number {int(value[0])}"
    assert train.conditions["weight"][has].mean().abs() < 1e-6


def test_metadata_jsonl(tmp_path: Path) -> None:
    lines = []
    for value in range(4):
        paint(tmp_path / f"{value}.png", value)
        lines.append(json.dumps({"file_name": f"{value}.png", "label": value % 2}))
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines))
    assert read(tmp_path).train.labels == {"label": ("0", "1")}


def test_captions_beside_the_files(tmp_path: Path) -> None:
    for value in range(5):
        paint(tmp_path / f"{value}.png", value)
        if value != 2:
            (tmp_path / f"{value}.txt").write_text(f"größe {value}\n", encoding="utf-8")
    splits = read(tmp_path)
    found = {
        round(float((row[0, 0, 0] + 1) * 127.5)): corpus.text(caption.numpy()) if has else None
        for part in (splits.train, splits.validation, splits.test)
        for row, caption, has in zip(part.data, part.conditions["caption"], part.present["caption"], strict=True)
    }
    assert found == {value: None if value == 2 else f"größe {value}" for value in range(5)}


def test_input_and_target_pairs_meet_by_stem(tmp_path: Path) -> None:
    for value in range(6):
        paint(tmp_path / "input" / f"{value}.png", value)
        paint(tmp_path / "target" / f"{value}.bmp", 50 + value)
    train = read(tmp_path).train
    gap = (train.data - train.conditions["input"]) * 127.5
    assert torch.allclose(gap, torch.full_like(gap, 50), atol=1e-3)
    (tmp_path / "input" / "5.png").unlink()
    with pytest.raises(ValueError, match=r"1 image\(s\) have no partner in input/ \(target/5.bmp\)"):
        read(tmp_path)
    paint(tmp_path / "input" / "5.png")
    paint(tmp_path / "input" / "5.webp")
    with pytest.raises(ValueError, match="have one stem"):
        read(tmp_path)


def test_mixed_sizes_are_cut_to_a_square_and_it_is_said(tmp_path: Path) -> None:
    for value, size in enumerate(((30, 20), (25, 40), (21, 21))):
        paint(tmp_path / f"{value}.png", value, size)
    train = read(tmp_path).train
    assert train.data.shape[2:] == (16, 16)
    assert train.meta["resized"] == "central square, Lanczos, to 16x16"
    assert read(tmp_path, resolution=5).train.data.shape[2:] == (5, 5)


def test_resizing_keeps_the_centre(tmp_path: Path) -> None:
    pixels = np.zeros((10, 30), np.uint8)
    pixels[:, 10:20] = 255  # exactly the central square is white
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert images.decode(tmp_path / "a.png", 1, 5).min() > 230  # the filter reaches a little over the edge


def test_formats_and_modes(tmp_path: Path) -> None:
    deep = np.full((4, 4), 65535, np.uint16)
    deep[0, 0] = 32896
    Image.fromarray(deep).save(tmp_path / "deep.png")
    assert images.decode(tmp_path / "deep.png", 1)[0, 0, :2].tolist() == [128, 255]
    clear = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    clear.putpixel((0, 0), (10, 20, 30, 255))
    clear.save(tmp_path / "clear.png")
    assert images.decode(tmp_path / "clear.png", 3)[:, 0, :2].T.tolist() == [[10, 20, 30], [255, 255, 255]]
    frames = [Image.new("L", (4, 4), value) for value in (9, 200)]
    frames[0].save(tmp_path / "two.gif", save_all=True, append_images=frames[1:])
    assert images.decode(tmp_path / "two.gif", 1).max() == 9
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    Image.new("L", (4, 2)).save(tmp_path / "side.jpg", exif=exif)
    assert (images.measure(tmp_path / "side.jpg").width, images.decode(tmp_path / "side.jpg", 1).shape) == (
        2,
        (1, 4, 2),
    )


def bomb(path: Path) -> None:
    """A tiny PNG whose header claims 60,000 x 60,000 pixels."""
    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 0, 0, 0, 0)
    chunks = b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in ((b"IHDR", header), (b"IDAT", zlib.compress(b"\0")), (b"IEND", b""))
    )
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)


def cut_short(path: Path) -> None:
    noise = np.random.Generator(np.random.PCG64(0)).integers(0, 255, (32, 32), np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:-300])


def damage_end(path: Path) -> None:
    paint(path, size=(64, 64))
    raw = bytearray(path.read_bytes())
    raw[60:80] = b"\xff" * 20
    path.write_bytes(bytes(raw))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: path.write_bytes(b""), "empty file"),
        (lambda path: path.write_text("I am not an image"), "not an image, or damaged"),
        (cut_short, "cannot be decoded"),
        (damage_end, "cannot be decoded|damaged"),
        (bomb, "claims more than"),
    ],
)
def test_broken_images_are_named(tmp_path: Path, spoil: Callable[[Path], object], message: str) -> None:
    for value in range(4):
        paint(tmp_path / f"{value}.png", value)
    spoil(tmp_path / "broken.png")
    with pytest.raises(ValueError, match=rf"1 unreadable image\(s\): .*broken\.png: .*({message})"):
        read(tmp_path)


def test_many_broken_images_are_counted(tmp_path: Path) -> None:
    paint(tmp_path / "good.png")
    for value in range(9):
        (tmp_path / f"{value}.png").write_bytes(b"GIF89a")
    with pytest.raises(ValueError, match="9 unreadable") as caught:
        read(tmp_path)
    assert "and 6 more" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("name,label\na.png,1", "expected a column file_name"),
        ("file_name,label\nmissing.png,1", r"1 file\(s\) are not there \(missing.png\)"),
        ("file_name,label\n../secret.png,1", "not there"),
        ("file_name,label\na.png,1\na.png,2", "a.png is described twice"),
        ("", "found no rows"),
    ],
)
def test_wrong_metadata_is_explained(tmp_path: Path, table: str, message: str) -> None:
    folder = tmp_path / "set"
    paint(folder / "a.png")
    paint(tmp_path / "secret.png")
    (folder / "metadata.csv").write_text(table)
    with pytest.raises(ValueError, match=message):
        read(folder)


def test_too_few_images_and_wrong_options(tmp_path: Path) -> None:
    paint(tmp_path / "a.png")
    paint(tmp_path / "b.png", 5)
    with pytest.raises(ValueError, match="found 2 example"):
        read(tmp_path)
    with pytest.raises(ValueError, match="resolution must be 1 to 4096"):
        read(tmp_path, resolution=0)
    with pytest.raises(ValueError, match="channels must be 1"):
        read(tmp_path, channels=2)
    with pytest.raises(ValueError, match="length and stride are for series and text"):
        read(tmp_path, length=5)
    with pytest.raises(ValueError, match="single image"):
        read(tmp_path / "a.png")
    many = tmp_path / "many"
    many.mkdir()
    for value in range(800):
        (many / f"{value}.png").hardlink_to(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"needs .* MiB of memory"):
        read(many, resolution=4096)
