"""What a worker does: it loads models that are the client's to the byte, and turns pieces of work into entries.

Imported in a worker's process only when the first model is loaded, since it imports torch, which reads once which GPUs
are visible.
"""

import importlib
import threading
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from lib.engine.computed_by import computed_by
from lib.engine.elsewhere import Source, Work
from lib.errors import InputError
from lib.model import loading
from lib.sources import digest_of

KINDS = {  # of work, and the module whose `computed(model, its fingerprint, work)` does it
    "scores": "lib.engine.scoring",
    "texts": "lib.engine.stored_generation",
    "judgements": "lib.engine.stored_generation",
    "comparisons": "lib.engine.comparing",
    "training": "lib.training.recovery",
}
CODE = digest_of(["lib.cluster.worker", *KINDS.values()])
HELD = 2  # models that a worker holds at once: one and its judge

_held: OrderedDict[Source, Any] = OrderedDict()
_loading = threading.Lock()


def identity(source: Source) -> dict[str, str]:
    """What has to be the same in two processes for their scores to be the same, the weights apart."""
    _, torch_version, transformers, processor = computed_by(CODE, torch.device(source.device))
    found = {"code": CODE, "torch": torch_version, "transformers": transformers, "processor": processor}
    return {what: str(value) for what, value in found.items()}


def check(source: Source, wanted: Mapping[str, str]) -> None:
    """`InputError` where this process would compute something else than one of the identity `wanted`."""
    own = identity(source)
    for what, value in wanted.items():
        if own[what] != value:
            raise InputError(f"{what} is {own[what][:40]} here and {value[:40]} there: make them the same")


def held(source: Source) -> Any:
    """The model, loaded the first time; `InputError` where the files are not those that `source` names."""
    with _loading:
        if source not in _held:
            folder = loading.model_folder(source.name)
            found = loading.fingerprint(folder)
            if found != source.fingerprint:
                raise InputError(
                    f"model {source.name} has the digest {found[:12]}… here and {source.fingerprint[:12]}… there:"
                    " copy the same files"
                )
            while len(_held) >= HELD:
                _held.popitem(last=False)
            _held[source] = loading.load_model(folder, source.dtype, source.device)
        _held.move_to_end(source)
        return _held[source]


def perform(source: Source, wanted: Mapping[str, str], work: Work) -> dict[str, np.ndarray]:
    """The entries that `work` asks for. Raises `InputError` where this process would compute another's."""
    check(source, wanted)
    model = held(source)
    entries = importlib.import_module(KINDS[work.kind]).computed(model, source.fingerprint, work)
    if not set(work.keys) <= entries.keys():
        raise InputError("it computes under other keys: the same code and libraries, but not the same machine")
    return entries
