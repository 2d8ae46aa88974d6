"""Fixed splits into train, validation and test. They depend on no random state, machine or library version.

The rule for every set, fixed once so that numbers can be compared over time:

- **digits**, **digits8**: rows 0 to 7,999 train, 8,000 to 8,999 validation, 9,000 to 9,999 test (the file was shuffled
  once).
- **phrases**: the rows of the digits, and the books of the verses.
- **verses**: whole books. Test: Joshua, Ruth, Amos, Mark, Galatians, James. Validation: Judges, Jonah, Colossians, 1
John.
- **traffic**: time. First 80 % of the hours train, next 10 % validation, last 10 % test; no window crosses a border.
- **mni152**: slabs along y (from back to front): test, then validation, then train; no patch crosses a border.
- **mocap**: time within every clip. First 65 % of the frames train, next 10 % validation, last 25 % test.
- **own series**: time, 80/10/10, within every item. **Own single text file**: position, 90/5/5.
- **everything else**: `keyed_split` by file name or row number, 90/5/5. Explicit `train/`, `val/`, `test/` folders win.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

TRAIN, VALIDATION, TEST = 0, 1, 2
"""Codes of the three parts."""

PARTS = ("train", "validation", "test")

FOLDERS = {
    "train": TRAIN,
    "training": TRAIN,
    "val": VALIDATION,
    "valid": VALIDATION,
    "validation": VALIDATION,
    "test": TEST,
}
"""Folder names that fix a split."""

DIGITS = (8000, 9000)
"""First validation row and first test row of the digits."""

TEST_BOOKS = frozenset({6, 8, 30, 41, 48, 59})
VALIDATION_BOOKS = frozenset({7, 32, 51, 62})
"""Books of the verses by number, 1 = Genesis; all others train."""


def mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Scramble 64-bit integers one to one.

    Source: the finalizer of SplitMix64 (Steele, Lea and Flood 2014), after its additive step.
    """
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def keyed_split(names: Sequence[str], fractions: tuple[float, float] = (0.05, 0.05), seed: int = 0) -> NDArray[np.int8]:
    """Assign each name to a part by a hash of the name alone, so that adding files never moves the others.

    With u(name) uniform in [0, 1): test if u < test fraction, validation if u < test + validation fraction, else train.
    A part that would stay empty takes the one name nearest to it (the only case in which a name can move later).

    Args:
        names: Distinct names; at least 3.
        fractions: Shares of validation and of test, each in (0, 1), together below 1.
        seed: Another seed is another split.

    Returns: TRAIN, VALIDATION or TEST for every name, int8 (N,).

    Raises:
        ValueError: If there are fewer than 3 names, two are equal, or the fractions leave nothing to train on.
    """
    validation, test = fractions
    if min(validation, test) <= 0 or validation + test >= 1:
        raise ValueError(f"shares of validation and test must be positive and below 1 together, got {fractions}")
    if len(names) < 3:
        raise ValueError(
            f"found {len(names)} example(s), but train, validation and test need at least one each; add more data"
        )
    if len(set(names)) != len(names):
        raise ValueError("two examples have the same name, so they cannot be told apart; rename one")
    u = np.array([_uniform(name, seed) for name in names])
    parts = np.where(u < test, TEST, np.where(u < test + validation, VALIDATION, TRAIN)).astype(np.int8)
    order = np.argsort(u, kind="stable")
    # In order of u the parts lie test, validation, train; move a border just far enough that none is empty.
    num_test = max(int((parts == TEST).sum()), 1)
    num_validation = max(int((parts == VALIDATION).sum()), 1)
    num_train = max(len(names) - num_test - num_validation, 1)
    num_validation = max(min(num_validation, len(names) - num_test - num_train), 1)
    num_test = len(names) - num_validation - num_train
    parts[order[:num_test]] = TEST
    parts[order[num_test : num_test + num_validation]] = VALIDATION
    parts[order[num_test + num_validation :]] = TRAIN
    return parts


def split_rows(n: int, fractions: tuple[float, float] = (0.05, 0.05), seed: int = 0) -> NDArray[np.int8]:
    """Assign rows to parts by a hash of the row number: appending rows never moves the others.

    Returns: TRAIN, VALIDATION or TEST for every row, int8 (n,).

    Raises:
        ValueError: As `keyed_split`.
    """
    return keyed_split([str(row) for row in range(n)], fractions, seed)


def borders(length: int, train: float, validation: float) -> tuple[int, int]:
    """Positions where validation and test begin in a split by time, from the shares of train and validation."""
    return round(train * length), round((train + validation) * length)


def book_part(book: int) -> int:
    """Part of a book of the verses, 1 = Genesis to 66 = Revelation."""
    return TEST if book in TEST_BOOKS else VALIDATION if book in VALIDATION_BOOKS else TRAIN


def _uniform(name: str, seed: int) -> float:
    digest = hashlib.blake2b(f"{seed}\x1f{name}".encode("utf-8", "surrogateescape"), digest_size=8).digest()
    return (int.from_bytes(digest, "little") >> 11) * 2.0**-53
