"""Pictures of one given subject that obey a sentence: RealCustom (CVPR 2024) on diffusers."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from realcustom.adapter import RealCustomAdapter
    from realcustom.pipeline import RealCustomPipeline
    from realcustom.report import RealCustomOutput
    from realcustom.saved_subject import SavedSubject
    from realcustom.stock_pipelines import (
        load_realcustom,
        realcustom_masks,
        set_realcustom_scale,
        set_realcustom_subject,
        set_realcustom_subjects,
        unload_realcustom,
    )
    from realcustom.subject import Subject

__version__ = "0.1.0"
__all__ = [
    "RealCustomAdapter", "RealCustomOutput", "RealCustomPipeline", "SavedSubject", "Subject", "load_realcustom",
    "realcustom_masks", "set_realcustom_scale", "set_realcustom_subject", "set_realcustom_subjects", "unload_realcustom",
]  # fmt: skip

_HOMES = {
    "RealCustomAdapter": "adapter",
    "RealCustomOutput": "report",
    "SavedSubject": "saved_subject",
    "Subject": "subject",
    "RealCustomPipeline": "pipeline",
    **dict.fromkeys([name for name in __all__ if name.islower()], "stock_pipelines"),
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that `import realcustom` stays quick."""
    if name not in _HOMES:
        raise AttributeError(f"module 'realcustom' has no attribute {name!r}")
    return getattr(importlib.import_module(f"realcustom.{_HOMES[name]}"), name)
