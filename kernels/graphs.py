"""Recording a CUDA graph: work of many small kernels, launched as one."""

import torch

WARM_UP = 3  # runs before a capture: kernels are compiled, buffers of libraries made


def warm_up(step, rewind=lambda: None, n=WARM_UP):
    """Runs `step` on a stream of its own, as a capture wants it; `rewind` before each run and after the last one."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(n):
            rewind()
            step()
        rewind()
    torch.cuda.current_stream().wait_stream(stream)


def capture(step):
    """The replay of `step`, which is recorded and not run; `RuntimeError` where it can't be captured."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        step()
    return graph.replay
