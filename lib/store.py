"""Arrays on disk under a key: nothing computed is computed twice, and nothing half-written is ever read.

One file per entry: a line of JSON (key, dtype, shape, checksum), then the raw bytes. A file appears under its name
only when it is whole; it is checked on every read, and a damaged one is named on stderr and taken away.
"""

import contextlib
import hashlib
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike

from lib.layout import build_root

LIMIT = 4 * 2**30
LEFTOVER_AGE = 600  # seconds after which a temporary file has no writer any more
KINDS = "fiu"
KEY = re.compile(r"[0-9a-f]{40}")


def digest(*parts: object) -> str:
    """Hex digest of strings, numbers, None, bytes and arrays, in order; the same on every machine."""
    state = hashlib.blake2b(digest_size=20)
    for part in parts:
        if isinstance(part, np.ndarray):
            head, body = f"array {part.dtype.str} {part.shape}", np.ascontiguousarray(part).tobytes()
        elif isinstance(part, bytes):
            head, body = "bytes", part
        else:
            head, body = type(part).__name__, str(part).encode()
        state.update(f"{head} {len(body)}\n".encode() + body)
    return state.hexdigest()


class Keeper(Protocol):
    """What gives and keeps arrays by their key: a `Store`, or what stands in its place."""

    def get(self, key: str) -> np.ndarray | None: ...

    def put(self, key: str, array: ArrayLike) -> bool: ...


class Store:
    """A folder of entries of at most `limit_bytes` in all; beyond that the ones unused for longest go.

    `used` are the keys of what this object has given or kept. `seconds` are what the kept ones took: the time since the
    store was last asked or given something, so that of several kept at once the first has the time of all. Several
    processes may use one folder at once. When the disk is full or read-only, `put` says so once on stderr and the run
    goes on without keeping.
    """

    def __init__(self, folder: Path | str, limit_bytes: int = LIMIT) -> None:
        self.folder = Path(folder)
        self.limit_bytes = limit_bytes
        self.used: set[str] = set()
        self.seconds: dict[str, float] = {}
        self._turned_to = time.monotonic()
        self._warned = False
        self._remove_leftovers()
        self._size = self.size_bytes()

    def get(self, key: str) -> np.ndarray | None:
        """The array kept under `key`, or None; a damaged entry is named on stderr, removed, and None."""
        path = self._path(key)
        self._turned_to = time.monotonic()
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        try:
            array = _decode(key, content)
        except ValueError as error:
            print(f"store: damaged entry {path} ({error}): removed, it will be computed again", file=sys.stderr)
            path.unlink(missing_ok=True)
            return None
        self.used.add(key)
        with contextlib.suppress(OSError):  # evicted meanwhile by another run, or a folder that may only be read
            os.utime(path)
        return array

    def put(self, key: str, array: ArrayLike) -> bool:
        """Keeps `array` (integers or floats) under `key`; returns whether it could."""
        self.seconds[key] = time.monotonic() - self._turned_to
        kept = self._keep(key, _encode(key, np.asarray(array)))
        self._turned_to = time.monotonic()
        return kept

    def content(self, key: str) -> bytes | None:
        """The entry kept under `key` as it lies on disk, to be sent; None where there is none or a damaged one."""
        return None if self.get(key) is None else self._path(key).read_bytes()

    def put_content(self, key: str, content: bytes) -> bool:
        """Keeps an entry that `content` gave elsewhere. Raises `ValueError` where it is damaged or not this key's."""
        check_content(key, content)
        return self._keep(key, content)

    def _keep(self, key: str, content: bytes) -> bool:
        path = self._path(key)
        try:
            _write_whole(path, content)
        except OSError as error:
            if not self._warned:
                reason = error.strerror or str(error)
                print(f"store: cannot write to {self.folder} ({reason}): results are not kept", file=sys.stderr)
            self._warned = True
            return False
        self.used.add(key)
        self._size += len(content)
        if self._size > self.limit_bytes:
            self._evict()
        return True

    def clear(self) -> None:
        """Removes every entry."""
        for path in self._files():
            path.unlink(missing_ok=True)
        self._size = 0

    def size_bytes(self) -> int:
        return sum(size for size, _, _ in self._stats())

    def __str__(self) -> str:
        entries = self._stats()
        size = sum(size for size, _, _ in entries)
        return f"{len(entries):,} entries, {size / 1e6:,.1f} MB of at most {self.limit_bytes / 1e6:,.0f} MB"

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.entry"

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("*/*.entry"))

    def _stats(self) -> list[tuple[int, int, Path]]:
        """[(size, time of last use, path)]; files that vanish meanwhile are left out."""
        found = []
        for path in self._files():
            try:
                stat = path.stat()
            except FileNotFoundError:
                continue
            found.append((stat.st_size, stat.st_mtime_ns, path))
        return found

    def _evict(self) -> None:
        """Removes the entries unused for longest until a tenth of the limit is free."""
        entries = sorted(self._stats(), key=lambda entry: entry[1])
        self._size = sum(size for size, _, _ in entries)
        for size, _, path in entries:
            if self._size <= 0.9 * self.limit_bytes:
                break
            path.unlink(missing_ok=True)
            self._size -= size

    def _remove_leftovers(self) -> None:
        """Takes away what a killed writer left behind."""
        for path in self.folder.glob("*/*.partial"):
            try:
                if time.time() - path.stat().st_mtime > LEFTOVER_AGE or not _is_running(path.name.split("-")[0]):
                    path.unlink(missing_ok=True)
            except OSError:
                continue


def check_content(key: str, content: bytes) -> None:
    """Raises `ValueError` where `content` is not a whole entry of this key."""
    if not KEY.fullmatch(key):
        raise ValueError(f"{key[:50]!r} is no key")
    if np.dtype(json.loads(content.partition(b"\n")[0])["dtype"]).kind not in KINDS:
        raise ValueError("neither integers nor floats")
    _decode(key, content)


def _encode(key: str, array: np.ndarray) -> bytes:
    if array.dtype.kind not in KINDS:
        raise TypeError(f"the store keeps integers and floats, not {array.dtype}")
    array = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("<"), copy=False))
    header = {"key": key, "dtype": array.dtype.str, "shape": list(array.shape)}
    body = array.tobytes()
    header["checksum"] = _checksum(header, body)
    return json.dumps(header).encode() + b"\n" + body


def _decode(key: str, content: bytes) -> np.ndarray:
    line, newline, body = content.partition(b"\n")
    if not newline:
        raise ValueError("no header")
    try:
        header = json.loads(line)
    except RecursionError:
        raise ValueError("not a header") from None
    if not isinstance(header, dict) or set(header) != {"key", "dtype", "shape", "checksum"}:
        raise ValueError("not a header")
    dtype, shape = header["dtype"], header["shape"]
    if not isinstance(dtype, str) or not re.fullmatch(r"[<|][fiu][1-8]", dtype):
        raise ValueError("not an array of numbers")
    if not isinstance(shape, list) or not all(type(n) is int and n >= 0 for n in shape):
        raise ValueError("not a shape")
    checksum = header.pop("checksum")
    if checksum != _checksum(header, body):
        raise ValueError("checksum differs")
    if header["key"] != key:
        raise ValueError("another entry's content")
    try:
        return np.frombuffer(bytearray(body), dtype=dtype).reshape(shape)
    except TypeError as error:
        raise ValueError(str(error)) from None


def _checksum(header: Mapping[str, Any], body: bytes) -> str:
    return digest(header["key"], header["dtype"], str(header["shape"]), body)


def _write_whole(path: Path, content: bytes) -> None:
    """Writes beside, flushes to the disk, moves into place; nothing is left behind on failure."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f"{os.getpid()}-", suffix=".partial", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _is_running(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, ValueError):
        return False
    except PermissionError:
        pass
    return True


def open_store() -> Store:
    """The store of scores and generations that all profiles share: one object a process."""
    return _opened(build_root() / "store")


@cache
def _opened(folder: Path) -> Store:
    return Store(folder)
