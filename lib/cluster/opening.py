"""Which processes compute: the parameter `workers`, an address or so many here, as a connection."""

import contextlib
import importlib.util
from collections.abc import Iterator
from typing import TYPE_CHECKING

from lib.errors import InputError

if TYPE_CHECKING:
    from lib.cluster.pool import Pool


@contextlib.contextmanager
def opened(workers: int | float | str, device: str, n_threads: int | None = None) -> "Iterator[Pool | None]":
    """A connection to the workers of the scheduler at an address, or to so many on this machine, started for the block.

    Those here have `n_threads` threads each, by default their share of the cores. None for 0. The block starts when
    there is a worker; `InputError` where none comes, or dask.distributed is not installed.
    """
    if not workers:
        yield None
        return
    if importlib.util.find_spec("distributed") is None:
        raise InputError(
            f"workers: given {workers!r}, but dask.distributed is not installed; run: make env EXTRAS=cluster"
        )
    from lib.cluster.local import started
    from lib.cluster.pool import Pool

    with contextlib.ExitStack() as ended:
        address = workers if isinstance(workers, str) else ended.enter_context(started(int(workers), device, n_threads))
        pool = Pool(address)
        ended.callback(pool.close)
        pool.n_workers()
        yield pool
