"""`realcustom evaluate`: a model on a benchmark, judged by networks that know nothing of it."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import diffusers

from realcustom.apps.bench import DRAWINGS, work_list
from realcustom.apps.console import quiet_libraries
from realcustom.apps.picture_options import OPTIONS, told_by_option
from realcustom.data.stickers.drawings import DrawingStore
from realcustom.errors import InputError
from realcustom.evaluation import photographs
from realcustom.evaluation.cases import Case, digest, dreambench_cases, listed_cases
from realcustom.evaluation.encoders import load_encoders
from realcustom.evaluation.history import training_history
from realcustom.evaluation.judges import SHIPPED, Judges
from realcustom.evaluation.methods import Customized, Method
from realcustom.evaluation.output import Settings, claim, write_lines
from realcustom.evaluation.page import write_report
from realcustom.evaluation.photo_page import write_page
from realcustom.evaluation.run import MADE, judge, make_pictures, require_pictures, summarise
from realcustom.loading import fingerprint, load_strictly, resolve
from realcustom.options import load_options
from realcustom.painting import rehearse, take_scheduler, to_device
from realcustom.pipeline import RealCustomPipeline, check_layers


def evaluate(options: argparse.Namespace) -> None:
    """Make what pictures are missing, measure them all and write the report.

    Raises:
        InputError: something that is needed is missing, or the output holds something else.
    """
    quiet_libraries()
    for name in ("batch_size", "prompts", "seeds"):
        if getattr(options, name) is not None and getattr(options, name) < 1:
            raise InputError(f"--{name.replace('_', '-')} must be at least 1, but is {getattr(options, name)}")
    if options.benchmark == "stickers":
        _refuse(options, "benchmarks of photographs", _OF_PHOTOGRAPHS)
        _evaluate_stickers(options)
    else:
        _refuse(options, "stickers", _OF_STICKERS)
        _evaluate_photographs(options)


_OF_STICKERS = ("split", "subset", "rows", "method", "adapter", "drawings", "judges")
_OF_PHOTOGRAPHS = ("photographs", "subjects", "clip", "dino", "segmenter")
"""Options that only one kind of benchmark knows."""


_SETTINGS = {one.name for one in fields(Settings)}
_OF_SUBJECTS = (
    "guidance", "subject_guidance_scale", "subject_scale", "mask_scope", "mask_binary", "mask_refined", "mask_layers",
    "mask_frozen_after", "mask_source", "token_ratio",
)  # fmt: skip
"""Options that only a RealCustom part reads."""


_OF_METHODS = ("method", "adapter", "rows", "scheduler", "mask_refined", "mask_layers")


def _given(options: argparse.Namespace, names: Sequence[str]) -> list[str]:
    return [f"--{name.replace('_', '-')}" for name in names if getattr(options, name) not in (None, False)]


def _refuse_beside(options: argparse.Namespace, what: str, names: Sequence[str]) -> None:
    if given := _given(options, names):
        raise InputError(f"{', '.join(given)} would have no effect beside {what}; leave it out")


def _refuse(options: argparse.Namespace, owner: str, names: Sequence[str]) -> None:
    if given := _given(options, names):
        raise InputError(f"{', '.join(given)} can be used with {owner} only, not with --benchmark {options.benchmark}")


def _pipeline(options: argparse.Namespace) -> tuple[RealCustomPipeline, Settings]:
    """Return the model that is measured, and how it makes pictures."""
    part = {} if options.adapter is None else {"adapter": options.adapter}
    pipeline = to_device(RealCustomPipeline.from_pretrained(resolve(options.model), **part), options.device)
    take_scheduler(pipeline, options.scheduler)
    pipeline.set_progress_bar_config(disable=True)
    if options.mask_layers:
        check_layers(pipeline.unet, options.mask_layers)
        pipeline.register_to_config(mask_layers=options.mask_layers)
    given = {name: getattr(options, option.replace("-", "_")) for option, name in OPTIONS.items() if name in _SETTINGS}
    settings = Settings(batch_size=options.batch_size, mask_refined=options.mask_refined or None, **given)
    with told_by_option():
        rehearse(pipeline, options.steps or pipeline.config.num_inference_steps)
    return pipeline, settings


def _evaluate_stickers(options: argparse.Namespace) -> None:
    output = options.output
    store = DrawingStore.load(options.drawings or DRAWINGS)
    judges_folder = options.judges or SHIPPED
    if not (judges_folder / "config.json").is_file():
        raise InputError(f"{judges_folder} holds no judges; train them with: realcustom train judges --config RECIPE")
    judges = load_strictly(Judges, judges_folder)
    if options.pictures is not None:
        of_runs = [option.replace("-", "_") for option, name in OPTIONS.items() if name in _SETTINGS]
        _refuse_beside(options, "--pictures, which makes none", [*of_runs, *_OF_METHODS])
        bench = work_list(options, store)
        require_pictures(bench, options.pictures)
        about: dict[str, Any] = {"bench": bench.digest(), "count": len(bench.items), "made by": str(options.pictures)}
        folders, checkpoints = {"subject": options.pictures}, []
        claim(output, about)
    else:
        checkpoints = training_history(resolve(options.model))
        pipeline, settings = _pipeline(options)
        method = _method(options, pipeline)
        bench = work_list(options, store, pipeline.unet.config.sample_size * pipeline.vae_scale_factor)
        rows = options.rows or (MADE if isinstance(method, Customized) else ("subject",))
        with told_by_option():
            about = make_pictures(method, bench, settings, output, _say, rows)
        folders = {row: output / row for row in rows}
    records = judge(bench, judges, folders)
    report = summarise(records, bench, {**about, "judges": fingerprint(judges), "diffusers": diffusers.__version__})
    report["training"] = checkpoints
    write_report(report, records, bench, folders, output)
    _print_rows(report)
    print(output / "report.html")


def _method(options: argparse.Namespace, pipeline: RealCustomPipeline) -> Method:
    """Return what makes the pictures of subjects."""
    name = options.method or "realcustom"
    if name in ("realcustom", "image-prompt"):
        return Customized(pipeline, everywhere=name == "image-prompt")
    _refuse_beside(options, "a recipe of tuning, which has no RealCustom part", ("adapter", *_OF_SUBJECTS))
    if not Path(name).is_file():
        raise InputError(f"--method is realcustom, image-prompt or a recipe of tuning, but {name} is no file")
    from realcustom.training.tuning import Tuned, TuningRecipe  # needs accelerate, which is an extra

    return Tuned(pipeline, load_options(TuningRecipe, Path(name), ()), options.output)


def _evaluate_photographs(options: argparse.Namespace) -> None:
    cases, output = _cases(options), options.output
    encoders = load_encoders(
        **{name: getattr(options, name) for name in ("clip", "dino", "segmenter") if getattr(options, name) is not None}
    )
    if options.pictures is not None:
        photographs.require_pictures(cases, options.pictures)
        about: dict[str, Any] = {"cases": digest(cases), "count": len(cases), "made by": str(options.pictures)}
        folders = {"subject": options.pictures}
        claim(output, about)
    else:
        pipeline, settings = _pipeline(options)
        with told_by_option():
            about = photographs.make_pictures(pipeline, cases, settings, output, _say)
        folders = {row: output / row for row in photographs.MADE}
        write_lines(photographs.manifest(output, cases), output / "manifest.jsonl")
    records = photographs.score(cases, encoders, folders)
    report = photographs.summarise(
        records,
        {
            "benchmark": str(options.benchmark),
            **about,
            "encoders": encoders.names(),
            "diffusers": diffusers.__version__,
        },
    )
    write_lines(records, output / "records.jsonl")
    (output / "report.json").write_text(json.dumps(report, indent=1), "utf-8")
    write_page(report, records, cases, folders, output / "report.html")
    for name, told in report["encoders"].items():
        print(f"{name:11}{told}")
    _print_rows(report)
    print(output / "report.html")


def _cases(options: argparse.Namespace) -> list[Case]:
    """Return the work list that the options name."""
    seeds = options.seeds or 4
    if options.benchmark not in ("dreambench", "dreambench-pairs"):
        if options.photographs is not None or options.subjects is not None or options.prompts is not None:
            raise InputError("--photographs, --subjects and --prompts are for dreambench; a folder lists its own")
        return listed_cases(Path(options.benchmark), seeds)
    if options.photographs is None:
        raise InputError(
            "DreamBench needs its photographs: --photographs FOLDER, the dataset of github.com/google/dreambooth"
        )
    return dreambench_cases(
        options.photographs,
        pairs=options.benchmark == "dreambench-pairs",
        subjects=options.subjects,
        prompts=options.prompts or 25,
        seeds=seeds,
    )


def _print_rows(report: Mapping[str, Any]) -> None:
    for row, figures in report["rows"].items():
        values = "  ".join(f"{name} {value[0]:.3f}" for name, value in figures.items() if isinstance(value, list))
        print(f"{row:11}{values or 'not measured'}")


def _say(row: str, done: int, total: int) -> None:
    if sys.stderr.isatty():
        print(f"\r{row}: {done} of {total} ", end="\n" if done == total else "", file=sys.stderr, flush=True)
    elif done == total:  # a file keeps no line that is drawn over and over
        print(f"{row}: {done} of {total}", file=sys.stderr)
