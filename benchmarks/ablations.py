"""What each part of the method and each of its settings is worth, on a part of StickerBench's validation split.

    python benchmarks/ablations.py [TABLE ...] [--steps 15] [--subjects 10] [--prompts 10] [--seeds 1] [--output runs/ablations]

Every row of a table is the model as it ships but for what it says; the first one is the model itself. The table "words" asks
for the subject in a place and nothing else, by one word or another. Prints Markdown tables with means and 95 % intervals over
subjects, and writes every single score beside the pictures. Pictures that are there are kept.
`realcustom compare` takes the folders of the rows, too.
"""

from __future__ import annotations

import argparse
import re
from collections import ChainMap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import tables
import torch
from torch import Tensor, nn

from realcustom import RealCustomPipeline
from realcustom.data.stickers.captions import with_article
from realcustom.data.stickers.drawings import DrawingStore
from realcustom.evaluation.benchmark import Item, StickerBench
from realcustom.evaluation.judges import SHIPPED, Judges
from realcustom.evaluation.methods import UNBOUNDED, Customized, in_batches
from realcustom.evaluation.output import JOURNAL, Settings, write_report
from realcustom.evaluation.run import describe, judge, make_pictures, summarise
from realcustom.loading import fingerprint, load_strictly
from realcustom.painting import take_scheduler

WITH_INTERVALS = ("similarity", "identity", "control")
ALONE = ("place", "colour", "worn", "beside", "position", "mask")
"""Figures of a table with their intervals, and those without."""


class FixedShare(nn.Module):
    """A scoring module whose scores by text and by picture are mixed alike at every noise level (RC 8 without its a_t)."""

    def __init__(self, scoring: nn.Module, share: float) -> None:
        super().__init__()
        self.scoring, self.share = scoring, share

    def forward(self, text: Tensor, latents: Tensor, image: Tensor, alpha: Tensor, **more: Any) -> Tensor:
        """Return the scores."""
        return self.scoring(text, latents, image, torch.full_like(alpha, self.share), **more)


@dataclass(frozen=True)
class Variant:
    """How a row differs from the model."""

    settings: Mapping[str, Any] = field(default_factory=dict)
    change: Callable[[RealCustomPipeline], None] | None = None
    word: Callable[[StickerBench, Item], str] | None = None
    """What an item's subject is called; the list is then that of its places alone."""


def _without_scoring(pipeline: RealCustomPipeline) -> None:
    """Let all of a subject's tokens act alike, and leave all else as it is: a part without scores has RC++'s defaults."""
    pipeline.register_to_config(**pipeline.defaults)
    pipeline.adapter.scoring = None


def _scoring(share: float) -> Callable[[RealCustomPipeline], None]:
    def change(pipeline: RealCustomPipeline) -> None:
        pipeline.adapter.scoring = FixedShare(pipeline.adapter.scoring, share)

    return change


def _layers(*names: str) -> Callable[[RealCustomPipeline], None]:
    return lambda pipeline: pipeline.register_to_config(mask_layers=list(names))


def _without_places(pipeline: RealCustomPipeline) -> None:
    """Let every head attend to all of a subject's tokens alike, wherever they lie; no training has shown it that."""
    for log_precision in pipeline.adapter.log_precisions.values():
        log_precision.data.fill_(-torch.inf)


def _scheduler(name: str) -> Callable[[RealCustomPipeline], None]:
    return lambda pipeline: take_scheduler(pipeline, name)


def _values(name: str, *values: Any, **fixed: Any) -> dict[str, Variant]:
    said = "".join(f", {other} {value}" for other, value in fixed.items())
    return {f"{name} {value}{said}": Variant({name: value, **fixed}) for value in values}


def _called(bench: StickerBench, word: Callable[[StickerBench, Item], str]) -> StickerBench:
    """Return the items of a list that ask for a subject in a place and nothing else, with another word for the subject."""

    def called(item: Item) -> Item:
        old, new = with_article(item.example.word), word(bench, item)
        caption, said = re.subn(rf"\b{re.escape(old)}\b", with_article(new), item.example.caption, count=1)
        assert said, f"{item.example.caption!r} does not say {item.example.word!r}"
        return replace(item, example=replace(item.example, caption=caption, word=new))

    return bench.with_items([called(item) for item in bench.items if item.family in ("scene", "general")])


MODEL = {"the model": Variant()}

TABLES: dict[str, dict[str, Variant]] = {
    "scope": {
        **MODEL,
        **_values("mask_scope", 0.1, 0.25, 0.35, 0.45, 0.6, 0.8, 1.0, final_mask_scope=1.0),
        **_values("final_mask_scope", 0.25, 0.5),
        "soft mask": Variant({"mask_binary": False}),
        "soft mask, mask_scope 0.25": Variant({"mask_binary": False, "mask_scope": 0.25, "final_mask_scope": 1.0}),
    },
    "scoring": {
        **MODEL,
        "no scoring": Variant({}, _without_scoring),
        **_values("token_ratio", 0.9, 0.8, 0.7, 0.5),
        "token_ratio 0.7, by the text alone": Variant({"token_ratio": 0.7}, _scoring(0.0)),
        "token_ratio 0.7, by the picture alone": Variant({"token_ratio": 0.7}, _scoring(1.0)),
        "token_ratio 0.7, plain mean of both": Variant({"token_ratio": 0.7}, _scoring(0.5)),
    },
    "mask": {
        **MODEL,
        "no mask": Variant(UNBOUNDED),
        "no places": Variant({}, _without_places),
        "no places, no mask": Variant(UNBOUNDED, _without_places),
        **_values("mask_frozen_after", 3, 7, 11),
        "yields to no word": Variant({"mask_yields": False}),
        "refined by self-attention": Variant({"mask_refined": True}),
        **{f"mask_layers {name}": Variant({}, _layers(name)) for name in ("mid_block", "down_blocks", "up_blocks")},
        "every layer": Variant({}, _layers("down_blocks", "mid_block", "up_blocks")),
        "mask_source previous": Variant({"mask_source": "previous"}),
        "direct guidance": Variant({"guidance": "direct"}),
        "direct guidance, guidance_scale 3.5": Variant({"guidance": "direct", "guidance_scale": 3.5}),
        "direct guidance, guidance_scale 3.5, mask_source generation": Variant(
            {"guidance": "direct", "guidance_scale": 3.5, "mask_source": "generation"}
        ),
    },
    "guidance": {
        **MODEL,
        **_values("subject_guidance_scale", 1.5, 2.5, 5.0, 7.0),
        **_values("guidance_scale", 1.5, 4.0, 6.0),
        **_values("subject_scale", 0.6, 0.8, 1.2),
    },
    "steps": {
        **MODEL,
        **_values("num_inference_steps", 6, 8, 15, 25),
        "DDIM": Variant({}, _scheduler("DDIM")),
        "Euler": Variant({}, _scheduler("Euler")),
        "UniPC": Variant({}, _scheduler("UniPC")),
    },
    "words": {
        "its noun": Variant(word=lambda _, item: item.example.facts["noun"]),
        "its kind (animal, food, ...)": Variant(word=lambda _, item: item.kind),
        "thing": Variant(word=lambda *_: "thing"),
        "toy": Variant(word=lambda *_: "toy"),
        "the noun of another subject": Variant(word=lambda bench, item: bench.other(item).example.facts["noun"]),
    },
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the tables that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="*", metavar="TABLE", help=f"of {', '.join(TABLES)}")
    parser.add_argument("--model", default="stickers")
    parser.add_argument("--drawings", type=Path, default=Path("runs/stickers/drawings"))
    parser.add_argument("--steps", type=int, help="of every row that does not say its own; the model's if not given")
    parser.add_argument("--subjects", type=int, default=10)
    parser.add_argument("--prompts", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--output", type=Path, default=Path("runs/ablations"))
    options = parser.parse_args(arguments)
    asked = tables.chosen(parser, options.tables, TABLES)
    store, judges = DrawingStore.load(options.drawings), load_strictly(Judges, SHIPPED)
    side = RealCustomPipeline.from_pretrained(options.model).side
    whole = StickerBench(store, "validation", options.subjects, options.prompts, options.seeds, side)

    @cache
    def measured(name: str) -> Mapping[str, Any]:
        variant = ChainMap(*TABLES.values())[name]
        pipeline = RealCustomPipeline.from_pretrained(options.model)
        pipeline.set_progress_bar_config(disable=True)
        if variant.change is not None:
            variant.change(pipeline)
        bench = whole if variant.word is None else _called(whole, variant.word)
        folder = options.output / tables.folder_name(name)
        method, settings = Customized(pipeline), Settings(**{"num_inference_steps": options.steps, **variant.settings})
        about = {**describe(method, bench, settings), "row": name}
        make_pictures(in_batches(method, settings), about, bench, folder, lambda *_: None, ["subject"])
        records = judge(bench, judges, {"subject": folder / "subject"}, folder / JOURNAL)
        report = summarise(records, bench, {**about, "judges": fingerprint(judges)})
        write_report(report, folder)
        return report["rows"]["subject"]

    for table in asked:
        tables.begin(table, *WITH_INTERVALS, *ALONE)
        for name in TABLES[table]:
            figures = measured(name)
            tables.add(
                name,
                *(tables.share(figures.get(figure)) for figure in WITH_INTERVALS),
                *(tables.share(figures[figure][:1] if figure in figures else None) for figure in ALONE),
            )


if __name__ == "__main__":
    main()
