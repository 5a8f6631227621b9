"""What a training folder says of the recipe that it was made by, and which changes of it a run can go on with."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import PartialState
from pydantic.fields import FieldInfo
from pydantic_core import to_jsonable_python

from realcustom.errors import InputError
from realcustom.files import read_json, write_whole
from realcustom.options import Options
from realcustom.training.checkpoint import latest
from realcustom.training.options import FIXED

logger = logging.getLogger(__name__)

RECORD = "recipe.json"
"""In a training folder: all options of the run, those with default values included."""


@dataclass(frozen=True)
class Change:
    """An option whose value is not the recorded one."""

    name: str
    before: Any
    now: Any
    fixed: bool
    """Whether a run keeps it when it goes on."""

    def __str__(self) -> str:
        return f"{self.name} is {self.now!r} instead of {self.before!r}"


def check_changes(recipe: Options, folder: Path) -> None:
    """Check that a run, if the folder holds the beginning of one, can go on with a recipe; tell what has changed.

    A folder without a record, which older versions made, goes on with any.

    Raises:
        InputError: the run would see other examples, or has begun from other weights.
    """
    if latest(folder) is None or not (folder / RECORD).is_file():
        return
    changes = list(_changes(recipe, read_json(folder / RECORD)))
    if refused := [str(change) for change in changes if change.fixed]:
        raise InputError(
            f"the run in {folder} was begun with another recipe: {'; '.join(refused)}. Give it the recorded values, or "
            f"another output_dir; without {folder / RECORD} it goes on all the same"
        )
    if changes:
        logger.info("going on with a changed recipe: %s", "; ".join(map(str, changes)))


def record(recipe: Options, folder: Path) -> None:
    """Write the recipe of a run into its folder."""
    if PartialState().is_main_process:
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(f"{recipe.model_dump_json(indent=1)}\n", folder / RECORD)


def _changes(recipe: Options, recorded: Mapping[str, Any], section: str = "", fixed: bool = False) -> Iterator[Change]:
    """Yield every option whose value is not the recorded one; what an older version did not record is its default."""
    told = recipe.model_dump(mode="json")
    for name, field in type(recipe).model_fields.items():
        before, is_fixed = recorded.get(name, _default(field)), fixed or FIXED in field.metadata
        value = getattr(recipe, name)
        if isinstance(value, Options) and isinstance(before, Mapping):
            yield from _changes(value, before, f"{section}{name}.", is_fixed)
        elif before != told[name]:
            yield Change(section + name, before, told[name], is_fixed)


def _default(field: FieldInfo) -> Any:
    return None if field.is_required() else to_jsonable_python(field.get_default())
