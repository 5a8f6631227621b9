"""Options as values: frozen, checked on entry, read from YAML with overrides on top."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from realcustom.errors import InputError, did_you_mean

Kind = TypeVar("Kind", bound="Options")

Share = Annotated[float, Field(ge=0, le=1)]
PositiveShare = Annotated[float, Field(gt=0, le=1)]


class Options(BaseModel):
    """Named values that cannot be changed; a name that is not known is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, validate_default=True)


def parse_options(kind: type[Kind], values: object, what: str) -> Kind:
    """Return the options of a mapping.

    Args:
        kind: of options.
        values: as read from a file.
        what: names the file or its part in messages.

    Raises:
        InputError: an option is unknown, missing or of the wrong kind.
    """
    if not isinstance(values, Mapping):
        raise InputError(f"{what} must hold options by name, but holds a {type(values).__name__}")
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise InputError(f"{what} cannot be used: {'; '.join(_explain(kind, error))}") from error


def load_options(recipe: type[Kind], path: Path, overrides: Sequence[str] = ()) -> Kind:
    """Return the recipe of a YAML file, changed by `section.name=value` overrides.

    Raises:
        InputError: the file cannot be read, or an option is unknown, missing or of the wrong kind.
    """
    try:
        values = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"could not read the recipe {path}: {error}") from error
    for override in overrides if isinstance(values, dict) else ():
        _apply(values, override)
    return parse_options(recipe, values, f"the recipe {path}")


def _apply(values: dict[str, Any], override: str) -> None:
    name, equals, value = override.partition("=")
    if not equals:
        raise InputError(f"an override is written section.name=value, but {override!r} was given")
    *sections, last = name.split(".")
    for section in sections:
        values = values.setdefault(section, {})
        if not isinstance(values, dict):
            raise InputError(f"{override!r} cannot be used: {section} is one option and holds no others")
    try:
        values[last] = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise InputError(f"the value of the override {override!r} is not YAML: {error}") from error


def _explain(recipe: type[Options], error: ValidationError) -> list[str]:
    """Return one sentence for each thing that is wrong."""
    sentences = []
    for item in error.errors():
        name = ".".join(str(part) for part in item["loc"])
        if item["type"] == "extra_forbidden":
            *path, unknown = item["loc"]
            known = list(_kind_at(recipe, path).model_fields)
            sentences.append(f"{name} is no option.{did_you_mean(str(unknown), known)}")
        else:
            given = "" if item["type"] == "missing" else f" (given: {item['input']!r})"
            sentences.append(f"{name}: {item['msg'][0].lower()}{item['msg'][1:]}{given}")
    return sentences


def _kind_at(recipe: type[Options], path: Sequence[str | int]) -> Any:
    """Return the kind of the value at a place of a recipe, told by names of options and places in lists."""
    kind: Any = recipe
    for part in path:
        kind = get_args(kind)[0] if isinstance(part, int) else kind.model_fields[part].annotation
        if NoneType in get_args(kind):
            (kind,) = set(get_args(kind)) - {NoneType}
    return kind
