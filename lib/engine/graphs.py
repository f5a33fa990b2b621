"""CUDA graphs: work of many small kernels recorded once, and launched as one.

What is captured reads and writes the same addresses at every replay, and never waits for the host.
"""

import warnings
from collections.abc import Callable

import torch

WARM_UP = 3  # steps before a capture: kernels are compiled, buffers of libraries made


def available(device: torch.device) -> bool:
    """Whether steps can be captured there."""
    return device.type == "cuda"


def captured(
    step: Callable[[], None], rewind: Callable[[], None] = lambda: None, warm_up: int = WARM_UP
) -> Callable[[], None]:
    """`step` as one graph, tried out `warm_up` times, each after `rewind`; `step` itself where it can't be captured.

    The latter with a warning. The last thing done before the graph is there is `rewind`, but for the capture itself,
    in which nothing is computed.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(warm_up):
            rewind()
            step()
        rewind()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            step()
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        warnings.warn(f"no CUDA graph of a step, which is launched kernel by kernel instead: {reason}", stacklevel=2)
        return step
    return graph.replay
