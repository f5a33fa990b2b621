"""Causal row-normalised ReLU attention: one readable form and one kernel per kind of device."""
