"""CUDA graphs without a device: a step is recorded on the CPU and replayed call by call."""

from contextlib import contextmanager, nullcontext

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lib.engine import graphs


class Recording(TorchDispatchMode):
    """Every call that a step makes, with its tensors, as a CUDA graph keeps it.

    A replay makes the same calls on the same memory, so a step that depends on anything but what lies there shows. A
    call whose result the host reads, or that takes numbers from the host into a tensor, can't be captured: refused.
    """

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, call, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        with self:
            decomposed = call.decompose(*args, **kwargs) if call._can_decompose() else NotImplemented
        if decomposed is not NotImplemented:
            return decomposed
        asks = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape} & set(call.tags)
        if asks or call == torch.ops.aten.lift_fresh.default:
            raise RuntimeError(f"operation not permitted when stream is capturing: {call}")
        out = call(*args, **kwargs)
        self.calls.append((call, args, kwargs, out))
        return out

    def replay(self):
        for call, args, kwargs, out in self.calls:
            again = call(*args, **kwargs)
            if not any(result.alias_info for result in call._schema.returns):
                for own, new in zip(as_tuple(out), as_tuple(again), strict=True):
                    own.copy_(new)


def as_tuple(out):
    return out if isinstance(out, tuple | list) else (out,)


def recorded(step, rewind):
    rewind()
    with Recording() as recording:
        step()
    return recording.replay


class FakeGraph:
    """A CUDA graph that replays a recording."""

    def replay(self):
        self.recording.replay()


def stand_in_for_cuda(monkeypatch):
    """torch.cuda's capturing, by recordings; `refuses` makes it fail."""
    settings = {"refuses": False}

    @contextmanager
    def graph(made, capture_error_mode):
        if settings["refuses"]:
            raise RuntimeError("operation not permitted\nand more")
        with Recording() as made.recording:
            yield

    class Stream:
        def wait_stream(self, other):
            pass

    monkeypatch.setattr(torch.cuda, "CUDAGraph", FakeGraph)
    monkeypatch.setattr(torch.cuda, "graph", graph)
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    monkeypatch.setattr(graphs, "available", lambda device: True)
    return settings
