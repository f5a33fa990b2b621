"""CUDA graphs: work of many small kernels recorded once, and launched as one.

What is captured reads and writes the same addresses at every replay, and never waits for the host.
"""

import warnings
from collections.abc import Callable

import torch

from kernels.graphs import WARM_UP, capture
from kernels.graphs import warm_up as tried_out


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
    tried_out(step, rewind, warm_up)
    try:
        return capture(step)
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        warnings.warn(f"no CUDA graph of a step, which is launched kernel by kernel instead: {reason}", stacklevel=2)
        return step
