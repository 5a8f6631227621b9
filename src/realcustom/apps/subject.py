"""`realcustom subject`: what the encoder sees of a subject's picture, told (`check`) or written down (`save`)."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from realcustom.apps.console import quiet_libraries
from realcustom.apps.outputs import keep
from realcustom.errors import InputError
from realcustom.files import require_place
from realcustom.finding import locate, reference_side
from realcustom.loading import part_folder, resolve
from realcustom.painting import Painter
from realcustom.pictures import read_picture, require_free, write_picture
from realcustom.portrait import examine, fit_reference
from realcustom.saved_subject import check_name


def save(options: argparse.Namespace) -> None:
    """Write what the encoder of a model sees of a picture.

    Raises:
        InputError: the picture, the model or the output file cannot be used; nothing has been written.
    """
    quiet_libraries()
    if not options.word.strip():
        raise InputError("--word is empty; give the word that stands for the subject")
    check_name(options.output)
    require_place(options.output, overwrite=options.overwrite)
    picture = read_picture(options.picture)
    pipeline = Painter.load(options.model, options.adapter).pipeline
    if pipeline.adapter is None:
        raise InputError(
            f"{options.model} has no RealCustom part, which says what is taken from the encoder; give --adapter"
        )
    saved = pipeline.subject_encoder.remember(picture, pipeline.adapter, options.word, options.note)
    saved.save(options.output, overwrite=options.overwrite)
    print(options.output)
    for advice in saved.portrait.advice:
        print(f"  advice: {advice}", file=sys.stderr)


def check(picture: Path, model: str, adapter: str | None, *, save: Path | None, overwrite: bool, as_json: bool) -> None:
    """Print what the encoder of a model sees of a picture, and advice; write it, if `save` says where.

    Raises:
        InputError: the picture, the model or the output file cannot be used; nothing has been written.
    """
    if save is not None:
        require_free(save, overwrite=overwrite)
    opened = read_picture(picture)
    if save is not None:
        keep([("the subject's picture", picture)], [save])
    locate(model)  # so that no network is asked for what is no name of a model
    side = reference_side(resolve(model), None if adapter is None else part_folder(adapter))
    if side is None:
        raise InputError(
            f"{model} does not say how large its pictures are, in unet/config.json and vae/config.json, or what its image "
            "encoder sees, in image_encoder/config.json"
        )
    portrait = examine(opened, side)
    if save is not None:
        write_picture(fit_reference(opened, portrait.side), save)
    if as_json:
        where = {"picture": str(picture), "model": model, "saved": None if save is None else str(save)}
        print(json.dumps({**where, **portrait.to_dict()}, allow_nan=False))
        return
    advice = portrait.advice or ("none, it is a good portrait",)
    print(*portrait.lines(), *(f"advice: {sentence}" for sentence in advice), sep="\n")
