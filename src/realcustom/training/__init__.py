"""Training: one loop, one checkpoint format, and an objective for each part of a model."""
