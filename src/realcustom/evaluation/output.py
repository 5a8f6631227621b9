"""The folder of one evaluation: what its pictures were made with, and that it never mixes two of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from realcustom.errors import InputError
from realcustom.loading import model_hash
from realcustom.pipeline import RealCustomPipeline


@dataclass(frozen=True)
class Settings:
    """How the pictures are made; a folder of pictures belongs to one."""

    batch_size: int = 16
    num_inference_steps: int | None = None
    """The model's default if None, like the others."""
    guidance_scale: float | None = None
    subject_guidance_scale: float | None = None
    mask_scope: float | None = None
    token_ratio: float = 0.8
    subject_scale: float = 1.0

    def arguments(self) -> dict[str, Any]:
        """Return what every call of the pipeline is given."""
        return {"guidance_scale": self.guidance_scale, "num_inference_steps": self.num_inference_steps}

    def subject_arguments(self) -> dict[str, Any]:
        """Return what calls with a subject are given beside."""
        return {
            "subject_guidance_scale": self.subject_guidance_scale, "mask_scope": self.mask_scope,
            "token_ratio": self.token_ratio, "subject_scale": self.subject_scale,
        }  # fmt: skip


def describe_run(pipeline: RealCustomPipeline, settings: Settings, **work: Any) -> dict[str, Any]:
    """Return all that decides what the pictures of a run look like, as JSON can hold it.

    Args:
        pipeline: that makes them.
        settings: by which it does.
        **work: what tells the work list from others.
    """
    own = {name: value for name, value in pipeline.config.items() if isinstance(value, (int, float, list))}
    schedule = {name: value for name, value in pipeline.scheduler.config.items() if not name.startswith("_")}
    return {
        "model": model_hash(pipeline),
        **work,
        "scheduler": type(pipeline.scheduler).__name__,
        "schedule": schedule,
        **{
            name: value
            for name, value in own.items()
            if name in asdict(settings) or name in ("mask_layers", "mask_binary")
        },
        **{name: value for name, value in asdict(settings).items() if value is not None},
    }


def claim(folder: Path, about: Mapping[str, Any]) -> None:
    """Write down in `run.json` what the pictures of a folder are made with.

    Raises:
        InputError: `folder` holds pictures that were made with something else.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path, text = folder / "run.json", json.dumps(about, indent=1, default=str)
    known = json.loads(path.read_text()) if path.exists() else None
    asked = json.loads(text)
    if any(folder.rglob("*.png")) and known != asked:
        if known is None:
            raise InputError(
                f"{folder} holds pictures, but no run.json that says how they were made; name another --output"
            )
        other = sorted(name for name in {*asked, *known} if known.get(name) != asked.get(name))
        raise InputError(f"{folder} holds pictures made with another {', '.join(other)}; name another --output")
    path.write_text(text)


Work = TypeVar("Work")


def make_missing(
    row: str,
    work: Mapping[Path, Work],
    make: Callable[[Sequence[Work]], None],
    batch_size: int,
    progress: Callable[[str, int, int], None],
) -> None:
    """Make those pictures of one row that are not there yet, some at once.

    Args:
        row: its name, for `progress`.
        work: what the row asks for, by where its picture lies.
        make: makes and writes those of a batch.
        batch_size: how many at once.
        progress: is told the row, how many are there, and of how many.
    """
    missing = [item for path, item in work.items() if not path.exists()]
    for start in range(0, len(missing), batch_size):
        progress(row, len(work) - len(missing) + start, len(work))
        make(missing[start : start + batch_size])
    progress(row, len(work), len(work))


def write_lines(records: Iterable[Mapping[str, Any]], path: Path) -> None:
    """Write one JSON object a line."""
    path.write_text("".join(json.dumps(record) + "\n" for record in records), "utf-8")
