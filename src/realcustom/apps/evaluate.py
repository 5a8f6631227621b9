"""`realcustom evaluate`: a model on a benchmark, judged by networks that know nothing of it."""

from __future__ import annotations

import argparse
import sys

import diffusers

from realcustom.apps.console import quiet_libraries
from realcustom.apps.picture_options import told_by_option
from realcustom.data.stickers.drawings import DrawingStore
from realcustom.errors import InputError
from realcustom.evaluation.benchmark import StickerBench
from realcustom.evaluation.history import training_history
from realcustom.evaluation.judges import SHIPPED, Judges
from realcustom.evaluation.page import write_report
from realcustom.evaluation.run import Settings, judge, make_pictures, summarise
from realcustom.loading import fingerprint, load_strictly, resolve
from realcustom.painting import rehearse, take_scheduler, to_device
from realcustom.pipeline import RealCustomPipeline


def evaluate(options: argparse.Namespace) -> None:
    """Make what pictures are missing, judge them all and write the report.

    Raises:
        InputError: something that is needed is missing, or the output holds something else.
    """
    quiet_libraries()
    for name, count in (("--count", options.count), ("--batch-size", options.batch_size)):
        if count < 1:
            raise InputError(f"{name} must be at least 1, but is {count}")
    folder = resolve(options.model)
    checkpoints = training_history(folder)
    store = DrawingStore.load(options.drawings)
    judges_folder = options.judges or SHIPPED
    if not (judges_folder / "config.json").is_file():
        raise InputError(f"{judges_folder} holds no judges; train them with: realcustom train judges --config RECIPE")
    judges = load_strictly(Judges, judges_folder)
    pipeline = to_device(RealCustomPipeline.from_pretrained(folder), options.device)
    take_scheduler(pipeline, options.scheduler)
    pipeline.set_progress_bar_config(disable=True)
    settings = Settings(
        count=options.count,
        batch_size=options.batch_size,
        num_inference_steps=options.steps,
        guidance_scale=options.guidance_scale,
        subject_guidance_scale=options.subject_guidance_scale,
        mask_scope=options.mask_scope,
        token_ratio=options.token_ratio,
    )
    side = pipeline.unet.config.sample_size * pipeline.vae_scale_factor
    bench = StickerBench(store, options.split, options.count, side)
    with told_by_option():
        rehearse(pipeline, options.steps or pipeline.config.num_inference_steps)
        about = make_pictures(pipeline, bench, settings, options.output, _say)
    records = judge(bench, judges, options.output)
    report = summarise(records, bench, {**about, "judges": fingerprint(judges), "diffusers": diffusers.__version__})
    report["training"] = checkpoints
    write_report(report, records, bench, options.output)
    for row, figures in report["rows"].items():
        values = "  ".join(f"{name} {value[0]:.3f}" for name, value in figures.items() if isinstance(value, list))
        print(f"{row:11}{values}")
    print(options.output / "report.html")


def _say(row: str, done: int, total: int) -> None:
    if sys.stderr.isatty():
        print(f"\r{row}: {done} of {total} ", end="\n" if done == total else "", file=sys.stderr, flush=True)
    elif done == total:  # a file keeps no line that is drawn over and over
        print(f"{row}: {done} of {total}", file=sys.stderr)
