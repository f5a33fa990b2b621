"""Measure what GPT-2 loses when its attention heads are zeroed, fixed at their mean, or stripped of softmax."""
