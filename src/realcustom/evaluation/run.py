"""One evaluation: pictures made or found again, judged, and summed up. It can be killed and started again at any time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from realcustom.data.examples import Example, to_pixels
from realcustom.errors import InputError
from realcustom.evaluation.benchmark import (
    FAMILIES,
    SEEDS,
    SENTENCES,
    SUBJECTS,
    VERSION,
    Item,
    StickerBench,
    TextItem,
    picture_file,
)
from realcustom.evaluation.galleries import Galleries
from realcustom.evaluation.judges import Judges, Reading
from realcustom.evaluation.methods import Made, Maker, Method, Request, Shown
from realcustom.evaluation.output import Piece, Settings, claim, describe_run, make_missing, records_of
from realcustom.evaluation.scores import means_of, part_of
from realcustom.files import sha256_of
from realcustom.loading import fingerprint
from realcustom.masks import area_mask, chance_of_overlap, coverage, overlap
from realcustom.pictures import as_seen, read_picture, write_picture
from realcustom.placement import frame_of

ROWS = {
    "subject": "the subject under the sentence",
    "twin": "the same seed, text only",
    "wrong": "another subject under the sentence",
    "oracle": "a real render of the subject, re-posed",
    "copy": "the reference picture itself",
    "text": "a well-known noun in a place, text only",
    "drawn": "the same, really rendered from a drawing that training has seen",
    "paraphrase": "a noun or a place in words that no caption said, text only",
}
"""What is judged, each by the same judges."""

MADE = ("subject", "twin", "wrong", "text", "paraphrase")
"""The rows that a model makes; the others are rendered."""

_TEXT_ITEMS: dict[str, Callable[[StickerBench], list[TextItem]]] = {
    "text": StickerBench.text_items,
    "drawn": StickerBench.text_items,
    "paraphrase": StickerBench.paraphrases,
}
"""The work of the rows whose sentences have no subject."""


def make_pictures(
    maker: Maker,
    about: Mapping[str, Any],
    bench: StickerBench,
    folder: Path,
    progress: Callable[[str, int, int], None],
    rows: Sequence[str] = MADE,
) -> None:
    """Make every picture of some rows of the work list that is not in `folder` yet.

    Args:
        maker: makes pictures.
        about: all that decides what they look like, see `describe`.
        bench: the work list.
        folder: receives a folder of pictures for each row.
        progress: is told the row, how many are there, and of how many.
        rows: some of `MADE`.

    Raises:
        InputError: `folder` holds pictures of another model, work list or setting.
    """
    claim(folder, about)
    references = _references(bench)
    for row in rows:
        (folder / row).mkdir(exist_ok=True)
        make_missing(
            row, {_picture_path(folder / row, item.number): item for item in _work(bench, row)},
            partial(_request, bench, references, row), maker, partial(_write, masks=row == "subject"), progress,
        )  # fmt: skip


def describe(method: Method, bench: StickerBench, settings: Settings) -> dict[str, Any]:
    """Return all that decides what the pictures of a run look like, as JSON can hold it."""
    return describe_run(method.pipeline, settings, bench=bench.digest(), count=len(bench.items), **method.describe())


def manifest(bench: StickerBench, folders: Mapping[str, Path]) -> list[dict[str, Any]]:
    """Return, for every picture that was made, what it shows, its seed and its hash."""
    references, lines = _references(bench), []
    for row, folder in folders.items():
        for item in _work(bench, row):
            request, path = _request(bench, references, row, item), _picture_path(folder, item.number)
            shown = [{"subject": one.name, "word": one.word} for one in request.subjects]
            told = {"picture": f"{row}/{path.name}", "prompt": request.prompt, "shown": shown, "seed": request.seed}
            lines.append(told | {"sha256": sha256_of(path)})
    return lines


def counts_of_whole_list(bench: StickerBench, rows: Sequence[str]) -> dict[str, int]:
    """Return how many pictures each of some rows has in the whole list, of which `bench` may be a part."""
    of_subjects = SUBJECTS * len(SENTENCES) * SEEDS
    return {row: len(_TEXT_ITEMS[row](bench)) if row in _TEXT_ITEMS else of_subjects for row in rows}


def _picture_path(folder: Path, number: int) -> Path:
    return folder / picture_file(number)


def _references(bench: StickerBench) -> dict[str, Image.Image]:
    return {item.subject: Image.fromarray(item.example.reference) for item in bench.one_each()}


def _work(bench: StickerBench, row: str) -> Sequence[Any]:
    """Return the items of a row that is made."""
    return _TEXT_ITEMS[row](bench) if row in _TEXT_ITEMS else bench.items


def _request(bench: StickerBench, references: Mapping[str, Image.Image], row: str, item: Any) -> Request:
    """Return what a row asks for where the work list has an item."""
    if row in _TEXT_ITEMS:
        return Request(item.prompt, item.seed)
    if row == "twin":
        return Request(item.example.caption, item.number)
    shown = _reference_item(bench, row, item)
    subject = Shown(shown.subject_file, shown.example.facts["noun"], item.example.word, references[shown.subject])
    return Request(item.example.caption, item.number, (subject,))


def _write(made: Made, path: Path, *, masks: bool) -> None:
    if masks and made.masks is not None:
        write_picture(_mask_picture(made.masks), _masks_path(path))
    write_picture(made.picture, path)


def require_pictures(bench: StickerBench, folder: Path) -> None:
    """Check that another system's pictures of subjects are all there, of the right size.

    Raises:
        InputError: one is missing, or is of another size.
    """
    paths = [_picture_path(folder, item.number) for item in bench.items]
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        raise InputError(
            f"{folder} lacks {len(missing)} of {len(paths)} pictures, {missing[0]} for one; they are named by the numbers of "
            "the work list, which realcustom data bench writes"
        )
    for path in paths:
        width, height = as_seen(read_picture(path)).size
        if (width, height) != (bench.side, bench.side):
            raise InputError(
                f"{path} has {width} x {height} pixels; the pictures must have {bench.side} x {bench.side}"
            )


def _reference_item(bench: StickerBench, row: str, item: Item) -> Item:
    """Return the item whose reference a row's picture was made from."""
    return bench.other(item) if row == "wrong" else item


def _masks_path(picture: Path) -> Path:
    return picture.with_name(f"{picture.stem}-masks.png")


def _mask_picture(masks: Tensor) -> Image.Image:
    """Return masks `[n, h, w]` side by side; what is not zero stays so."""
    levels = (masks.float() * 255).ceil().byte().numpy()
    return Image.fromarray(np.concatenate(list(levels), axis=1))


def _read_masks(path: Path) -> Tensor:
    """Return the masks of a picture of `_mask_picture`, `[n, h, w]` float32."""
    levels = np.asarray(Image.open(path), np.float32) / 255
    return torch.from_numpy(np.stack(np.split(levels, levels.shape[1] // levels.shape[0], axis=1)))


def judge(
    bench: StickerBench,
    judges: Judges,
    folders: Mapping[str, Path],
    journal: Path,
    progress: Callable[[str, int, int], None] = lambda *_: None,
) -> list[dict[str, Any]]:
    """Return one record for every picture: what the judges saw, and what it is worth against the work list.

    Args:
        bench: the work list.
        judges: what looks at the pictures.
        folders: of the rows that were made, by name; what is rendered is judged in any case.
        journal: keeps the records of each batch of pictures as soon as they are there, see `records_of`.
        progress: is told "judged", how many batches are, and of how many.
    """
    court, pieces = _Court(bench, judges), list[Piece]()
    list_and_judges = [bench.digest(), fingerprint(judges)]
    for row in (row for row in ROWS if row in folders or row not in MADE):
        folder, work = folders.get(row), _work(bench, row)
        if row not in _TEXT_ITEMS and row not in MADE:
            work = [item for item in work if not item.repeated]
        judged = court.of_text if row in _TEXT_ITEMS else court.of_subjects
        pieces += [
            Piece(partial(_decided_by, list_and_judges, row, batch, folder), partial(judged, row, batch, folder))
            for batch in _batches(work)
        ]
    return list(records_of(pieces, journal, partial(progress, "judged")))


def _batches(items: Sequence[Any], size: int = 32) -> Iterator[Sequence[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _decided_by(start: Sequence[Any], row: str, batch: Sequence[Any], folder: Path | None) -> list[Any]:
    """Return what decides the records of some pictures: `start`, which they are, and the contents of those that were made."""
    numbers = [item.number for item in batch]
    if folder is None:
        return [*start, row, numbers]
    pictures = [_picture_path(folder, number) for number in numbers]
    masks = [path for picture in pictures if (path := _masks_path(picture)).exists()]
    return [*start, row, numbers, [sha256_of(path) for path in (*pictures, *masks)]]


class _Court:
    """The judges before a work list."""

    def __init__(self, bench: StickerBench, judges: Judges) -> None:
        self._bench, self._judges, self._galleries = bench, judges, Galleries(bench, judges)

    @cached_property
    @torch.no_grad()
    def _of_references(self) -> dict[str, Tensor]:
        """Where each subject lies in its reference, `[h, w]` by its name."""
        regions: dict[str, Tensor] = {}
        for batch in _batches(self._bench.one_each()):
            found = self._judges.read(to_pixels([item.example.reference for item in batch])).region
            regions |= zip((item.subject for item in batch), found, strict=True)
        return regions

    @torch.no_grad()
    def of_subjects(self, row: str, batch: Sequence[Item], folder: Path | None) -> list[dict[str, Any]]:
        """Return the records of pictures of subjects, one row's."""
        reading = self._judges.read(to_pixels([_shown(folder, row, item) for item in batch]))
        shown = [_reference_item(self._bench, row, item) for item in batch]
        pasted = overlap(reading.region.round(), torch.stack([self._of_references[one.subject] for one in shown]))
        records = []
        for place, item in enumerate(batch):
            region = reading.region[place, None]
            record: dict[str, Any] = {"row": row, "number": item.number, "group": item.subject, "family": item.family}
            record["kind"] = item.kind
            record |= {"paste": float(pasted[place]), "found": float(reading.found[place])}
            record |= _control(item, shown[place].example, _seen(reading, place, self._judges), self._judges)
            record |= self._galleries.identity(item, reading.identity[place].numpy())
            if row == "oracle" and item.example.region is not None:
                true = torch.from_numpy(item.example.region)[None]
                record["segmenter"] = float(overlap(region.round(), true))
            if row == "subject" and folder and (masks := _masks_path(_picture_path(folder, item.number))).exists():
                record |= _mask_figures(_read_masks(masks), region)
            records.append(record)
        return records

    @torch.no_grad()
    def of_text(self, row: str, batch: Sequence[TextItem], folder: Path | None) -> list[dict[str, Any]]:
        """Return the records of pictures without a subject, one row's."""
        picture = self._bench.drawn if folder is None else partial(_picture_of, folder)
        reading = self._judges.read(to_pixels([picture(item) for item in batch]))
        records: list[dict[str, Any]] = []
        for place, item in enumerate(batch):
            seen = _seen(reading, place, self._judges)
            right = {name: float(seen[name] == getattr(item, name)) for name in item.judged}
            records.append({"row": row, "number": item.number, "group": item.noun} | right)
        return records


def _seen(reading: Reading, place: int, judges: Judges) -> dict[str, str]:
    """Return what the judges take picture `place` of a batch to show, by the names of their labels, and the thing's position.

    A thing that is not found has no noun, no colour and no position.
    """
    seen = {name: judges.labels[name][int(logit[place].argmax())] for name, logit in reading.logits.items()}
    if not reading.found[place]:
        return seen | {"noun": "", "colour": "", "position": ""}
    y, x, _ = frame_of(reading.region[place, None].round())[0].tolist()
    return seen | {"position": part_of(y, x)}


def _control(item: Item, shown: Example, seen: Mapping[str, str], judges: Judges) -> dict[str, float]:
    """Return what of a sentence is seen: of each thing that it says, and of all beside the noun, "control".

    There is no control of a sentence that asks for what the judges cannot see.
    """
    facts, behind = item.example.facts, shown.facts["reference_place"]
    figures = {"place": float(seen["place"] == facts["place"])}
    if "position" in facts:
        figures["position"] = float(seen["position"] == facts["position"])
    if facts["colour"]:
        figures["colour"] = float(seen["colour"] == facts["colour"])
    for name in ("worn", "beside"):
        if name in facts and facts[name] in judges.labels.get(name, ()):
            figures[name] = float(seen[name] == facts[name])
    asked = [name for name in ("position", "colour", "worn", "beside") if facts.get(name)]
    if set(asked) <= figures.keys():
        figures["control"] = float(np.mean(list(figures.values())))
    if facts["noun"] in judges.labels["noun"]:
        figures["noun"] = float(seen["noun"] == facts["noun"])
    if behind != facts["place"]:
        figures["leak"] = float(seen["place"] == behind)
    return figures


def _mask_figures(masks: Tensor, region: Tensor) -> dict[str, Any]:
    """Return the overlaps of masks `[n, h, w]` with a region `[1, H, W]`."""
    coarse = area_mask(region, (masks.shape[1], masks.shape[2]))
    by_step = overlap(masks, coarse.expand(len(masks), -1, -1))
    inside = float((coarse >= 0.5).float().mean())
    random = torch.tensor([chance_of_overlap(size, inside) for size in coverage(masks).tolist()])
    second_half = slice(-max(1, len(masks) // 2), None)
    return {
        "mask": float(by_step[second_half].mean()),
        "mask_random": float(random[second_half].mean()),
        "mask_all": float(overlap(torch.ones_like(coarse), coarse)),
        "mask_by_step": by_step.tolist(),
        "mask_random_by_step": random.tolist(),
    }


def _shown(folder: Path | None, row: str, item: Item) -> np.ndarray:
    if folder is not None:
        return _picture_of(folder, item)
    return item.example.picture if row == "oracle" else item.example.reference


def _picture_of(folder: Path, item: Item | TextItem) -> np.ndarray:
    return np.asarray(as_seen(read_picture(_picture_path(folder, item.number))))


FIGURES = {
    "found": "there is a thing at all",
    "identity": "the subject is found among its noun's drawings",
    "identity_chance": "how often a random pick would find it",
    "similarity": "cosine with the subject's own drawing",
    "control": "share of what the sentence says of its subject that is seen: place, colour, what is worn or beside, position; "
    "of sentences that the judges can follow",
    "place": "the sentence's place is seen",
    "colour": "the sentence's colour is seen on the thing",
    "noun": "the sentence's noun is seen",
    "worn": "what the sentence says that the thing wears is seen",
    "beside": "what the sentence says is beside the thing is seen",
    "position": "the subject lies in the part of the picture that the sentence says",
    "leak": "the reference's place is seen instead",
    "paste": "overlap of the subject's place with that in the reference",
    "mask": "overlap of the mask with the subject, second half of the steps",
    "mask_random": "the same for a random mask of the same size",
    "mask_all": "the same for a mask of the whole picture",
    "segmenter": "overlap of the judge's region with the true one",
}
"""What is averaged over the pictures of a row, where a row has it, and what it means."""

OF_STEPS = ("mask_by_step", "mask_random_by_step")
"""What is averaged over the pictures of subjects, step by step."""


def summarise(records: Sequence[Mapping[str, Any]], bench: StickerBench, about: Mapping[str, Any]) -> dict[str, Any]:
    """Return the report: for every row and figure [mean, low, high], the interval by bootstrap over subjects.

    "families" and "kinds" hold the same of the pictures of subjects alone, for each family of sentences and kind of subject,
    those of `OF_STEPS` a value for each step, where there are masks, and "records" what is given.
    """
    by_row = {row: [record for record in records if record["row"] == row] for row in ROWS}
    by_family = {family: [record for record in by_row["subject"] if record["family"] == family] for family in FAMILIES}
    kinds = sorted({record["kind"] for record in by_row["subject"]})
    by_kind = {kind: [record for record in by_row["subject"] if record["kind"] == kind] for kind in kinds}
    steps = {name: [record[name] for record in records if name in record] for name in OF_STEPS}
    return {
        "benchmark": f"stickers {VERSION}",
        "split": bench.split,
        **about,
        "rows": {row: means_of(own, tuple(FIGURES)) for row, own in by_row.items() if own},
        "families": {family: means_of(own, tuple(FIGURES)) for family, own in by_family.items() if own},
        "kinds": {kind: means_of(own, tuple(FIGURES)) for kind, own in by_kind.items()},
        **{name: np.round(np.mean(each, axis=0), 4).tolist() if each else [] for name, each in steps.items()},
        "records": list(records),
    }
