"""What goes to dask's workers: a plug-in that loads the model, and the function that they run.

Importing this does not import torch: a worker unpickles it before anything has decided on a GPU.
"""

import asyncio
import sys
from collections.abc import Mapping
from typing import Any

from distributed import WorkerPlugin

from lib.errors import InputError, first_line

NAME = "experiment10-model"


class ModelPlugin(WorkerPlugin):
    """Loads the model of `source`, an `elsewhere.Source`, where this worker is of the identity `wanted`.

    One that is not refuses in one line, on its own stderr and to the client; where it has only just joined, it leaves.
    """

    name = NAME

    def __init__(self, source: tuple[str, ...], wanted: Mapping[str, str]) -> None:
        self.source, self.wanted = tuple(source), dict(wanted)

    async def setup(self, worker: Any) -> None:
        joining = not worker.periodic_callbacks["heartbeat"].is_running()
        try:
            await asyncio.to_thread(_load, self.source, self.wanted)
        except Exception as error:
            line = f"worker {worker.contact_address} refuses: {first_line(error)}"
            print(line, file=sys.stderr, flush=True)
            if joining:
                worker.loop.add_callback(worker.close, nanny=True, reason="refuses")
            raise InputError(line) from None


def _load(source: tuple[str, ...], wanted: Mapping[str, str]) -> None:
    from lib.cluster import worker
    from lib.engine.elsewhere import Source

    named = Source(*source)
    worker.check(named, wanted)
    worker.held(named)


def perform(source: tuple[str, ...], wanted: Mapping[str, str], work: tuple[Any, ...]) -> dict[str, Any]:
    """`worker.perform` of plain data, `InputError` naming this worker."""
    from distributed import get_worker

    from lib.cluster import worker
    from lib.engine.elsewhere import Source, Work

    try:
        return worker.perform(Source(*source), wanted, Work(*work))
    except InputError as error:
        raise InputError(f"worker {get_worker().contact_address}: {error}") from None
