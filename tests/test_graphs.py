"""What a graph's stand-in on the CPU finds out."""

import pytest
import torch
from recorded import recorded


def test_a_step_that_waits_for_the_host_is_refused():
    length = torch.ones(1)
    for step in (
        lambda: bool(length.all()),
        lambda: length.nonzero(),
        lambda: torch.unique(length),
        lambda: length[[0, 0]],
        lambda: length + torch.tensor([2]),
    ):
        with pytest.raises(RuntimeError, match="capturing"):
            recorded(step, lambda: None)


def test_a_step_that_counts_on_the_host_is_found_out():
    """The recording repeats the host's number, as a graph would."""
    state = {"n": 0, "sum": torch.zeros(1)}

    def step():
        state["n"] += 1
        state["sum"] += state["n"]

    replay = recorded(step, lambda: None)
    replay()
    assert state["sum"] == 2
