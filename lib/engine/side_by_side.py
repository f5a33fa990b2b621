"""Pieces of work side by side: on a CPU as many as there are cores, each by a thread of its own."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import lru_cache
from threading import Event
from typing import TypeVar

import torch

from lib.engine.allocator import give_back

MOST = 8
Task = TypeVar("Task")
Result = TypeVar("Result")


def workers(device: torch.device) -> tuple[int, int]:
    """(pieces worked on at once, threads for each): fixed by the machine, never by the work, which decides no bit."""
    n_threads = torch.get_num_threads() if device.type == "cpu" else 1
    n = min(n_threads, MOST)
    return n, n_threads // n


def run(work: Callable[[Task, Event], Result], tasks: Sequence[Task], device: torch.device) -> Iterator[Result]:
    """Yields `work(task, stop)` of all tasks, in their order; `stop` is set where nobody waits for the rest any more.

    Each piece has its share of this process's threads. One that raises ends the others, and raises here. The memory
    that they have freed goes back to the system when all have ended.
    """
    try:
        yield from _results(work, tasks, *workers(device))
    finally:
        give_back()


def _results(work: Callable[[Task, Event], Result], tasks: Sequence[Task], n: int, n_threads: int) -> Iterator[Result]:
    if n == 1:
        for task in tasks:
            yield work(task, Event())
        return
    before, stop = torch.get_num_threads(), Event()
    futures = [_pool(n, n_threads, os.getpid()).submit(work, task, stop) for task in tasks]
    try:
        for future in futures:
            yield future.result()
    finally:
        stop.set()
        for future in futures:
            future.cancel()
        wait(futures)
        torch.set_num_threads(before)


@lru_cache(maxsize=4)
def _pool(n: int, n_threads: int, process_id: int) -> ThreadPoolExecutor:
    """Threads that last: the memory that the allocator and the matrix library keep for a thread is not freed with it.

    A forked process inherits no threads, hence `process_id`.
    """
    return ThreadPoolExecutor(n, initializer=torch.set_num_threads, initargs=(n_threads,))
