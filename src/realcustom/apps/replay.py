"""`realcustom replay`: the same picture again, or which ingredient is another one."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from realcustom.apps.console import quiet_libraries
from realcustom.apps.outputs import beside, keep, save
from realcustom.errors import CheckFailed, InputError, in_one_line
from realcustom.finding import EMBEDDED, is_hub_id
from realcustom.painting import Painter, Source
from realcustom.pictures import read_picture, require_free
from realcustom.provenance import Provenance, Sources, likeness_hash, picture_hash, read_provenance
from realcustom.subject import Likeness, read_likeness

AGAIN = "again"


def replay(options: argparse.Namespace) -> None:
    """Make a picture again from what it says of itself, in the same call, and compare.

    Raises:
        InputError: the picture does not say how it was made, or the subject or mask is another one; nothing has been written.
        CheckFailed: the new picture, which has been written, is another one.
    """
    quiet_libraries()
    asked, older = read_provenance(options.picture), read_picture(options.picture)
    output = options.output or beside(options.picture, AGAIN)
    require_free(output, overwrite=options.overwrite)
    sources = _sources(asked, options.subjects, options.masks)
    made_of = [("the subject's picture", path) for path in options.subjects] + [
        ("the mask", path) for path in options.masks
    ]
    keep([("the picture", options.picture), *made_of], [output])
    # A picture of somebody else's may name any model and adapter of the hub.
    model, local_model = (options.model, False) if options.model else (_named_model(asked), True)
    adapter, local_adapter = (options.adapter, False) if options.adapter else (_named_adapter(asked), True)
    torch.set_num_threads(asked.threads)
    painter = Painter.load(
        model, adapter, device=options.device, dtype=asked.dtype, progress=sys.stderr.isatty(), local_model=local_model,
        local_adapter=local_adapter,
    )  # fmt: skip
    call = zip(asked.call.seeds, asked.call.subject_scales, strict=True)
    settings = [asked.settings.model_copy(update={"seed": seed, "subject_scale": scale}) for seed, scale in call]
    painter.check(asked.settings)
    painting = painter.paint(sources, settings)
    found, picture = painting.provenances[asked.call.index], painting.pictures[asked.call.index]
    save(picture, output, found if options.metadata else None)
    _tell(options, asked, found, (older, picture), str(output))


def _sources(asked: Provenance, subjects: Sequence[Path], masks: Sequence[Path]) -> list[Source]:
    """Return what the picture's subjects were shown by, each the very one.

    Raises:
        InputError: there are more or fewer, or one is another one.
    """
    wanted = asked.subjects or [Sources(pictures=[asked.subject or ""], mask=asked.mask)]
    pictures = sum(len(one.pictures) for one in wanted)
    if len(subjects) != pictures:
        raise InputError(f"the picture was made of {pictures} pictures of subjects, but {len(subjects)} were given")
    masked = sum(one.mask is not None for one in wanted)
    if masked and not masks:
        raise InputError("the picture was made with a mask; give it with --mask")
    if len(masks) != masked:
        without = (
            "without a mask; leave --mask out" if not masked else f"with {masked} masks, but {len(masks)} were given"
        )
        raise InputError(f"the picture was made {without}")
    left, masks_left, found = list(subjects), list(masks), []
    for one in wanted:
        own = [
            _same(read_likeness(left.pop(0)), known, "the subject's picture" if pictures == 1 else f"picture {number}")
            for number, known in enumerate(one.pictures, start=pictures - len(left) + 1)
        ]
        mask = None if one.mask is None else read_picture(masks_left.pop(0))
        if mask is not None and picture_hash(mask) != one.mask:
            raise InputError("the mask is another one than the picture was made with: its pixels differ")
        found.append(Source(own, mask))
    return found


def _same(likeness: Likeness, wanted: str, what: str) -> Likeness:
    if likeness_hash(likeness) != wanted:
        other = "a saved subject (.subject.safetensors)" if isinstance(likeness, Image.Image) else "a picture"
        raise InputError(
            f"{what} is another one than the picture was made with: it looks different, or {other} was given then"
        )
    return likeness


def _named_adapter(asked: Provenance) -> str | None:
    """Return the RealCustom part that a picture names."""
    if asked.adapter is not None and not is_hub_id(asked.adapter):
        raise InputError(
            f"the picture was made with an adapter in a folder called {asked.adapter!r}; give it with --adapter"
        )
    return asked.adapter


def _named_model(asked: Provenance) -> str:
    """Return the model that a picture names, which may be anybody's picture."""
    if asked.model_kind == "folder":
        raise InputError(f"the picture was made with a model in a folder called {asked.model!r}; give it with --model")
    if not (asked.model in EMBEDDED if asked.model_kind == "embedded" else is_hub_id(asked.model)):
        raise InputError(
            f"the picture was made with a model called {asked.model!r}, of which there is no {asked.model_kind} one here; "
            f"give it with --model"
        )
    return asked.model


def _largest_difference(one: Image.Image, other: Image.Image) -> int:
    """Return by how many of 255 levels two pictures differ where they differ most; 255 if their sizes do."""
    if one.size != other.size:
        return 255
    levels = [np.asarray(picture.convert("RGB"), int) for picture in (one, other)]
    return int(np.abs(levels[0] - levels[1]).max())


def _tell(
    options: argparse.Namespace,
    asked: Provenance,
    found: Provenance,
    pictures: tuple[Image.Image, Image.Image],
    output: str,
) -> None:
    others, difference = asked.differences(found), _largest_difference(*pictures)
    how = f"differs by up to {difference} of 255 levels"
    if pictures[0].size != pictures[1].size:
        before, now = (f"{one.width} x {one.height}" for one in pictures)
        how = f"has {now} pixels, where PICTURE, which was changed since, has {before}"
    if options.json:
        print(json.dumps({"image": output, "identical": difference == 0, "difference": difference, "others": others}))
    else:
        print(f"{output} ({'identical' if difference == 0 else how})")
        for line in others:
            print(f"  another {in_one_line(line)}", file=sys.stderr)
    if difference > 0:
        reason = (
            f"; other ingredients: {'; '.join(others)}"
            if others
            else ", although every recorded ingredient is the same"
        )
        raise CheckFailed(f"the picture is not identical, it {how}{reason}")
