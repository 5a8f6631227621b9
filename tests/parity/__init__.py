"""The same functions that the pipeline calls, against the numbers of the authors' own unmodified code."""
