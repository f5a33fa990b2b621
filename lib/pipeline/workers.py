"""The workers of a run: the pipeline opens them once for all its kernels; a notebook opened by hand has its own."""

import atexit
import contextlib
import os
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lib.cluster.opening import opened
from lib.layout import ROOT
from lib.model.loading import local_folder
from lib.params import check, load_profile

if TYPE_CHECKING:
    from lib.cluster.pool import Pool

VARIABLE = "EXPERIMENT10_WORKERS"


@contextlib.contextmanager
def ready(values: Mapping[str, Any]) -> Iterator[None]:
    """For the block, kernels that are started find the workers that the parameters name.

    Raises `InputError` where there are none.
    """
    before = os.environ.get(VARIABLE)
    with contextlib.ExitStack() as ended:
        pool = ended.enter_context(opened(values["workers"], values["device"]))
        if pool is not None:
            print(pool.described(), flush=True)
        os.environ[VARIABLE] = "0" if pool is None else pool.address
        try:
            yield
        finally:
            del os.environ[VARIABLE]
            if before is not None:
                os.environ[VARIABLE] = before


@cache
def pool(profile: str) -> "Pool | None":
    """This process' connection to the workers, for as long as it lives; None where it computes by itself."""
    values = load_profile(profile)
    workers = check("workers", os.environ.get(VARIABLE, values["workers"]))
    ended = contextlib.ExitStack()
    atexit.register(ended.close)
    found = ended.enter_context(opened(workers, values["device"]))
    if found is not None and VARIABLE not in os.environ:
        print(found.described(), file=sys.stderr)
    return found


def place(name: str) -> str:
    """A model's name as another process finds it: hub ids as they are, folders in the project from its root."""
    folder = local_folder(name)
    if folder is None:
        return name
    return folder.relative_to(ROOT).as_posix() if folder.is_relative_to(ROOT) else str(Path(folder))
