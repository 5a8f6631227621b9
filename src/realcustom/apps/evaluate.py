"""`realcustom evaluate`: a model on a benchmark, judged by networks that know nothing of it."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import diffusers

from realcustom.apps.bench import DRAWINGS, work_list
from realcustom.apps.console import quiet_libraries
from realcustom.apps.picture_options import OPTIONS, refuse_unread, told_by_option
from realcustom.data.stickers.drawings import DrawingStore
from realcustom.errors import InputError
from realcustom.evaluation import dreambench, page, photo_page, photographs
from realcustom.evaluation.benchmark import SUBJECTS, StickerBench
from realcustom.evaluation.cases import WHOLE, Case, digest, dreambench_cases, listed_cases
from realcustom.evaluation.cluster import on_ray
from realcustom.evaluation.comparison import tuning_seconds
from realcustom.evaluation.encoders import load_encoders
from realcustom.evaluation.history import training_history
from realcustom.evaluation.judges import SHIPPED, Judges
from realcustom.evaluation.methods import IMAGE_PROMPT, UNBOUNDED, Customized, Maker, Method, Opening, in_batches
from realcustom.evaluation.output import JOURNAL, OF_SUBJECTS, Settings, claim, write_lines, write_report
from realcustom.evaluation.run import (
    MADE,
    counts_of_whole_list,
    describe,
    judge,
    make_pictures,
    manifest,
    require_pictures,
    summarise,
)
from realcustom.finding import EMBEDDED
from realcustom.loading import fingerprint, load_strictly, resolve
from realcustom.options import load_options
from realcustom.painting import rehearse, unread_settings
from realcustom.pictures import write_picture
from realcustom.pipeline import RealCustomPipeline
from realcustom.prompts import find_word


def evaluate(options: argparse.Namespace) -> None:
    """Make what pictures are missing, measure them all and write the report.

    Raises:
        InputError: something that is needed is missing, or the output holds something else.
    """
    quiet_libraries()
    for name, folder in (("output", options.output), ("pictures", options.pictures)):
        if folder is not None and folder.exists() and not folder.is_dir():
            raise InputError(f"--{name} must be a folder, but {folder} is none")
    if options.pictures is not None and not options.pictures.exists():
        raise InputError(f"there is no folder {options.pictures} for --pictures")
    if options.pictures is not None:
        unread = (*_OF_RUNS, "device") if options.benchmark == "stickers" else _OF_RUNS
        _refuse_beside(options, "--pictures, which makes none", unread)
    for name in ("batch_size", "subjects", "prompts", "seeds"):
        if getattr(options, name) is not None and getattr(options, name) < 1:
            raise InputError(f"--{name.replace('_', '-')} must be at least 1, but is {getattr(options, name)}")
    if options.benchmark == "stickers":
        _refuse(options, "benchmarks of photographs", _OF_PHOTOGRAPHS)
        _evaluate_stickers(options)
    else:
        _refuse(options, "stickers", _OF_STICKERS)
        _evaluate_photographs(options)


_OF_STICKERS = ("split", "subset", "subjects", "rows", "drawings", "judges")
_ENCODERS = ("clip", "dino", "segmenter", "image_reward", "lpips")
_OF_PHOTOGRAPHS = ("photographs", "only", *_ENCODERS)
"""Options that only one kind of benchmark knows."""


STICKERS = "stickers"
"""The model that is measured if none is named."""

_SETTINGS = {one.name for one in fields(Settings)}
_OF_SUBJECTS = (*OF_SUBJECTS, "mask_layers")
"""Options that only a RealCustom part reads."""


_OF_RUNS = (
    "model", "method", "set", "adapter", "dtype", "ray", "batch_size", "rows", "mask_refined", "mask_layers",
    *(option.replace("-", "_") for option, name in OPTIONS.items() if name in _SETTINGS or name == "scheduler"),
)  # fmt: skip
"""Options that nothing reads where no picture is made; the encoders of photographs have a device in any case."""


def _given(options: argparse.Namespace, names: Sequence[str]) -> list[str]:
    return [f"--{name.replace('_', '-')}" for name in names if getattr(options, name) is not None]


def _refuse_beside(options: argparse.Namespace, what: str, names: Sequence[str]) -> None:
    if given := _given(options, names):
        raise InputError(f"{', '.join(given)} would have no effect beside {what}; leave it out")


def _refuse(options: argparse.Namespace, owner: str, names: Sequence[str]) -> None:
    if given := _given(options, names):
        raise InputError(f"{', '.join(given)} can be used with {owner} only, not with --benchmark {options.benchmark}")


def _refuse_unread(
    options: argparse.Namespace, pipeline: RealCustomPipeline, settings: Settings, evaluations: int
) -> None:
    names = ("guidance_scale", *_OF_SUBJECTS)
    given = {name.replace("_", "-"): name for name in names if getattr(options, name) is not None}
    chosen = settings.arguments() | settings.subject_arguments()
    chosen.pop("subject_scale", None)
    with told_by_option():
        run = pipeline.settled(height=pipeline.side, width=pipeline.side, **chosen)
    refuse_unread(given, [unread_settings(pipeline, run, evaluations)])


class _Making(NamedTuple):
    """What makes the pictures of a run."""

    method: Method
    settings: Settings
    maker: Maker


def _making(options: argparse.Namespace) -> _Making:
    """Return what makes the pictures of a run, by the options of the command.

    Raises:
        InputError: the model cannot be opened so, or the options contradict each other.
    """
    way = options.method or "realcustom"
    tuned = way not in ("realcustom", "image-prompt")
    _refuse_contradictions(options, way, tuned=tuned)
    settings = _settings(options, way)
    opening = Opening(
        _absolute(options.model or STICKERS), options.adapter and _absolute(options.adapter), options.device,
        options.dtype or "float32", options.scheduler, tuple(options.mask_layers or ()), way,
    )  # fmt: skip
    # Where workers make the pictures, this machine only says of which model they are.
    here = opening if options.ray is None else replace(opening, device="cpu")
    method = _tuned(here, options) if tuned else here.method()
    with told_by_option():
        defaults = method.pipeline.defaults
        evaluations = rehearse(method.pipeline, options.steps or defaults["num_inference_steps"])
    _refuse_unread(options, method.pipeline, settings, evaluations)
    if options.ray is not None:
        return _Making(method, settings, on_ray(options.ray, opening, method, settings))
    return _Making(method, settings, in_batches(method, settings))


def _refuse_contradictions(options: argparse.Namespace, way: str, *, tuned: bool) -> None:
    if tuned:
        _refuse_beside(options, "a recipe of tuning, which has no RealCustom part", ("adapter", *_OF_SUBJECTS))
        _refuse_beside(options, "a recipe of tuning, whose precision the recipe says", ("dtype",))
        _refuse_beside(options, "a recipe of tuning, whose tuned models stay on this machine", ("ray",))
        if not Path(way).is_file():
            raise InputError(f"--method is realcustom, image-prompt or a recipe of tuning, but {way} is no file")
        if options.benchmark == "dreambench-pairs":
            raise InputError("a recipe of tuning learns one subject; --benchmark dreambench-pairs shows two")
    else:
        _refuse_beside(options, f"--method {way}, which is no recipe of tuning", ("set",))
    if options.ray is not None:
        _refuse_beside(options, "--ray, where every picture is a task", ("batch_size",))
    if way == "image-prompt":
        _refuse_beside(options, "--method image-prompt, which acts in all of the picture", tuple(UNBOUNDED))


def _settings(options: argparse.Namespace, way: str) -> Settings:
    given = {name: getattr(options, option.replace("-", "_")) for option, name in OPTIONS.items() if name in _SETTINGS}
    if options.batch_size is not None:
        given["batch_size"] = options.batch_size
    if way == "image-prompt":
        given = {**IMAGE_PROMPT, **{name: value for name, value in given.items() if value is not None}}
    return Settings(mask_refined=options.mask_refined, **given)


def _absolute(name: str) -> str:
    """Return a folder's whole path, and the name of a model as it is."""
    return str(Path(name).absolute()) if name not in EMBEDDED and Path(name).is_dir() else name


def _tuned(opening: Opening, options: argparse.Namespace) -> Method:
    from realcustom.training.tuning import Tuned, TuningRecipe  # needs accelerate, which is an extra

    recipe = load_options(TuningRecipe, Path(options.method), options.set or ())
    return Tuned(opening.pipeline(), recipe, options.output)


def _evaluate_stickers(options: argparse.Namespace) -> None:
    output = options.output
    store = DrawingStore.load(options.drawings or DRAWINGS)
    judges_folder = options.judges or SHIPPED
    if not (judges_folder / "config.json").is_file():
        raise InputError(f"{judges_folder} holds no judges; train them with: realcustom train judges --config RECIPE")
    judges = load_strictly(Judges, judges_folder)
    if options.pictures is not None:
        bench = work_list(options, store)
        require_pictures(bench, options.pictures)
        about: dict[str, Any] = {"bench": bench.digest(), "count": len(bench.items), "made by": str(options.pictures)}
        folders, checkpoints = {"subject": options.pictures}, []
        claim(output, about)
    else:
        checkpoints = training_history(resolve(options.model or STICKERS))
        making = _making(options)
        bench = work_list(options, store, making.method.pipeline.side)
        rows = options.rows or _rows(making.method, bench)
        about = describe(making.method, bench, making.settings)
        progress = Progress()
        with told_by_option():
            make_pictures(making.maker, about, bench, output, progress.say, rows)
        if isinstance(making.method, Customized):
            progress.tell(counts_of_whole_list(bench, rows))
        else:
            _tell_tuning(output, SUBJECTS)
        folders = {row: output / row for row in rows}
        write_lines(manifest(bench, folders), output / "manifest.jsonl")
    records = judge(bench, judges, folders, output / JOURNAL, Progress().say)
    report = summarise(records, bench, {**about, "judges": fingerprint(judges), "diffusers": diffusers.__version__})
    report["training"] = checkpoints
    write_report(report, output)
    page.write_page(report, bench, folders, output)
    _print_rows(report)
    print(output / "report.html")


def _rows(method: Method, bench: StickerBench) -> Sequence[str]:
    """Return the rows that are made if none is named."""
    if not isinstance(method, Customized):
        return ("subject",)
    return MADE if len(bench.one_each()) > 1 else [row for row in MADE if row != "wrong"]


def _evaluate_photographs(options: argparse.Namespace) -> None:
    cases, output = _cases(options), options.output
    # With --ray the device is that of the workers.
    encoders = load_encoders(
        **{name: getattr(options, name) for name in _ENCODERS}, device=None if options.ray else options.device
    )
    for name, reason in encoders.missing:
        print(f"{name}: not measured: {reason}", file=sys.stderr)
    if options.pictures is not None:
        photographs.require_pictures(cases, options.pictures)
        about: dict[str, Any] = {"cases": digest(cases), "count": len(cases), "made by": str(options.pictures)}
        folders = {"subject": options.pictures}
        claim(output, about)
    else:
        making, progress = _making(options), Progress()
        said = dict.fromkeys((case.prompt, word, which) for case in cases for word, which in case.words)
        for prompt, word, occurrence in said:  # now, and not hours later
            find_word(prompt, word, making.method.pipeline.tokenizer, occurrence=occurrence)
        about = photographs.describe(making.method, cases, making.settings)
        with told_by_option():
            photographs.make_pictures(making.maker, about, cases, output, progress.say)
        if isinstance(making.method, Customized):
            progress.tell(dict.fromkeys(photographs.MADE, len(cases) if options.photographs is None else WHOLE))
        else:
            _tell_tuning(
                output, len({case.group for case in cases} if options.photographs is None else dreambench.CLASSES)
            )
        folders = {row: output / row for row in photographs.MADE}
        write_lines(photographs.manifest(output, cases), output / "manifest.jsonl")
    records = photographs.score(cases, encoders, folders, output / JOURNAL, Progress().say)
    report = photographs.summarise(
        records,
        {
            "benchmark": str(options.benchmark),
            **about,
            "encoders": encoders.names(),
            "diffusers": diffusers.__version__,
        },
    )
    write_report(report, output)
    photo_page.write_page(report, cases, folders, output / "report.html")
    write_picture(photo_page.grid(cases, folders), output / "grid.png")
    for name, told in report["encoders"].items():
        print(f"{name:13}{told}")
    _print_rows(report)
    print(output / "report.html")


def _cases(options: argparse.Namespace) -> list[Case]:
    """Return the work list that the options name."""
    seeds = options.seeds or dreambench.SEEDS
    if options.benchmark not in ("dreambench", "dreambench-pairs"):
        if options.photographs is not None or options.only is not None or options.prompts is not None:
            raise InputError("--photographs, --only and --prompts are for dreambench; a folder lists its own")
        return listed_cases(Path(options.benchmark), seeds)
    if options.photographs is None:
        raise InputError(
            "DreamBench needs its photographs: --photographs FOLDER, the dataset of github.com/google/dreambooth"
        )
    return dreambench_cases(
        options.photographs,
        pairs=options.benchmark == "dreambench-pairs",
        subjects=options.only,
        prompts=options.prompts or dreambench.SENTENCES,
        seeds=seeds,
    )


def _print_rows(report: Mapping[str, Any]) -> None:
    for row, figures in report["rows"].items():
        values = "  ".join(f"{name} {value[0]:.3f}" for name, value in figures.items() if isinstance(value, list))
        print(f"{row:13}{values or 'not measured'}")


def _tell_tuning(output: Path, subjects: int) -> None:
    """Tell how long a subject took to learn, which is nearly all that such a run costs, and so all of the whole list."""
    seconds = tuning_seconds(output)
    if seconds is not None:
        hours = seconds * subjects / 3600
        print(
            f"{seconds:.0f} s to learn each of {subjects} subjects: {hours:.1f} h for the whole list", file=sys.stderr
        )


class Progress:
    """Says how far a run is, and what the whole list would cost at its pace."""

    def __init__(self) -> None:
        self._since = time.monotonic()
        self._there: dict[str, int] = {}
        self._made: dict[str, int] = {}
        self._seconds: dict[str, float] = {}

    def say(self, row: str, done: int, total: int) -> None:
        """Tell how many pictures of a row are there."""
        now = time.monotonic()
        if row in self._there:
            self._made[row] = self._made.get(row, 0) + done - self._there[row]
            self._seconds[row] = self._seconds.get(row, 0.0) + now - self._since
        self._there[row], self._since = done, now
        if sys.stderr.isatty():
            print(f"\r{row}: {done} of {total} ", end="\n" if done == total else "", file=sys.stderr, flush=True)
        elif done == total:  # a file keeps no line that is drawn over and over
            print(f"{row}: {done} of {total}", file=sys.stderr)

    def tell(self, whole: Mapping[str, int]) -> None:
        """Tell how long a picture of each row took of which any was made, and so all of them that the whole list has."""
        paces = {row: self._seconds[row] / made for row, made in self._made.items() if made}
        if paces:
            hours = sum(pace * whole[row] for row, pace in paces.items()) / 3600
            told = ", ".join(f"{pace:.2f} s a picture of {whole[row]} ({row})" for row, pace in paces.items())
            print(f"{told}: {hours:.1f} h for the whole list", file=sys.stderr)
