"""`realcustom generate`: one picture and one sentence in, pictures out."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image

from realcustom.apps.casting import Cast, read_cast
from realcustom.apps.console import quiet_libraries
from realcustom.apps.outputs import beside, keep, save, slug
from realcustom.apps.picture_options import given_options, picture_options, refuse_unread, told_by_option
from realcustom.errors import InputError
from realcustom.painting import Painter, Painting, Source, random_seed, subjects_of
from realcustom.pictures import mask_over, mask_picture, mask_strip, require_free, sheet
from realcustom.placement import portrait_box
from realcustom.provenance import PictureSettings, SubjectSettings
from realcustom.subject import Subject

TWIN, SIDE_BY_SIDE = "twin", "side-by-side"
MASK, MASK_OVER, MASK_STRIP, MASK_STEP = "mask", "mask-over", "mask-strip", "mask-step"
"""What is added to a picture's name for those that belong to it."""

_MASKS = (MASK, MASK_OVER, MASK_STRIP)
"""Those of a subject's masks of which there is one."""

ROUND = "round"
"""Likewise for those of the rounds before the last."""

MOST_IMAGES = 256

_AT_ONCE = 8
"""Pictures of one call where the best are chosen."""

_TWIN_COST = (
    "each twin is two more rows of the UNet in every step, beside the three of its picture: about 1.7 times the time"
)


def generate(options: argparse.Namespace) -> None:
    """Do what the command line says.

    Raises:
        InputError: the picture, the prompt, an option or an output file cannot be used; nothing has been written.
    """
    quiet_libraries()
    given = picture_options(options)
    _check_kept(options)
    cast = read_cast(options)
    rounds = _rounds(options, cast.word)
    seeds = picture_seeds(options.seed, options.num_images)
    outputs = _outputs(options, seeds, cast, len(rounds))
    painter = Painter.load(
        options.model, options.adapter, device=options.device, dtype=options.dtype, progress=sys.stderr.isatty()
    )
    with told_by_option():
        settings = painter.settings(options.prompt, **{**given, **cast.settings})
        later = [
            painter.settings(prompt, **{**given, "occurrence": None}, subjects=[SubjectSettings(word=word)])
            for prompt, word in rounds
        ]
        subjects_of(cast.sources, settings)
    unread = [painter.unread(settings, [source.mask is not None for source in cast.sources])]
    refuse_unread(given_options(given), [*unread, *(painter.unread(one, [False]) for one in later)])
    painted = (
        _painted(painter, cast, settings, seeds, options)
        if not options.best_of
        else _best(painter, cast, settings, picture_seeds(seeds[0], options.best_of), options)
    )
    pictures = []
    for path, one in zip(outputs[: len(painted)], painted, strict=True):
        target = beside(path, f"{ROUND}-1") if later else path
        pictures.append({"image": str(target), **one.told, **_write(one, target, options)})
    for path in outputs[len(painted) :] if options.overwrite else []:
        for older in [path, *(_older_masks(path, len(cast.sources)) if options.save_masks else [])]:
            older.unlink(missing_ok=True)  # of an older run that kept more
    for number, wanted in enumerate(later, start=2):
        for place, path in enumerate(outputs):
            painted[place] = _next_round(painter, painted[place], wanted)
            target = path if number == len(later) + 1 else beside(path, f"{ROUND}-{number}")
            before = pictures[place].pop("rounds", [])
            written = {"image": str(target), **painted[place].told, **_write(painted[place], target, options)}
            pictures[place] = {**written, "rounds": [*before, pictures[place]]}
    _tell(options, painted, pictures)


@dataclass(frozen=True)
class _Painted:
    """One picture of a call."""

    painting: Painting
    number: int
    """In the call."""
    twin: int | None
    """Number of its twin."""
    told: Mapping[str, Any]
    """What is said of it, its seed first."""

    @property
    def picture(self) -> Image.Image:
        """The picture itself."""
        return self.painting.pictures[self.number]


def _check_kept(options: argparse.Namespace) -> None:
    """Check the options that say which pictures are kept, against each other."""
    for name, given in (("--twin", options.twin), ("--best-of", options.best_of)):
        if options.then and given:
            raise InputError(f"--then and {name} cannot be given together")
    if options.best_of is not None and (options.twin or options.num_images != 1):
        raise InputError("--best-of says how many pictures are made; leave --num-images and --twin out")
    if options.best_of is not None and not 1 <= options.best_of <= MOST_IMAGES:
        raise InputError(f"--best-of must be from 1 to {MOST_IMAGES}, but is {options.best_of}")


def _rounds(options: argparse.Namespace, word: str | None) -> list[tuple[str, str]]:
    """Return prompt and word of every round after the first, whose word is given."""
    rounds = []
    for said in options.then or []:
        if len(said) > 2:
            raise InputError(f"--then takes a prompt, and the word in it if it is another one, but was given {said!r}")
        word = said[1] if len(said) == 2 else word
        if word is None:
            raise InputError(
                "--then needs the word of its prompt that stands for the result before: --then PROMPT WORD"
            )
        rounds.append((said[0], word))
    return rounds


def _painted(
    painter: Painter, cast: Cast, settings: PictureSettings, seeds: Sequence[int], options: argparse.Namespace
) -> list[_Painted]:
    """Return the pictures of all seeds."""
    scales = [settings.subject_scale, 0.0] if options.twin else [settings.subject_scale]
    wanted = [settings.model_copy(update={"seed": seed, "subject_scale": scale}) for scale in scales for seed in seeds]
    painting = painter.paint(cast.sources, wanted)
    return [
        _Painted(painting, number, number + len(seeds) if options.twin else None, {"seed": seed})
        for number, seed in enumerate(seeds)
    ]


def _best(
    painter: Painter, cast: Cast, settings: PictureSettings, seeds: Sequence[int], options: argparse.Namespace
) -> list[_Painted]:
    """Return those pictures of all seeds that no other one surpasses in likeness and obedience, the most alike first."""
    if painter.kind != "embedded":
        raise InputError(
            "--best-of ranks by judges that know the drawings of the embedded model alone; take --model stickers"
        )
    from realcustom.evaluation.judges import SHIPPED, Judges  # here, so that no other picture waits for them
    from realcustom.evaluation.ranking import Merit, best, merits
    from realcustom.loading import load_strictly

    judges = load_strictly(Judges, SHIPPED)
    made: list[_Painted] = []
    found: list[Merit] = []
    several: Sequence[Subject] = subjects_of(cast.sources, settings).get("subjects", ())
    subjects = [one.likenesses for one in several] or [list(source.pictures) for source in cast.sources]
    words = [one.word for one in several] or [settings.subject_word]
    for start in range(0, len(seeds), _AT_ONCE):
        part = seeds[start : start + _AT_ONCE]
        painting = painter.paint(cast.sources, [settings.model_copy(update={"seed": seed}) for seed in part])
        found += merits(judges, settings.prompt, words, painting.pictures, subjects, painting.masks.each[-1])
        made += [_Painted(painting, number, None, {"seed": seed}) for number, seed in enumerate(part)]
        print(f"{len(made)} of {len(seeds)}", file=sys.stderr)
    return [replace(made[number], told={**made[number].told, **asdict(found[number])}) for number in best(found)]


def _next_round(painter: Painter, before: _Painted, settings: PictureSettings) -> _Painted:
    """Return a picture whose subject is the one of the picture before, cut out where it could act there."""
    (subject,) = settings.subjects
    mask, picture = before.painting.masks.final[before.number], before.picture
    cut = subject.model_copy(update={"box": portrait_box(mask, picture.size)})
    seed = before.told["seed"]
    painting = painter.paint([Source([picture])], [settings.model_copy(update={"seed": seed, "subjects": [cut]})])
    return _Painted(painting, 0, None, before.told)


def picture_seeds(first: int | None, count: int) -> list[int]:
    """Return one seed for each picture, counting up; from a random one if none is given.

    Raises:
        InputError: there is no picture, or a seed is no 64-bit number.
    """
    first = random_seed() if first is None else first
    if count < 1:
        raise InputError(f"--num-images must be at least 1, but is {count}")
    if count > MOST_IMAGES:
        raise InputError(f"--num-images must be at most {MOST_IMAGES}, as they are made at once, but is {count}")
    if not -(2**63) <= first <= first + count - 1 < 2**64:
        raise InputError(f"--seed must be from -2^63 to 2^64 - 1 for every picture, but is {first}")
    return [first + number for number in range(count)]


def _outputs(options: argparse.Namespace, seeds: Sequence[int], cast: Cast, rounds: int) -> list[Path]:
    """Return one path for each picture; it and everything that belongs to it can be written."""
    base = options.output or Path(f"{slug(options.prompt)}-{seeds[0]}.png")
    count = options.best_of or len(seeds)
    paths = [base] if count == 1 else [base.with_stem(f"{base.stem}-{n + 1}") for n in range(count)]
    names = [*(f"{ROUND}-{number}" for number in range(1, rounds + 1)), ""]
    for path in paths:
        for number, name in enumerate(names):
            picture = beside(path, name)
            kinds = ["", TWIN, SIDE_BY_SIDE] if options.twin else [""]
            made = [beside(picture, kind) for kind in kinds]
            if options.save_masks:
                subjects = 1 if number else len(cast.sources)  # a later round has the one before as its subject
                made += [beside(picture, f"{of}{kind}") for of in _of_subjects(subjects) for kind in _MASKS]
                made += _older_masks(picture, subjects)
            for one in made:
                require_free(one, overwrite=options.overwrite)
            keep(cast.files, made)
    return paths


def _of_subjects(count: int) -> list[str]:
    """Return what the names of each subject's masks begin with."""
    return [""] if count == 1 else [f"subject-{number}-" for number in range(1, count + 1)]


def _write(one: _Painted, path: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Write a picture and what belongs to it; return the names of the latter's files by kind."""
    for older in _older_masks(path, one.painting.masks.each.shape[1]) if options.save_masks else []:
        older.unlink()  # of a run with more steps
    written: dict[str, Any] = {}
    for kind, picture in _pictures(one, options.save_masks):
        number = one.twin if kind == TWIN and one.twin is not None else one.number
        said = kind in ("", TWIN) and options.metadata
        save(picture, beside(path, kind), one.painting.provenances[number] if said else None)
        whose, step, _ = kind.partition(MASK_STEP)
        if step:
            written.setdefault(_key(f"{whose}{MASK_STEP}s"), []).append(str(beside(path, kind)))
        elif kind:
            written[_key(kind)] = str(beside(path, kind))
    return written


def _key(kind: str) -> str:
    """Return what JSON calls a kind of picture."""
    return kind.replace("-", "_")


def _older_masks(path: Path, subjects: int) -> list[Path]:
    """Return the masks of so many subjects that lie beside a picture's name."""
    of = "|".join(_of_subjects(subjects))
    names = re.compile(rf"{re.escape(path.stem)}-({of})({'|'.join(_MASKS)}|{MASK_STEP}-\d+){re.escape(path.suffix)}")
    return sorted(other for other in path.parent.glob("*") if names.fullmatch(other.name))


def _pictures(one: _Painted, masks: bool) -> Iterator[tuple[str, Image.Image]]:
    """Yield what belongs to one picture, each with what is added to its name."""
    picture, painting = one.picture, one.painting
    yield "", picture
    if one.twin is not None:
        yield TWIN, painting.pictures[one.twin]
        yield SIDE_BY_SIDE, sheet([painting.pictures[one.twin], picture], columns=2)
    for subject, of in enumerate(_of_subjects(painting.masks.each.shape[1]) if masks else []):
        steps = painting.masks.of(subject).steps[:, one.number]
        yield f"{of}{MASK}", mask_picture(steps[-1], picture.size)
        yield f"{of}{MASK_OVER}", mask_over(picture, steps[-1])
        yield f"{of}{MASK_STRIP}", mask_strip(steps, picture.height)
        for step, mask in enumerate(steps, start=1):
            yield f"{of}{MASK_STEP}-{step:02d}", mask_picture(mask, picture.size)


def _tell(options: argparse.Namespace, painted: Sequence[_Painted], pictures: Sequence[Mapping[str, Any]]) -> None:
    """Say what was made, and how."""
    painting = painted[0].painting
    if options.json:
        provenance = painting.provenances[0]
        about = {
            "pictures": list(pictures),
            "model": options.model,
            "settings": provenance.settings.model_dump(exclude={"seed"}),
            "made_by": provenance.model_dump(include={"weights", "device", "dtype", "threads", "versions"}),
            "seconds": round(sum({id(one.painting): one.painting.seconds for one in painted}.values()), 3),
            "report": painting.report.to_dict(),
        }
        print(json.dumps(about, allow_nan=False))
        return
    for one, told in zip(painted, pictures, strict=True):
        merits = [f"{name} {one.told[name]:.2f}" for name in ("identity", "control") if one.told.get(name) is not None]
        said = ", ".join([f"seed {one.told['seed']}", *merits])
        print(f"{told['image']} ({said})")
    for line in [*painting.report.lines(), *([_TWIN_COST] if options.twin else [])]:
        print(f"  {line}", file=sys.stderr)
