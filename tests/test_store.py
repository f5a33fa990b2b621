import errno
import os
import subprocess
import sys
import time

import numpy as np
import pytest

from lib import store as store_module
from lib.store import Store, digest

ARRAYS = {
    digest("scores"): np.linspace(0, 1, 33, dtype=np.float32),
    digest("sums"): np.arange(24.0).reshape(2, 3, 4),
    digest("tokens"): np.arange(5, dtype=np.int32),
    digest("empty"): np.zeros((0, 3), dtype=np.float32),
}


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


def filled(store):
    for key, array in ARRAYS.items():
        assert store.put(key, array)
    return store


def test_what_is_put_comes_back(store):
    filled(store)
    for key, array in ARRAYS.items():
        found = Store(store.folder).get(key)
        assert found.dtype == array.dtype
        np.testing.assert_array_equal(found, array)
    assert store.get(digest("absent")) is None


def test_every_flipped_byte_is_noticed(store, capsys):
    """Header, checksum and content alike: the entry is named, removed, and can be put again."""
    key, array = digest("tokens"), ARRAYS[digest("tokens")]
    store.put(key, array)
    path = next(store.folder.glob("*/*.entry"))
    good = path.read_bytes()
    for position in range(len(good)):
        damaged = bytearray(good)
        damaged[position] ^= 0x04
        path.write_bytes(damaged)
        assert store.get(key) is None, position
        assert str(path) in capsys.readouterr().err
        assert not path.exists()
        store.put(key, array)
        assert path.read_bytes() == good


@pytest.mark.parametrize("keep", [0, 10, 150])
def test_a_truncated_entry_is_noticed(store, capsys, keep):
    key = digest("sums")
    store.put(key, ARRAYS[key])
    path = next(store.folder.glob("*/*.entry"))
    path.write_bytes(path.read_bytes()[:keep])
    assert store.get(key) is None
    assert "damaged entry" in capsys.readouterr().err


def test_an_entry_under_a_wrong_name_is_noticed(store, capsys):
    filled(store)
    first, second = (store._path(digest(name)) for name in ("scores", "sums"))
    second.write_bytes(first.read_bytes())
    assert store.get(digest("sums")) is None
    assert "another entry" in capsys.readouterr().err


def test_a_full_disk_is_said_once_and_leaves_the_store_sane(store, capsys, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    filled(store)
    with monkeypatch.context() as patch:
        patch.setattr(store_module.os, "fsync", full)
        assert not store.put(digest("new"), np.zeros(3))
        assert not store.put(digest("newer"), np.zeros(3))
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "No space left on device" in error and str(store.folder) in error
    assert not list(store.folder.glob("*/*.partial"))
    assert store.get(digest("new")) is None
    assert store.put(digest("new"), np.zeros(3))
    np.testing.assert_array_equal(store.get(digest("sums")), ARRAYS[digest("sums")])


def test_the_size_is_bounded_and_the_oldest_go_first(tmp_path):
    store = Store(tmp_path, limit_bytes=20_000)
    for i in range(40):
        store.put(digest(i), np.full(250, i, dtype=np.float32))
        path = store._path(digest(i))
        os.utime(path, ns=(i, i))
        if i >= 10:
            store.get(digest(10))  # used again and again
        assert store.size_bytes() <= 20_000
    assert store.get(digest(39)) is not None
    assert store.get(digest(10)) is not None
    assert store.get(digest(11)) is None
    assert "of at most 0 MB" in str(store)


def test_clear(store):
    filled(store).clear()
    assert store.size_bytes() == 0 and "0 entries" in str(store)


def test_leftovers_of_killed_writers_go_and_those_of_live_ones_stay(store):
    filled(store)
    folder = next(store.folder.iterdir())
    ended = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    dead = folder / f"{int(ended.stdout)}-abc.partial"
    old, live = folder / f"{os.getpid()}-old.partial", folder / f"{os.getpid()}-abc.partial"
    for path in (dead, old, live):
        path.write_bytes(b"half")
    os.utime(old, times=(time.time() - 3600,) * 2)
    Store(store.folder)
    assert [path.exists() for path in (dead, old, live)] == [False, False, True]


def test_a_digest_tells_parts_apart():
    parts = [
        ("ab",),
        ("a", "b"),
        (1,),
        ("1",),
        (None,),
        (b"1",),
        (1.0,),
        (np.int32([1]),),
        (np.int64([1]),),
        (np.zeros((2, 3)),),
        (np.zeros((3, 2)),),
    ]
    assert len({digest(*p) for p in parts}) == len(parts)
    assert digest("a", 1, np.arange(3)) == digest("a", 1, np.arange(3))


def test_only_numbers_are_kept(store):
    with pytest.raises(TypeError, match="integers and floats"):
        store.put(digest("x"), np.array([object()]))
