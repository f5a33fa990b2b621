"""The client's side: pieces of work go to the workers of a dask scheduler, and what they have computed comes back.

The store stays with the client, so that workers need no disk of its. What has come back is kept before anything else
is waited for: whatever dies, what is finished is not computed again.
"""

import contextlib
import logging
import queue
import time
import warnings
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np
from distributed import Client, KilledWorker
from distributed.client import FutureCancelledError

from lib.cluster import plugin
from lib.engine.elsewhere import AHEAD, Source, Work
from lib.errors import KEPT, InputError, first_line

CONNECT_WITHIN = 10.0  # seconds
GATHER_FIRST, GATHER_WITHIN = 2.0, 300.0  # seconds, of what a worker has already computed: at first, and at most
WAIT = 60.0  # seconds without any worker after which a run ends
LOOK_EVERY = 1.0  # seconds between two looks at the workers


class Pool:
    """A connection to the scheduler at `address`, `tcp://host:port` or `tls://host:port`; TLS is set up as for dask.

    `InputError` where nothing answers there, and later where no worker has been there for `wait` seconds.
    """

    def __init__(self, address: str, wait: float = WAIT) -> None:
        self.address, self.wait = address, wait
        for name in ("distributed.client", "distributed.core", "distributed.comm", "distributed.batched"):
            logging.getLogger(name).setLevel(logging.CRITICAL)  # said below, in one line
        try:
            self.client = Client(address, timeout=CONNECT_WITHIN, set_as_default=False)
        except Exception as error:
            raise InputError(
                f"workers: no scheduler answers at {address} ({first_line(error)}); start one with `dask scheduler`,"
                " or pass another's address"
            ) from None
        self._n, self._looked = 0, 0.0
        self._since = time.monotonic()

    def close(self) -> None:
        with contextlib.suppress(Exception):
            self.client.close(timeout=2)

    def model(self, source: Source) -> "Model":
        """The workers, as far as they hold one model."""
        return Model(self, source)

    def described(self) -> str:
        """How many workers there are and where, in a line, with the scheduler's dashboard where it serves one."""
        served = "dashboard" in self.client.scheduler_info(n_workers=0).get("services", {}) and find_spec("bokeh")
        return f"workers: {counted(self._n)} at {self.address}" + (
            f", dashboard {self.client.dashboard_link}" if served else ""
        )

    def n_workers(self) -> int:
        """Workers there now. Waits for the first; `InputError` where none has been there for too long."""
        while True:
            if self._look():
                return self._n
            time.sleep(LOOK_EVERY / 4)

    def _look(self) -> int:
        """Workers there now, looked up once a second. `InputError` where none has been there for too long."""
        if self.client.status != "running":
            raise self._lost()
        now = time.monotonic()
        if now - self._looked >= LOOK_EVERY or not self._n:
            try:
                self._n = len(self.client.nthreads())
            except Exception:
                raise self._lost() from None
            self._looked = time.monotonic()
        if self._n:
            self._since = now
        elif now - self._since > self.wait:
            raise InputError(
                f"workers: none at {self.address} for {self.wait:.0f} s; start some with `dask worker {self.address}`;"
                f" {KEPT}"
            )
        return self._n

    def _lost(self) -> InputError:
        return InputError(f"workers: the scheduler at {self.address} is gone; {KEPT}")

    def run(self, source: Source, works: Sequence[Work]) -> Iterator[tuple[int, Mapping[str, np.ndarray]]]:
        """As `Elsewhere.run`, with the workers' own model of `source`."""
        from lib.cluster.worker import identity

        self.n_workers()
        wanted = identity(source)
        self._register(source, wanted)
        waiting = deque(range(len(works)))
        pending: dict[Any, int] = {}
        finished: queue.SimpleQueue[Any] = queue.SimpleQueue()
        try:
            while waiting or pending:
                while waiting and len(pending) < AHEAD * max(1, self._n):
                    number = waiting.popleft()
                    future = self._submit(source, wanted, works[number])
                    pending[future] = number
                    future.add_done_callback(finished.put)
                with contextlib.suppress(queue.Empty):
                    future = finished.get(timeout=LOOK_EVERY)
                    number = pending.pop(future)
                    yield number, self._result(future)
                    future.release()
                self._look()
        finally:
            self._forget(list(pending))

    def _register(self, source: Source, wanted: Mapping[str, str]) -> None:
        """Has every worker load the model; one that dies or leaves meanwhile is not waited for."""
        while True:
            try:
                self.client.register_plugin(plugin.ModelPlugin(tuple(source), wanted))
                return
            except InputError as error:
                raise InputError(f"workers: {error}") from None
            except OSError:
                time.sleep(LOOK_EVERY / 4)
                self.n_workers()
            except Exception as error:
                if self.client.status != "running":
                    raise self._lost() from None
                raise InputError(
                    f"workers: one at {self.address} can't load the plug-in ({first_line(error)}); start it in the"
                    " project's folder, with its environment"
                ) from None

    def _submit(self, source: Source, wanted: Mapping[str, str], work: Work) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of arrays that are sent with the work
            try:
                return self.client.submit(plugin.perform, tuple(source), wanted, tuple(work), pure=False)
            except Exception:
                raise self._lost() from None

    def _result(self, future: Any) -> Mapping[str, np.ndarray]:
        """What a worker has computed. It may die before it has handed that over, and then another one computes it."""
        patience = GATHER_FIRST
        while True:
            try:
                return future.result(timeout=patience)
            except InputError as error:
                raise InputError(f"workers: {error}") from None
            except KilledWorker as error:
                raise InputError(
                    f"workers: {error.allowed_failures + 1} have died over one piece of work, most likely for want of"
                    f" memory; {KEPT}"
                ) from None
            except TimeoutError:
                self._look()
                patience = min(2 * patience, GATHER_WITHIN)
            except (FutureCancelledError, OSError):
                raise self._lost() from None

    def _forget(self, futures: Sequence[Any]) -> None:
        """Takes back what nobody waits for any more."""
        if self.client.status == "running":
            with contextlib.suppress(Exception):
                self.client.cancel(futures, force=True)
                self.client.unregister_worker_plugin(plugin.NAME)


class Model:
    """`Elsewhere` for one model."""

    def __init__(self, pool: Pool, source: Source) -> None:
        self.pool, self.source = pool, source

    def n_workers(self) -> int:
        return self.pool.n_workers()

    def run(self, works: Sequence[Work]) -> Iterator[tuple[int, Mapping[str, np.ndarray]]]:
        yield from self.pool.run(self.source, works)

    def words(self) -> str:
        return counted(self.pool._n)


def counted(n: int) -> str:
    return f"{n} worker{'s' * (n != 1)}"
