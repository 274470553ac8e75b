"""The store of activations: order, shapes and values survive spilling, in any number of threads."""

from __future__ import annotations

import errno
import gc
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from npukit.encoding import Array
from npukit.errors import UsageError
from npukit.replay import Store


def noise(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)


def same(found: Array, expected: Array) -> bool:
    return found.dtype == expected.dtype and found.shape == expected.shape and np.array_equal(found, expected)


def test_many_threads_read_at_once() -> None:
    """Readers of one tensor do not disturb one another: every array is right, whoever reads what at the same time."""
    arrays = [noise(30 + i, 40, seed=i) for i in range(60)]
    with Store(budget=10_000) as store:
        for array in arrays:
            store.append("a", array)

        def check(_: int) -> bool:
            return all(same(x, y) for x, y in zip(store.read("a"), arrays, strict=True))

        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(check, range(40)))


def test_reading_while_others_write() -> None:
    """A reader gets what was there when it began, each array whole, while other arrays and tensors are added."""
    arrays = [noise(50, 20, seed=i) for i in range(200)]
    with Store(budget=0) as store:
        store.append("a", arrays[0])

        def write(name: str) -> None:
            for array in arrays[1:] if name == "a" else arrays:
                store.append(name, array)

        def check(_: int) -> bool:
            found = list(store.read("a"))
            return len(found) > 0 and all(same(x, y) for x, y in zip(found, arrays, strict=False))

        with ThreadPoolExecutor(6) as pool:
            writers = [pool.submit(write, name) for name in ("a", "b")]
            assert all(pool.map(check, range(50)))
            for writer in writers:
                writer.result()
        assert all(same(x, y) for name in ("a", "b") for x, y in zip(store.read(name), arrays, strict=True))


def test_all_kinds_of_arrays_come_back() -> None:
    """Scalars, empty arrays, strided views, strings and every type keep their dtype, shape and values on disk."""
    grid = noise(6, 8)
    arrays = [np.array(2.5), np.empty((0, 3), np.int64), grid.T, grid[::2, ::3], np.array([True, False])]
    arrays += [np.arange(4, dtype=np.float16), np.arange(3, dtype=np.uint8), np.array(["a", "bc"], object)]
    with Store(budget=0) as store:
        for array in arrays:
            store.append("a", array)
        assert all(same(x, y) for x, y in zip(store.read("a"), arrays, strict=True))


def test_dropped_tensors_give_back_memory_and_files() -> None:
    """A reader that has begun can finish after a drop; then the file is closed and the memory free for others."""
    before = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").is_dir() else 0
    with Store(budget=400) as store:
        for seed in range(4):
            store.append("a", noise(50, seed=seed))
        reader = store.read("a")
        store.drop("a")
        assert [same(x, noise(50, seed=seed)) for seed, x in enumerate(reader)] == [True] * 4
        with pytest.raises(KeyError):
            store.read("a")
        del reader
        gc.collect()
        if before:
            assert len(os.listdir("/proc/self/fd")) == before
        store.append("b", noise(100))  # fits in memory again
        if before:
            assert len(os.listdir("/proc/self/fd")) == before


def test_store_spills_and_reads_back() -> None:
    """Arrays beyond the budget come back in order, several times, also while others are added."""
    arrays = [noise(3, i + 1) for i in range(6)]
    with Store(budget=40) as store:
        for array in arrays[:5]:
            store.append("a", array)
        for _ in range(2):
            assert all(np.array_equal(x, y) for x, y in zip(store.read("a"), arrays, strict=False))
        reader: Iterator[Array] = store.read("a")
        next(reader)
        store.append("a", arrays[5])
        assert [a.shape for a in store.read("a")] == [a.shape for a in arrays]


def test_a_full_disk_names_the_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system names no file when a write fails; the message says where the temporary files are, and how to move them."""

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(UsageError, match=r"cannot write temporary files in .*: No space left.*TMPDIR"), Store(budget=0) as store:
        store.append("x", noise(2))
