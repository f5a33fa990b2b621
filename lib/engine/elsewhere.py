"""Computing in other processes: what is asked of one, and who takes what is asked, whatever carries it there.

A piece of work is plain data: numbers, names and arrays. Any process with the same weights, code and libraries makes
the same entries of the store of it.
"""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import ArrayLike

from lib.progress import progress
from lib.store import Keeper

AHEAD = 2  # pieces of work sent to each process, so that none waits for the next one
PIECES = 4  # pieces for each process at least, so that all are busy to the end
PIECE_PLANS = 8  # plans in a piece at least, since every piece of a chunk walks the untouched layers again
WRITERS = 8

Settings = Mapping[str, object]  # what JSON can say


class Source(NamedTuple):
    """A model that other processes can load: a folder or a name on the hub, the digest of its files, how it is held."""

    name: str
    fingerprint: str
    dtype: str
    device: str


class Work(NamedTuple):
    """`kind` is one of those in `lib.cluster.worker`; `keys` are the entries that it has to yield, if not alone."""

    kind: str
    keys: tuple[str, ...]
    settings: Settings
    arrays: Mapping[str, np.ndarray]


class Elsewhere(Protocol):
    """Processes that hold one model."""

    def n_workers(self) -> int:
        """How many there are now, one at least."""

    def run(self, works: Sequence[Work]) -> Iterator[tuple[int, Mapping[str, np.ndarray]]]:
        """Yields `(number of the work, {key: array})` as they come. Raises `InputError` where they can't."""

    def words(self) -> str:
        """How many there are, for a progress bar."""


def shown(elsewhere: Elsewhere, works: Sequence[Work], label: str) -> Iterator[tuple[int, Mapping[str, np.ndarray]]]:
    """`elsewhere.run`, with a progress bar of the pieces that says how many processes there are."""
    with progress(label, len(works), "piece") as bar:
        for found in elsewhere.run(works):
            bar.set_postfix_str(elsewhere.words(), refresh=False)
            bar.update()
            yield found


def keep(store: Keeper, entries: Mapping[str, np.ndarray]) -> None:
    """Keeps what has come back, several at once: an entry waits for the disk far longer than it takes to write."""
    with ThreadPoolExecutor(WRITERS) as pool:
        list(pool.map(store.put, entries.keys(), entries.values()))


class Memory:
    """What a worker computes with in the store's place: nothing is there before, and all that is kept can be sent."""

    def __init__(self) -> None:
        self.entries: dict[str, np.ndarray] = {}

    def get(self, key: str) -> np.ndarray | None:
        return self.entries.get(key)

    def put(self, key: str, array: ArrayLike) -> bool:
        self.entries[key] = np.asarray(array)
        return True
