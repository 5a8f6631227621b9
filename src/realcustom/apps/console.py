"""What the libraries may say while a command runs: their errors, and nothing of how they load and save."""

from __future__ import annotations

import diffusers
import transformers


def quiet_libraries() -> None:
    """Silence progress bars and warnings of diffusers and transformers; this package says what matters itself."""
    for library in (diffusers, transformers):
        library.logging.disable_progress_bar()
        library.logging.set_verbosity_error()
