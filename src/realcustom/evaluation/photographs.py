"""Measuring on photographs: pictures of a work list made, or another system's read, and compared with the real ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from realcustom.errors import InputError
from realcustom.evaluation.cases import Case, RealSubject, digest
from realcustom.evaluation.encoders import Distance, Encoders, cut_out
from realcustom.evaluation.methods import Made, Maker, Method, Request, Shown
from realcustom.evaluation.output import Piece, Settings, claim, describe_run, make_missing, records_of
from realcustom.evaluation.scores import means_of, pairwise_cosine
from realcustom.files import sha256_of
from realcustom.pictures import as_seen, read_picture, write_picture

ROWS = {
    "subject": "the subject under the sentence",
    "text": "the same seed, text only",
    "copy": "the reference picture itself, whatever the sentence",
    "real": "each real picture of the subject against the others",
}
"""What is measured, each by the same encoders."""

MADE = ("subject", "text")

SMALLEST = 32
"""Side of the smallest picture that every network here can look at, in pixels."""

FIGURES = {
    "clip_t": "CLIP-T: cosine of picture and sentence",
    "clip_i": "CLIP-I: mean cosine with all real pictures of the subject",
    "dino": "DINO-I: the same by DINO",
    "clip_i_reference": "CLIP-I with the reference alone",
    "dino_reference": "DINO-I with the reference alone",
    "clip_i_segmented": "CLIP-I of the subject cut out on white, in both pictures",
    "dino_segmented": "DINO-I of the same",
    "segmented_found": "the segmenter sees the subject's word; where it does not, the whole picture stands for it",
    "image_reward": "ImageReward of picture and sentence",
    "diversity": "LPIPS between the pictures of one sentence, the mean over pairs",
}


def make_pictures(
    maker: Maker,
    about: Mapping[str, Any],
    cases: Sequence[Case],
    folder: Path,
    progress: Callable[[str, int, int], None],
) -> None:
    """Make every picture of the work list that is not in `folder` yet.

    Args:
        maker: makes pictures.
        about: all that decides what they look like, see `describe`.
        cases: the work list, all with equally many subjects.
        folder: receives a folder of pictures for each row.
        progress: is told the row, how many are there, and of how many.

    Raises:
        InputError: `folder` holds pictures of another model, work list or setting.
    """
    claim(folder, about)
    references: dict[Path, Image.Image] = {}
    for row in MADE:
        make_missing(
            row, {folder / row / case.path: case for case in cases}, partial(_request, references, row), maker, _write,
            progress,
        )  # fmt: skip


def describe(method: Method, cases: Sequence[Case], settings: Settings) -> dict[str, Any]:
    """Return all that decides what the pictures of a run look like, as JSON can hold it."""
    return describe_run(method.pipeline, settings, cases=digest(cases), count=len(cases), **method.describe())


def _request(references: dict[Path, Image.Image], row: str, case: Case) -> Request:
    """Return what a row asks for in a case; pictures of subjects are read once, into `references`."""
    if row == "text":
        return Request(case.prompt, case.seed)
    shown = []
    for subject, (word, occurrence) in zip(case.subjects, case.words, strict=True):
        if subject.reference not in references:
            references[subject.reference] = read_picture(subject.reference)
        shown.append(Shown(subject.name, subject.word, word, references[subject.reference], occurrence))
    return Request(case.prompt, case.seed, tuple(shown))


def _write(made: Made, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_picture(made.picture, path)


def manifest(folder: Path, cases: Sequence[Case]) -> list[dict[str, Any]]:
    """Return, for every picture that was made, what it shows, its seed and its hash."""
    return [
        {
            "picture": str(Path(row) / case.path), "prompt": case.prompt, "words": case.words, "seed": case.seed,
            "reference": [str(Path(subject.name) / subject.reference.name) for subject in case.subjects],
            "sha256": sha256_of(folder / row / case.path),
        }
        for row in MADE
        for case in cases
    ]  # fmt: skip


def require_pictures(cases: Sequence[Case], folder: Path) -> None:
    """Check that another system's pictures are all there, those of one sentence of one size.

    Raises:
        InputError: one is missing, or of another size than the first one of its sentence.
    """
    missing = [case.path for case in cases if not (folder / case.path).is_file()]
    if missing:
        raise InputError(
            f"{folder} lacks {len(missing)} of {len(cases)} pictures, {missing[0]} for one; they lie in "
            "SUBJECT/PROMPT-SEED.png, all numbers from 0"
        )
    sizes: dict[tuple[str, int], tuple[int, int]] = {}
    for case in cases:
        size = as_seen(read_picture(folder / case.path)).size
        first = sizes.setdefault((case.group, case.prompt_number), size)
        if size != first or min(size) < SMALLEST:
            raise InputError(
                f"{folder / case.path} has {size[0]} x {size[1]} pixels; pictures of one sentence must be of one size, at "
                f"least {SMALLEST} pixels a side"
            )


def score(
    cases: Sequence[Case],
    encoders: Encoders,
    folders: Mapping[str, Path],
    journal: Path,
    progress: Callable[[str, int, int], None] = lambda *_: None,
) -> list[dict[str, Any]]:
    """Return one record for each picture of each row: what it is worth by every encoder that is there.

    Args:
        cases: the work list.
        encoders: what is not there is not in the records.
        folders: of the rows that were made, by name.
        journal: keeps the records of each sentence as soon as they are there, see `records_of`.
        progress: is told "measured", how many sentences and subjects are, and of how many.
    """
    real, list_and_encoders = _RealPictures(encoders), [digest(cases), encoders.names()]
    sentences: dict[tuple[str, int], list[Case]] = {}
    for case in cases:
        sentences.setdefault((case.group, case.prompt_number), []).append(case)
    pieces = [
        Piece(partial(_shown, list_and_encoders, row, own, folder), partial(_measured, row, own, folder, real))
        for row, folder in folders.items()
        for own in sentences.values()
    ]
    single = [case for case in cases if len(case.subjects) == 1]
    pieces += [
        Piece(partial(list, (*list_and_encoders, "copy", case.group, case.prompt)), partial(_copied, case, real))
        for case in {(case.group, case.prompt): case for case in reversed(single)}.values()  # whatever the seed
    ]
    pieces += [
        Piece(partial(list, (*list_and_encoders, "real", subject.name)), partial(_among_themselves, subject, real))
        for subject in {case.group: case.subjects[0] for case in single}.values()
    ]
    return list(records_of(pieces, journal, partial(progress, "measured")))


def _shown(start: list[Any], row: str, sentence: Sequence[Case], folder: Path) -> list[Any]:
    """Return what decides the records of a sentence: `start`, and the contents of its pictures."""
    return [*start, row, {str(case.path): sha256_of(folder / case.path) for case in sentence}]


def _measured(row: str, sentence: Sequence[Case], folder: Path, real: _RealPictures) -> list[dict[str, Any]]:
    pictures = [read_picture(folder / case.path) for case in sentence]
    lpips = real.encoders.lpips
    diversity = [{}] * len(pictures) if lpips is None else _diversity([as_seen(one) for one in pictures], lpips)
    return [
        _record(row, case, real.measured(case, picture) | more)
        for case, picture, more in zip(sentence, pictures, diversity, strict=True)
    ]


def _copied(case: Case, real: _RealPictures) -> list[dict[str, Any]]:
    return [_record("copy", case, real.measured(case, read_picture(case.subjects[0].reference)))]


def _among_themselves(subject: RealSubject, real: _RealPictures) -> list[dict[str, Any]]:
    return [
        {"row": "real", "picture": name, "group": subject.name, "word": subject.word, "family": "", **figures}
        for name, figures in real.among_themselves(subject)
    ]


def summarise(records: Sequence[Mapping[str, Any]], about: Mapping[str, Any]) -> dict[str, Any]:
    """Return the report: for every row and figure [mean, low, high], in all and by family and by word, and the records.

    The interval is by bootstrap over subjects.
    """
    by_row = {row: [record for record in records if record["row"] == row] for row in ROWS}
    # Subjects have four to six real pictures, and each subject counts once.
    rows = {
        row: means_of(_one_each(own) if row == "real" else own, tuple(FIGURES)) | {"pictures": len(own)}
        for row, own in by_row.items()
    }
    made = [record for record in records if record["row"] == "subject"]
    return {
        **about,
        "rows": {row: figures for row, figures in rows.items() if figures["pictures"]},
        **{
            f"by_{name}": {
                value: means_of([record for record in made if record[name] == value], tuple(FIGURES))
                for value in sorted({record[name] for record in made})
            }
            for name in ("family", "word")
        },
        "records": list(records),
    }


def _one_each(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return a record for each group with the means of its figures."""
    found = []
    for group in dict.fromkeys(record["group"] for record in records):
        own = [record for record in records if record["group"] == group]
        known = [name for name in FIGURES if all(name in record for record in own)]
        found.append({"group": group, **{name: float(np.mean([record[name] for record in own])) for name in known}})
    return found


def _diversity(pictures: Sequence[Image.Image], lpips: Distance) -> list[dict[str, float]]:
    """Return the mean distance of each picture of a sentence to the others; nothing of a single one."""
    found: list[list[float]] = [[] for _ in pictures]
    for one, other in combinations(range(len(pictures)), 2):
        distance = lpips.distance(pictures[one], pictures[other])
        found[one].append(distance)
        found[other].append(distance)
    return [{"diversity": float(np.mean(distances))} if distances else {} for distances in found]


def _record(row: str, case: Case, figures: Mapping[str, float]) -> dict[str, Any]:
    word = "+".join(subject.word for subject in case.subjects)
    named = {"picture": str(case.path), "prompt": case.prompt, "seed": case.seed}
    return {"row": row, **named, "group": case.group, "word": word, "family": case.family, **figures}


class _RealPictures:
    """The real pictures' embeddings, made once a subject."""

    def __init__(self, encoders: Encoders) -> None:
        self.encoders = encoders
        self.images = {
            name: one for name, one in (("clip_i", encoders.clip), ("dino", encoders.dino)) if one is not None
        }
        self._known: dict[tuple[str, str, bool], np.ndarray] = {}
        self._told: dict[str, np.ndarray] = {}

    def measured(self, case: Case, picture: Image.Image) -> dict[str, float]:
        """Return the figures of one picture; of several subjects their mean."""
        shown = as_seen(picture)
        embeddings = {name: encoder.embed([shown]).numpy() for name, encoder in self.images.items()}
        found: dict[str, list[float]] = {}
        for name, embedding in embeddings.items():
            for subject in case.subjects:
                real = self._embedded(name, subject, segmented=False)
                own = subject.pictures.index(subject.reference)
                found.setdefault(name, []).append(float(pairwise_cosine(embedding, real)[0]))
                found.setdefault(f"{name}_reference", []).append(float(pairwise_cosine(embedding, real[own, None])[0]))
        if self.encoders.segmenter is not None:
            for subject in case.subjects:
                region = self.encoders.segmenter.region(shown, subject.word)
                found.setdefault("segmented_found", []).append(float(region.any()))
                alone = cut_out(shown, region)
                for name, encoder in self.images.items():
                    real = self._embedded(name, subject, segmented=True)
                    value = pairwise_cosine(encoder.embed([alone]).numpy(), real)[0]
                    found.setdefault(f"{name}_segmented", []).append(float(value))
        figures = {name: float(np.mean(values)) for name, values in found.items()}
        if self.encoders.clip is not None:
            if case.prompt not in self._told:
                self._told[case.prompt] = self.encoders.clip.embed_text([case.prompt]).numpy()
            figures["clip_t"] = float(pairwise_cosine(embeddings["clip_i"], self._told[case.prompt])[0])
        if self.encoders.image_reward is not None:
            figures["image_reward"] = self.encoders.image_reward.reward(shown, case.prompt)
        return figures

    def among_themselves(self, subject: RealSubject) -> Iterator[tuple[str, dict[str, float]]]:
        """Yield each real picture's name and its figures against the others; nothing of a single picture."""
        count = len(subject.pictures)
        for number in range(count if count > 1 else 0):
            others = [other for other in range(count) if other != number]
            figures = {}
            for name in self.images:
                for segmented in (False, True) if self.encoders.segmenter is not None else (False,):
                    real = self._embedded(name, subject, segmented=segmented)
                    value = float(pairwise_cosine(real[number, None], real[others])[0])
                    figures[f"{name}_segmented" if segmented else name] = value
            yield f"{subject.name}/{subject.pictures[number].name}", figures

    def _embedded(self, name: str, subject: RealSubject, *, segmented: bool) -> np.ndarray:
        """Return what an encoder sees of a subject's real pictures, `[n, c]`; all encoders look when the first one is asked."""
        if (name, subject.name, segmented) not in self._known:
            pictures = [as_seen(read_picture(path)) for path in subject.pictures]
            if segmented:
                assert self.encoders.segmenter is not None
                regions = [self.encoders.segmenter.region(picture, subject.word) for picture in pictures]
                pictures = [cut_out(picture, region) for picture, region in zip(pictures, regions, strict=True)]
            for encoder_name, encoder in self.images.items():
                seen = [encoder.embed([picture]).numpy() for picture in pictures]
                self._known[encoder_name, subject.name, segmented] = np.concatenate(seen)
        return self._known[name, subject.name, segmented]
