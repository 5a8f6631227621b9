"""The equations of RealCustom (arXiv 2403.00483) once more, as slow loops over NumPy arrays; only tests use them."""
