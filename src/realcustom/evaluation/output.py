"""The folder of one evaluation: what its pictures were made with, and that it never mixes two of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from realcustom.errors import InputError
from realcustom.files import read_json, write_whole
from realcustom.loading import model_hash
from realcustom.pipeline import RealCustomPipeline
from realcustom.provenance import dtype_of
from realcustom.settings import Form, FrozenAfter, MaskSource

_DROPPED = {"batch_size"}
"""Those of `Settings` that decide nothing of what a picture looks like; a `run.json` of an older version says them."""

OF_EVERY_CALL = ("num_inference_steps", "guidance_scale", "guidance_start", "guidance_end", "cache_interval")
"""Those of `Settings` that every call is given."""

OF_SUBJECTS = (
    "guidance", "subject_guidance_scale", "subject_scale", "mask_scope", "final_mask_scope", "mask_binary", "mask_yields",
    "mask_refined", "mask_frozen_after", "mask_source", "token_ratio",
)  # fmt: skip
"""Those of `Settings` that only calls with a subject are given."""


@dataclass(frozen=True)
class Settings:
    """How the pictures are made; a folder of pictures belongs to one. What is None is the model's, or the pipeline's, own."""

    batch_size: int = 16
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    guidance_start: float | None = None
    guidance_end: float | None = None
    cache_interval: int | None = None
    guidance: Form | None = None
    subject_guidance_scale: float | None = None
    subject_scale: float | None = None
    mask_scope: float | None = None
    final_mask_scope: float | None = None
    mask_binary: bool | None = None
    mask_yields: bool | None = None
    mask_refined: bool | None = None
    mask_frozen_after: FrozenAfter | None = None
    mask_source: MaskSource | None = None
    token_ratio: float | None = None

    def arguments(self) -> dict[str, Any]:
        """Return what every call of the pipeline is given."""
        return self._given(*OF_EVERY_CALL)

    def subject_arguments(self) -> dict[str, Any]:
        """Return what calls with a subject are given, too."""
        return self._given(*OF_SUBJECTS)

    def _given(self, *names: str) -> dict[str, Any]:
        return {name: value for name in names if (value := getattr(self, name)) is not None}


def describe_run(pipeline: RealCustomPipeline, settings: Settings, **work: Any) -> dict[str, Any]:
    """Return all that decides what the pictures of a run look like, as JSON can hold it.

    Args:
        pipeline: that makes them.
        settings: by which it does.
        **work: what tells the work list from others.
    """
    own = {**pipeline.defaults, "mask_layers": pipeline.config["mask_layers"]}
    schedule = {name: value for name, value in pipeline.scheduler.config.items() if not name.startswith("_")}
    return {
        "model": model_hash(pipeline),
        "dtype": dtype_of(pipeline),
        **work,
        "scheduler": type(pipeline.scheduler).__name__,
        "schedule": schedule,
        **{name: value for name, value in own.items() if name in asdict(settings) or name == "mask_layers"},
        **{name: value for name, value in asdict(settings).items() if value is not None and name not in _DROPPED},
    }


_ADDED = {
    "dtype": "float32",
    "final_mask_scope": 1.0,
    "token_ratio": 0.8,
    "mask_yields": False,
    "mask_frozen_after": "never",
}
"""What a `run.json` of an older version does not say, and what its pictures were made with."""


def claim(folder: Path, about: Mapping[str, Any]) -> None:
    """Write down in `run.json` what the pictures of a folder are made with, before there is any.

    Raises:
        InputError: `folder` holds pictures that were made with something else, or does not say with what.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path, text = folder / "run.json", json.dumps(about, indent=1, default=str)
    if not any(one.is_file() and one != path and not one.name.startswith(".") for one in folder.rglob("*")):
        write_whole(text, path)
        return
    if not path.exists():
        raise InputError(f"{folder} holds files, but no run.json that says how they were made; name another --output")
    try:
        known = read_json(path)
    except InputError as error:
        raise InputError(f"{error}; it says how the files beside it were made, so name another --output") from error
    known, asked = {**_ADDED, **known}, {**_ADDED, **json.loads(text)}
    if other := sorted(name for name in {*asked, *known} - _DROPPED if known.get(name) != asked.get(name)):
        raise InputError(f"{folder} holds pictures made with another {', '.join(other)}; name another --output")


Work = TypeVar("Work")
Wanted = TypeVar("Wanted")
Result = TypeVar("Result")


def make_missing(
    row: str,
    work: Mapping[Path, Work],
    request: Callable[[Work], Wanted],
    maker: Callable[[Sequence[Wanted]], Iterable[tuple[int, Result]]],
    write: Callable[[Result, Path], None],
    progress: Callable[[str, int, int], None],
) -> None:
    """Make those pictures of one row that are not there yet, and write each as soon as it is there.

    Args:
        row: its name, for `progress`.
        work: what the row asks for, by where its picture lies.
        request: says it in the maker's words.
        maker: yields the place and the picture of each of some requests, in any order.
        write: writes a picture.
        progress: is told the row, how many are there, and of how many.
    """
    missing = {path: item for path, item in work.items() if not path.exists()}
    paths, there = list(missing), len(work) - len(missing)
    progress(row, there, len(work))
    requests = [request(item) for item in missing.values()]
    for count, (place, made) in enumerate(maker(requests) if requests else (), 1):
        write(made, paths[place])
        progress(row, there + count, len(work))


class Piece(NamedTuple):
    """Some pictures that are measured at once."""

    of: Callable[[], list[Any]]
    """Says what decides the records, as JSON can hold it."""
    records: Callable[[], list[dict[str, Any]]]
    """Measures."""


def records_of(
    pieces: Sequence[Piece], journal: Path, progress: Callable[[int, int], None]
) -> Iterator[dict[str, Any]]:
    """Yield the records of all pieces, and keep them, so that a run that was killed does not measure them again.

    Args:
        pieces: in the order of their records.
        journal: file that receives a line for each piece as soon as it is measured.
        progress: is told how many pieces are measured, and of how many.
    """
    known = _journalled(journal)
    with journal.open("a", encoding="utf-8") as file:
        for count, piece in enumerate(pieces, 1):
            key = hashlib.sha256(json.dumps(piece.of()).encode()).hexdigest()
            if key not in known:
                known[key] = piece.records()
                # The line before may have been cut off by the end of a killed run.
                file.write("\n" + json.dumps({"key": key, "records": known[key]}) + "\n")
                file.flush()
            yield from known[key]
            progress(count, len(pieces))


def _journalled(journal: Path) -> dict[str, list[dict[str, Any]]]:
    """Return the records of a journal by the keys of their pieces."""
    known = {}
    for line in journal.read_text("utf-8").splitlines() if journal.is_file() else ():
        try:
            piece = json.loads(line)
        except ValueError:  # empty, or cut off
            continue
        known[piece["key"]] = piece["records"]
    return known


REPORT, JOURNAL = "report.json", "records.part.jsonl"
"""Files of an evaluation: what it ends with, and what `records_of` keeps until then."""


def write_report(report: Mapping[str, Any], folder: Path) -> None:
    """Write the report of an evaluation, each of its "records", which come last, in a line; the journal of these goes."""
    told = {name: value for name, value in report.items() if name != "records"}
    records = ",\n".join("  " + json.dumps(record) for record in report["records"])
    write_whole(f'{json.dumps(told, indent=1)[:-2]},\n "records": [\n{records}\n ]\n}}\n', folder / REPORT)
    (folder / JOURNAL).unlink(missing_ok=True)


def write_lines(records: Iterable[Mapping[str, Any]], path: Path) -> None:
    """Write one JSON object a line."""
    write_whole("".join(json.dumps(record) + "\n" for record in records), path)
