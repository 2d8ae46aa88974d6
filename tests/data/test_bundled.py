"""The small real sets in the package: what they hold, how they are cut, and that no row is in two parts."""

from __future__ import annotations

import itertools
import json
from importlib.resources import files

import numpy as np
import pytest
import torch

from condiff.data import corpus, read
from condiff.data.digits import digits, digits8, shrink
from condiff.data.phrases import WORDS, phrases
from condiff.data.poses import JOINTS, PARENTS, clips, mocap, positions
from condiff.data.resource import NAMES, content
from condiff.data.series import hours, traffic
from condiff.data.splits import TEST_BOOKS, VALIDATION_BOOKS, borders
from condiff.data.verses import passages, table, verses
from condiff.data.volumes import SLABS, atlas, mni152


def test_the_package_stays_small_and_every_set_states_its_terms() -> None:
    folder = files("condiff.data").joinpath("bundled")
    sets = [entry for entry in folder.iterdir() if entry.name != "LICENSES.md"]
    assert sum(len(entry.read_bytes()) for entry in sets) < 6 * 2**20
    terms = folder.joinpath("LICENSES.md").read_text(encoding="utf-8")
    for entry in sets:
        assert f"## {entry.name}" in terms
    with pytest.raises(FileNotFoundError, match="install the package again"):
        content("nothing.npz")


@pytest.mark.parametrize("name", NAMES)
def test_every_set_is_read_by_its_name_with_plain_meta(name: str) -> None:
    splits = read(name)
    for part, title in zip(
        (splits.train, splits.validation, splits.test), ("train", "validation", "test"), strict=True
    ):
        assert part.name == name
        assert part.meta["split"] == title
        assert json.loads(json.dumps(part.meta)) == part.meta
        assert len(part) > 0
        assert part.data.dtype in (torch.float32, torch.int16)
        assert part.data.isfinite().all()
        assert part.data.is_contiguous()


def test_digits8_are_block_means_of_the_same_digits() -> None:
    small, whole = digits8(), digits()
    for mine, its in zip(
        (small.train, small.validation, small.test), (whole.train, whole.validation, whole.test), strict=True
    ):
        assert mine.data.shape == (len(its), 1, 8, 8)
        assert torch.equal(mine.conditions["label"], its.conditions["label"])
    image = whole.test.data[3, 0]
    # Block (2, 5) covers rows 8 to 11 and columns 20 to 23 of the bordered picture: 2 fewer in the picture itself.
    torch.testing.assert_close(small.test.data[3, 0, 2, 5], image[6:10, 18:22].mean())
    corner = (12 * -1.0 + float(image[:2, :2].sum())) / 16
    assert float(shrink(whole.test.data[3:4])[0, 0, 0, 0]) == pytest.approx(corner)


def test_digits() -> None:
    splits = digits()
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [8000, 1000, 1000]
    assert splits.train.data.shape[1:] == (1, 28, 28)
    assert (float(splits.train.data.min()), float(splits.train.data.max())) == (-1.0, 1.0)
    labels = torch.cat([part.conditions["label"] for part in (splits.train, splits.validation, splits.test)])
    assert labels.bincount().tolist() == [1001, 1127, 991, 1032, 980, 863, 1014, 1070, 944, 978]
    flat = torch.cat([part.data.flatten(1) for part in (splits.train, splits.validation, splits.test)])
    assert len(torch.unique(flat, dim=0)) == 10000
    # A one is a narrow stroke, a zero a wide ring: labels belong to their images.
    ink = (splits.train.data[:, 0] > 0).float()
    width = (ink.sum(1) > 0).sum(1).float()
    label = splits.train.conditions["label"]
    assert width[label == 1].mean() < 0.6 * width[label == 0].mean()


def test_verses_are_pairs_and_no_book_is_in_two_parts() -> None:
    splits = verses()
    assert table()[0].kjv.startswith("In the beginning God created")
    assert table()[0].number == 1001001
    assert len(table()) == 31039
    assert sum(len(part) for part in (splits.train, splits.validation, splits.test)) == 31039 - 35
    assert corpus.text(splits.train.data[0].numpy()) == "At the first God made the heaven and the earth."
    assert corpus.text(splits.train.conditions["input"][0].numpy()) == table()[0].kjv
    assert not TEST_BOOKS & VALIDATION_BOOKS
    first = next(verse for verse in table() if verse.book in TEST_BOOKS)
    assert corpus.text(splits.test.data[0].numpy()) == first.bbe[:256]
    cut = verses(length=64)
    assert cut.train.data.shape[1] == 64
    assert cut.train.meta["cut"] == sum(
        len(verse.bbe.encode()) > 64
        for verse in table()
        if verse.book not in TEST_BOOKS | VALIDATION_BOOKS and any(map(str.isalpha, verse.bbe))
    )


def test_phrases_name_the_digit_beside_them_and_share_no_book() -> None:
    splits, pictures = phrases(), digits8()
    seen = []
    for part, whole in zip(
        (splits.train, splits.validation, splits.test),
        (pictures.train, pictures.validation, pictures.test), strict=True,
    ):  # fmt: skip
        labels = whole.conditions["label"]
        assert len(part) == int((labels > 0).sum())
        assert torch.equal(part.conditions["picture"], whole.data[labels > 0].flatten(1))
        texts = [corpus.text(row) for row in part.data.numpy()]
        assert [WORDS.index(text.partition(" ")[0]) + 1 for text in texts] == labels[labels > 0].tolist()
        assert all(len(text) <= 16 for text in texts)
        seen.append(set(texts))
    assert len(seen[0]) > 500
    verse = next(verse.kjv.lower() for verse in table() if verse.book in TEST_BOOKS and " two " in verse.kjv)
    assert verse[verse.index("two ") :][:16] in seen[2]
    with pytest.raises(ValueError, match="at least 1"):
        phrases(0)


def test_passages_are_the_running_text() -> None:
    splits = passages(length=100, stride=50)
    first, second = splits.train.data[:2].numpy()
    assert corpus.text(first) == "\n".join(verse.kjv for verse in table()[:3])[:100]
    assert (first[50:] == second[:50]).all()
    assert int(splits.train.data.max()) < corpus.PAD
    with pytest.raises(ValueError, match="kjv, bbe"):
        passages(version="vulgate")


def test_traffic_is_cut_by_time_and_scaled_by_its_training_part() -> None:
    splits = traffic()
    train_end, test_start = borders(17520, 0.8, 0.1)
    for part, (low, high) in zip(
        (splits.train, splits.validation, splits.test),
        ((0, train_end), (train_end, test_start), (test_start, 17520)),
        strict=True,
    ):
        starts = np.array(part.meta["starts"])[:, 1]
        assert starts.min() >= low
        assert starts.max() + 192 <= high
    item = hours()
    known = item.values[:, 0][~np.isnan(item.values[:, 0])]
    mean, std = (np.array(splits.train.meta[name]).item() for name in ("mean", "std"))
    start = splits.test.meta["starts"][3][1]
    real = item.values[start : start + 192, 0]
    mine = splits.test.data[3, 0].numpy() * std + mean
    seen = ~np.isnan(real)
    np.testing.assert_allclose(mine[seen], real[seen], rtol=1e-5)
    assert known.min() <= mine.min()
    assert abs(mean - np.nanmean(item.values[:train_end, 0])) < 5
    assert splits.train.conditions["temperature"].shape == splits.train.data.shape
    # 2016-10-01 was a Saturday, and every window starts at midnight.
    assert splits.train.conditions["weekday"][:3].tolist() == [5, 6, 0]
    assert splits.train.labels["weekday"][5] == "Saturday"
    with pytest.raises(ValueError, match="use a length of at most"):
        traffic(length=5000)


def test_brain_patches_of_the_parts_share_no_voxel() -> None:
    volumes, affine = atlas()
    splits = mni152()
    for part, (start, stop) in zip((splits.train, splits.validation, splits.test), SLABS, strict=True):
        corners = np.array(part.meta["corners"])
        assert corners[:, 1].min() >= start
        assert corners[:, 1].max() + 16 <= stop
        x, y, z = corners[-1]
        for name, row in (("t1", part.data[-1, 0]), ("wm", part.conditions["input"][-1, 1])):
            expected = volumes[name][x : x + 16, y : y + 16, z : z + 16].astype(np.float32) / 127.5 - 1
            np.testing.assert_allclose(row.numpy(), expected, atol=1e-6)
    edges = sorted(SLABS)
    assert all(first[1] <= second[0] for first, second in itertools.pairwise(edges))
    # The point (0, 0, 0) mm, the anterior commissure, lies inside the brain; 2 mm voxels.
    voxel = np.rint(np.linalg.inv(affine) @ [0, 0, 0, 1]).astype(int)[:3]
    assert volumes["t1"][tuple(voxel)] > 0
    assert np.abs(np.diag(affine)[:3]).tolist() == [2, 2, 2]
    with pytest.raises(ValueError, match=r"size in 1\.\.16"):
        mni152(size=17)
    with pytest.raises(ValueError, match="modalities are t1, gm, wm"):
        mni152(targets=("t2",))
    assert mni152(inputs=(), targets=("gm", "wm")).train.data.shape[1] == 2


def test_bones_have_constant_length_and_the_walker_stands_upright() -> None:
    found = clips()
    assert len(found) == 15
    assert sum(len(clip.frames) for clip in found) == 1620
    for clip in found:
        place = positions(clip.frames)
        bones = np.stack([place[:, j] - place[:, p] for j, p in enumerate(PARENTS) if p >= 0], axis=1)
        lengths = np.linalg.norm(bones, axis=-1)
        assert lengths.std(axis=0).max() < 1e-12
        np.testing.assert_allclose(lengths[0][3], 0.4215, atol=1e-4)  # thigh
    walk = positions(next(clip for clip in found if clip.name == "walk").frames)
    height = dict(zip(JOINTS, walk[:, :, 1].mean(axis=0), strict=True))
    assert height["neck"] > height["chest"] > height["root"] > height["left_knee"] > height["left_ankle"] > 0
    # Legs swing: one foot is ahead, then the other.
    ahead = walk[:, JOINTS.index("right_ankle"), 0] - walk[:, JOINTS.index("left_ankle"), 0]
    assert ahead.min() < -0.2 < 0.2 < ahead.max()


def test_poses_are_cut_by_time_within_every_clip() -> None:
    splits = mocap()
    sizes = [len(part) for part in (splits.train, splits.validation, splits.test)]
    assert sum(sizes) == 1620
    backflip = splits.test.data[splits.test.conditions["label"] == 0].double().numpy()
    clip = clips()[0]
    place = positions(clip.frames)
    expected = (place - place[:, :1])[borders(len(clip.frames), 0.65, 0.1)[1] :]
    np.testing.assert_allclose(backflip * splits.train.meta["scale"], expected, atol=1e-6)
    assert abs(float(splits.train.data.std()) - 1) < 1e-3
    assert splits.train.labels["label"][0] == "backflip"
