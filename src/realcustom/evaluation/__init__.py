"""Measuring models: independent judges, the benchmark of the stickers world, its scores and its report."""
