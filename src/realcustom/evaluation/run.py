"""One evaluation: pictures made or found again, judged, and summed up. It can be killed and started again at any time."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from realcustom.data.examples import to_pixels
from realcustom.errors import InputError
from realcustom.evaluation.benchmark import VERSION, Item, StickerBench
from realcustom.evaluation.judges import Judges, overlap_of_regions
from realcustom.evaluation.scores import bootstrap, chance_of_retrieval, mask_overlap, random_overlap, retrieved
from realcustom.pictures import write_picture
from realcustom.pipeline import RealCustomPipeline

ROWS = {
    "subject": "the subject under the sentence",
    "twin": "the same seed, text only",
    "wrong": "another subject under the sentence",
    "oracle": "a real render of the subject, re-posed",
    "copy": "the reference picture itself",
    "text": "a well-known noun in a place, text only",
}
"""What is judged, each by the same judges."""

MADE = ("subject", "twin", "wrong", "text")
"""The rows that a model makes; the others are rendered."""


@dataclass(frozen=True)
class Settings:
    """How the pictures are made; a folder of pictures belongs to one."""

    count: int = 400
    """Subjects under sentences."""
    batch_size: int = 16
    num_inference_steps: int | None = None
    """The model's default if None, like the others."""
    guidance_scale: float | None = None
    subject_guidance_scale: float | None = None
    mask_scope: float | None = None
    token_ratio: float = 0.8
    scheduler: str | None = None
    """Class name of one of diffusers' schedulers."""

    def arguments(self) -> dict[str, Any]:
        """Return what every call of the pipeline is given."""
        guidance = {"guidance_scale": self.guidance_scale, "num_inference_steps": self.num_inference_steps}
        return {name: value for name, value in guidance.items() if value is not None}

    def subject_arguments(self) -> dict[str, Any]:
        """Return what calls with a subject are given beside."""
        more = {"subject_guidance_scale": self.subject_guidance_scale, "mask_scope": self.mask_scope}
        given = {name: value for name, value in more.items() if value is not None}
        return {**given, "token_ratio": self.token_ratio, "occurrence": 1}


def fingerprint(pipeline: RealCustomPipeline) -> str:
    """Return a hash of every weight of a model."""
    digest = hashlib.sha256()
    for name in ("vae", "text_encoder", "unet", "adapter"):
        part = getattr(pipeline, name)
        for key, tensor in sorted(part.state_dict().items()) if part is not None else ():
            digest.update(key.encode())
            digest.update(tensor.detach().cpu().float().numpy().tobytes())
    return digest.hexdigest()[:16]


def make_pictures(
    pipeline: RealCustomPipeline,
    bench: StickerBench,
    settings: Settings,
    folder: Path,
    progress: Callable[[str, int, int], None],
) -> None:
    """Make every picture of the work list that is not in `folder` yet.

    Raises:
        InputError: `folder` holds pictures of another model, work list or setting.
    """
    _claim(folder, {"model": fingerprint(pipeline), "bench": bench.digest(), **asdict(settings)})
    for row in MADE:
        (folder / row).mkdir(exist_ok=True)
        work: Sequence[Any] = bench.text_items() if row == "text" else bench.items
        missing = [item for item in work if not _picture_path(folder, row, item.number).exists()]
        for start in range(0, len(missing), settings.batch_size):
            progress(row, len(work) - len(missing) + start, len(work))
            _make_batch(pipeline, bench, row, missing[start : start + settings.batch_size], settings, folder)
        progress(row, len(work), len(work))


def _claim(folder: Path, about: Mapping[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    path, text = folder / "run.json", json.dumps(about, indent=1)
    if path.exists() and json.loads(path.read_text()) != json.loads(text):
        known = json.loads(path.read_text())
        other = sorted(name for name in about if known.get(name) != about[name])
        raise InputError(f"{folder} holds pictures made with another {', '.join(other)}; name another --output")
    path.write_text(text)


def _picture_path(folder: Path, row: str, number: int) -> Path:
    return folder / row / f"{number:04d}.png"


def _make_batch(
    pipeline: RealCustomPipeline,
    bench: StickerBench,
    row: str,
    batch: Sequence[Any],
    settings: Settings,
    folder: Path,
) -> None:
    generator = [torch.Generator().manual_seed(item.number) for item in batch]
    prompts = [item.prompt if row == "text" else item.example.caption for item in batch]
    if row in ("text", "twin"):
        made = pipeline(prompts, generator=generator, **settings.arguments())
    else:
        offset = 1 if row == "wrong" else 0
        shown = [bench.items[(item.number + offset) % len(bench.items)].example.reference for item in batch]
        made = pipeline(
            prompts, [Image.fromarray(reference) for reference in shown], [item.example.word for item in batch],
            generator=generator, **settings.arguments(), **settings.subject_arguments(),
        )  # fmt: skip
    for place, (item, picture) in enumerate(zip(batch, made.images, strict=True)):
        if row == "subject":
            assert made.masks is not None
            write_picture(_mask_picture(made.masks.steps[:, place]), _masks_path(folder, item.number))
        write_picture(picture, _picture_path(folder, row, item.number))


def _masks_path(folder: Path, number: int) -> Path:
    return folder / "subject" / f"{number:04d}-masks.png"


def _mask_picture(masks: Tensor) -> Image.Image:
    """Return masks `[n, h, w]` side by side; what is not zero stays so."""
    levels = (masks.float() * 255).ceil().byte().numpy()
    return Image.fromarray(np.concatenate(list(levels), axis=1))


def _read_masks(path: Path) -> np.ndarray:
    """Return the masks of a picture of `_mask_picture`, `[n, h, w]` float32."""
    levels = np.asarray(Image.open(path), np.float32) / 255
    return np.stack(np.split(levels, levels.shape[1] // levels.shape[0], axis=1))


@torch.no_grad()
def judge(bench: StickerBench, judges: Judges, folder: Path) -> list[dict[str, Any]]:
    """Return one record for every picture: what the judges saw, and what it is worth against the work list."""
    records: list[dict[str, Any]] = []
    galleries = _Galleries(bench, judges)
    references = np.stack([item.example.reference for item in bench.items])
    for row in ROWS:
        if row == "text":
            records += _judge_text(bench, judges, folder)
            continue
        for items, pixels in _batches(bench.items, partial(_shown, folder, row)):
            reading = judges.read(pixels)
            of_reference = judges.read(to_pixels(list(references[[item.number for item in items]]))).region
            pasted = overlap_of_regions(reading.region, of_reference)
            for place, item in enumerate(items):
                seen = {name: judges.labels[name][int(logit[place].argmax())] for name, logit in reading.logits.items()}
                region = reading.region[place].numpy()
                record = {"row": row, "number": item.number, "group": item.subject, **_control(item, seen, judges)}
                record |= galleries.identity(item, reading.identity[place].numpy())
                record["paste"] = float(pasted[place])
                if row == "oracle" and item.example.region is not None:
                    record["segmenter"] = mask_overlap(item.example.region.round(), region)
                if row == "subject":
                    record |= _mask_figures(_read_masks(_masks_path(folder, item.number)), region)
                records.append(record)
    return records


class _Galleries:
    """The drawings among which each subject has to be found again, embedded once a noun."""

    def __init__(self, bench: StickerBench, judges: Judges) -> None:
        self.bench, self.judges = bench, judges
        self._known: dict[str, tuple[np.ndarray, list[str]]] = {}

    def identity(self, item: Item, embedding: np.ndarray) -> dict[str, float]:
        """Return the figures of identity; none for an item whose sentence recolours the subject."""
        if item.example.facts["colour"]:
            return {}
        noun = item.example.facts["noun"]
        if noun not in self._known:
            portraits = self.bench.gallery(noun)
            pixels = to_pixels([portrait.picture for portrait in portraits])
            inside = (pixels.amin(dim=1) < 0.98).float()
            self._known[noun] = (
                self.judges.describe(pixels, inside)["identity"].numpy(),
                [one.subject for one in portraits],
            )
        gallery, names = self._known[noun]
        if len(set(names)) < 2:
            return {}
        own = [place for place, name in enumerate(names) if name == item.subject]
        return {
            "identity": float(retrieved(embedding, gallery, names) == item.subject),
            "identity_chance": chance_of_retrieval(names, item.subject),
            "similarity": float((gallery[own] @ embedding).max()),
        }


def _control(item: Item, seen: Mapping[str, str], judges: Judges) -> dict[str, float]:
    facts = item.example.facts
    figures = {"place": float(seen["place"] == facts["place"])}
    if facts["reference_place"] != facts["place"]:
        figures["leak"] = float(seen["place"] == facts["reference_place"])
    if facts["colour"]:
        figures["colour"] = float(seen["colour"] == facts["colour"])
    return figures


def _mask_figures(masks: np.ndarray, region: np.ndarray) -> dict[str, Any]:
    side = masks.shape[1:]
    coarse = np.asarray(Image.fromarray(region).resize(side[::-1], Image.Resampling.BOX))
    return {
        "mask": float(np.mean([mask_overlap(mask, coarse) for mask in masks[len(masks) // 2 :]])),
        "mask_random": random_overlap(masks[-1], coarse),
        "mask_all": mask_overlap(np.ones(side, np.float32), coarse),
        "mask_by_step": [mask_overlap(mask, coarse) for mask in masks],
    }


def _judge_text(bench: StickerBench, judges: Judges, folder: Path) -> list[dict[str, Any]]:
    records = []
    for items, pixels in _batches(bench.text_items(), lambda item: _read(_picture_path(folder, "text", item.number))):
        logits = judges.read(pixels).logits
        for place, item in enumerate(items):
            seen = {name: judges.labels[name][int(logit[place].argmax())] for name, logit in logits.items()}
            right = {"place": float(seen["place"] == item.place), "noun": float(seen["noun"] == item.noun)}
            records.append({"row": "text", "number": item.number, "group": item.noun, **right})
    return records


def _shown(folder: Path, row: str, item: Item) -> np.ndarray:
    if row in MADE:
        return _read(_picture_path(folder, row, item.number))
    return item.example.picture if row == "oracle" else item.example.reference


def _read(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


def _batches(
    items: Sequence[Any], picture: Callable[[Any], np.ndarray], size: int = 32
) -> Iterator[tuple[Sequence[Any], Tensor]]:
    for start in range(0, len(items), size):
        part = items[start : start + size]
        yield part, to_pixels([picture(item) for item in part])


FIGURES = (
    "identity", "identity_chance", "similarity", "place", "colour", "noun", "leak", "paste", "mask", "mask_random",
    "mask_all", "segmenter",
)  # fmt: skip
"""What is averaged over the pictures of a row, where a row has it."""


def summarise(records: Sequence[Mapping[str, Any]], bench: StickerBench, about: Mapping[str, Any]) -> dict[str, Any]:
    """Return the report: for every row and figure [mean, low, high], the interval by bootstrap over subjects."""
    rows: dict[str, Any] = {}
    for row in ROWS:
        own = [record for record in records if record["row"] == row]
        groups = [record["group"] for record in own]
        rows[row] = {"pictures": len(own)}
        for name in FIGURES:
            values = [record.get(name, float("nan")) for record in own]
            if not np.all(np.isnan(values)):
                rows[row][name] = [round(value, 4) for value in bootstrap(values, groups)]
    by_step = [record["mask_by_step"] for record in records if "mask_by_step" in record]
    return {
        "benchmark": f"stickers {VERSION}",
        "split": bench.split,
        **about,
        "rows": rows,
        "mask_by_step": np.round(np.mean(by_step, axis=0), 4).tolist() if by_step else [],
    }
