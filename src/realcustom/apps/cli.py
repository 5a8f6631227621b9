"""The command `realcustom`: words into calls, and errors into messages. No tensor is touched here.

Nothing heavy is imported until a command needs it, so that `--help` answers at once.
"""

from __future__ import annotations

import argparse
import importlib
import io
import logging
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from realcustom import __version__
from realcustom.errors import OUT_OF_MEMORY, InputError, OutOfMemory, RealCustomError, in_one_line

EXIT_FAILED, EXIT_WRONG_INPUT, EXIT_INTERRUPTED = 1, 2, 130

_DTYPES = ("float32", "float16", "bfloat16")

_EXTRAS = {"accelerate": "train", "resvg_py": "train", "shtab": "completion"}
"""Modules that need not be there, and the extra of this package that brings each."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0, 1 failed, 2 wrong usage or input, 130 interrupted.

    What the input, the machine or the user brings about is told in one line; a bug shows its traceback.
    """
    options = argparse.Namespace(less="")
    _let_output_take_any_letter()
    try:
        _run(sys.argv[1:] if arguments is None else arguments, options)
    except InputError as error:
        return _complain(error, EXIT_WRONG_INPUT)
    except OutOfMemory as error:
        return _complain(_outer_reason(error, options.less), EXIT_FAILED)
    except (RealCustomError, FloatingPointError) as error:
        return _complain(error, EXIT_FAILED)
    except KeyboardInterrupt:
        return _complain("interrupted", EXIT_INTERRUPTED)
    except BrokenPipeError:  # whoever reads the output has seen enough
        return EXIT_FAILED
    except Exception as error:
        reason = _outer_reason(error, options.less)
        if reason is None:
            raise
        return _complain(reason, EXIT_FAILED)
    return 0


def _let_output_take_any_letter() -> None:
    """Let a letter that the terminal's or file's encoding has not be written as its escape."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _run(arguments: Sequence[str], options: argparse.Namespace) -> None:
    try:
        _refuse_other_encodings(arguments)
        _parser().parse_args(arguments, options)
        logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
        logging.getLogger("realcustom").setLevel(logging.INFO)
        options.run(options)
    finally:
        _finish_output()


def _refuse_other_encodings(arguments: Sequence[str]) -> None:
    """Python hands on bytes that are not UTF-8 as lone surrogates, which no tokenizer and no JSON can take."""
    for argument in arguments:
        if any("\ud800" <= letter <= "\udfff" for letter in argument):
            raise InputError(f"the argument {argument!r} is not UTF-8; write it, or name the file, in UTF-8")


def _finish_output() -> None:
    """Write out what is held back: at the interpreter's end nobody could answer if it cannot be written."""
    if sys.stdout is None:  # closed before the start
        return
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # where the interpreter can flush it
        raise


def _outer_reason(error: Exception, less: str) -> str | None:
    """Return what to tell if disk, memory or installation, and no bug, ended the command; None otherwise.

    Args:
        error: what ended it.
        less: options of the command that, lowered, need less memory.
    """
    if isinstance(error, ModuleNotFoundError) and error.name in _EXTRAS:
        return f'{error}; install what is missing with: pip install "realcustom[{_EXTRAS[error.name]}]"'
    told = str(error)
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and any(s in told for s in OUT_OF_MEMORY)):
        return f"not enough memory{less and f'; lower {less}'}"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror if error.filename is None else f"{error.filename}: {error.strerror}"
    return told if isinstance(error, OSError) or "(os error " in told else None  # the latter is safetensors' way


def _complain(message: object, code: int) -> int:
    print(f"realcustom: {in_one_line(message)}", file=sys.stderr)
    return code


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Shows each example on a line of its own, and the defaults that are values."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return text if text.startswith(_EXAMPLES) else super()._fill_text(text, width, indent)

    def _get_help_string(self, action: argparse.Action) -> str | None:
        plain = action.nargs == 0 or action.default is None or action.default == []
        return action.help if plain else super()._get_help_string(action)


class _Parser(argparse.ArgumentParser):
    """Takes every negative number for a value, where argparse only takes those without an exponent.

    Args:
        intermixed: options may also stand between two positional arguments of which the first may be left out.
        **options: of argparse.
    """

    def __init__(self, *, intermixed: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self._intermixed = intermixed
        self._negative_number_matcher = re.compile(
            r"-(\d[\d_]*\.?\d*|\.\d+)(e[+-]?\d+)?|-inf(inity)?|-nan", re.IGNORECASE
        )

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Return what was told, and what of it is not known."""
        if not self._intermixed:
            return super().parse_known_args(args, namespace)
        self._intermixed = False  # argparse's own way of intermixing calls this again
        try:
            return self.parse_known_intermixed_args(args, namespace)
        finally:
            self._intermixed = True


class _Once(argparse.Action):
    """Keeps the values of an option that may be given once."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: object, option: str | None = None
    ) -> None:
        if getattr(namespace, self.dest) is not None:
            parser.error(f"{option} was given twice; an axis has all its values after one {option}")
        setattr(namespace, self.dest, values)


def _frozen_after(text: str) -> int | str:
    return text if text == "never" else int(text)


def _file(name: str) -> Path:
    """Return the path of a name."""
    if not name:
        raise argparse.ArgumentTypeError("the name of a file is empty; leave the option out, or give a name")
    return Path(name)


_EXAMPLES = "examples:"


def _examples(*commands: str) -> str:
    return "\n  ".join([_EXAMPLES, *(f"realcustom {command}" for command in commands)])


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="realcustom",
        description="Make pictures of one given subject that obey a sentence. Every command has a --help of its own.",
        epilog=_examples('generate toy.png "a robot on the beach" --word robot', 'words "a robot on the beach"'),
        formatter_class=_Help,
    )
    parser.add_argument("--version", action="version", version=f"realcustom {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_generate(commands)
    _add_replay(commands)
    _add_sweep(commands)
    _add_batch(commands)
    _add_data(commands)
    _add_train(commands)
    _add_evaluate(commands)
    _add_compare(commands)
    _add_words(commands)
    _add_subject_commands(commands)
    _add_convert(commands)
    _add_models(commands)
    _add_licenses(commands)
    _add_doctor(commands)
    _add_completion(commands)
    return parser


def _add_generate(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "generate",
        intermixed=True,
        help="make pictures of the subject of a picture",
        description="Make pictures of the subject of SUBJECT that obey PROMPT. --word names the subject in the prompt.",
        epilog=_examples(
            'generate toy.png "a robot on the beach" --word robot --seed 7',
            'generate toy.png "a purple toy in the snow" --word toy --num-images 4 --output toys.png --save-masks',
            'generate "a dog and a cat on the beach" --subject dog.png:dog --subject cat.png:cat:scale=0.8',
            'generate dog.png "a dog on the beach" --word dog --then "the dog wearing a crown at night" dog',
        ),
        formatter_class=_Help,
    )
    add = parser.add_argument
    add("subject", metavar="SUBJECT", type=_file, nargs="?", help="picture of the subject, or a saved subject")
    add("prompt", metavar="PROMPT", help="what the new picture shows")
    add("--word", help="word or phrase of the prompt that stands for the subject; that of a saved subject if not given")
    add(
        "--subject", action="append", default=[], dest="subjects", metavar="IMAGE:WORD[:NAME=VALUE...]",
        help="one of several subjects, in the place of SUBJECT and --word; of it can be said: occurrence, scale, mask, "
        "mask-mode, start, end (shares of the run), box (left,top,right,bottom in pixels); the same WORD again gives a "
        "further picture of the same subject, with its weight",
    )  # fmt: skip
    add(
        "--then", action="append", nargs="+", metavar=("PROMPT", "WORD"),
        help="a further round, whose subject is the result of the one before; WORD stands for it in PROMPT",
    )  # fmt: skip
    add(
        "--output", "-o", type=_file,
        help="PNG to write; with several pictures a number is added to its name; made of PROMPT and the seed if not given",
    )  # fmt: skip
    add("--overwrite", action="store_true", help="replace files that exist")
    add("--seed", type=int, help="seed of the first picture, the next ones count up; a random one if not given")
    add("--num-images", type=int, default=1, metavar="N", help="how many pictures")
    add(
        "--best-of", type=int, metavar="N",
        help="make N pictures and keep those that no other one surpasses in likeness and in obedience; embedded model only",
    )  # fmt: skip
    add("--mask", type=_file, metavar="PICTURE", help="where the subject may act: white there, black elsewhere")
    add(
        "--mask-mode", choices=("replace", "intersect", "union"),
        help="a given mask replaces the word's, if not given, or both are intersected or united",
    )  # fmt: skip
    add(
        "--twin", action="store_true",
        help="also make the same seed without the subject, and a picture of both; about 1.7 times the time",
    )  # fmt: skip
    add("--save-masks", action="store_true", help="also write each picture's masks: of every step, a strip of some, "
        "the last one, to be edited and given back with --mask, and that over the picture")  # fmt: skip
    add("--no-metadata", action="store_false", dest="metadata", help="do not write into the PNG how it was made")
    _add_run_options(parser)
    parser.set_defaults(run=_program("generate"), less="--num-images, or --width and --height")


def _program(name: str) -> Callable[[argparse.Namespace], None]:
    """Return the function of a module of its name, which is imported, with all that it needs, when it is called."""

    def run(options: argparse.Namespace) -> None:
        getattr(importlib.import_module(f"realcustom.apps.{name}"), name)(options)

    return run


def _add_subject(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("subject", metavar="SUBJECT", type=_file, help="picture of the subject, or a saved subject")
    add("prompt", metavar="PROMPT", help="what the new picture shows")
    add("--word", required=True, help="word or phrase of the prompt that stands for the subject")


def _add_run_options(parser: argparse.ArgumentParser) -> None:
    """Add how pictures are made, for which the model's own values stand if nothing is given, by what, and what is told."""
    add = parser.add_argument
    add("--occurrence", type=int, metavar="N", help="which one, if the prompt says the word more than once; from 1")
    add("--negative-prompt", metavar="TEXT", help="what the picture shall not show")
    add("--width", type=int, metavar="PIXELS", help="of the pictures; the model's own if not given")
    add("--height", type=int, metavar="PIXELS", help="of the pictures; the model's own if not given")
    _add_denoising_options(parser)
    add("--model", default="stickers", help="embedded model, folder or hub id")
    add("--adapter", metavar="NAME", help="folder or hub id of a RealCustom part, for a model that has none of its own")
    add("--device", help="cpu, cuda, mps, ...; the best that there is if not given")
    add("--dtype", default="float32", choices=_DTYPES, help="of the model's numbers")
    add("--json", action="store_true", help="print one JSON object about the run on standard output")


def _add_denoising_options(parser: argparse.ArgumentParser) -> None:
    """Add what a run of the denoising loop is told; the model's own values stand if nothing is given."""
    add = parser.add_argument
    add("--steps", type=int, metavar="N", help="denoising steps; the model's own number if not given")
    add("--scheduler", metavar="NAME", help="sampler, for example ddim, dpm++ or euler; the model's own if not given")
    add(
        "--guidance-scale",
        type=float,
        metavar="W",
        help="w_t, how strongly the text is followed; the model's own if not given",
    )
    add(
        "--subject-guidance-scale", type=float, metavar="W",
        help="w_i, how strongly the subject is followed; the model's own if not given",
    )  # fmt: skip
    add(
        "--guidance", choices=("cascade", "direct"),
        help="how predictions become one: RC 13, or straight from the negative to the subject's; the model's own if not given",
    )  # fmt: skip
    add("--subject-scale", type=float, metavar="S", help="strength of the subject inside the model; 1 if not given")
    add(
        "--mask-scope", type=float, metavar="SHARE",
        help="gamma_scope, share of the picture where the subject may act at first; the model's own if not given",
    )  # fmt: skip
    add(
        "--final-mask-scope", type=float, metavar="SHARE",
        help="what that share is narrowed to in the second half of the run; the model's own if not given",
    )  # fmt: skip
    add(
        "--token-ratio", type=float, metavar="SHARE",
        help="gamma_num, share of its features that act; the model's own if not given",
    )  # fmt: skip
    add(
        "--mask-binary", action=argparse.BooleanOptionalAction,
        help="whether the subject acts alike in the whole scope; as the model has it if not given",
    )  # fmt: skip
    add(
        "--mask-yields", action=argparse.BooleanOptionalAction,
        help="whether the subject leaves cells to words after its own that stand out far more there, such as what it "
        "wears; as the model has it if not given",
    )  # fmt: skip
    add(
        "--mask-frozen-after", type=_frozen_after, metavar="N|never",
        help="keep the mask of this step, from 1; as the model has it if not given",
    )  # fmt: skip
    add(
        "--mask-source", choices=("text", "encoder", "previous", "generation"),
        help="which call of the UNet gives the mask; text, the exact one, if not given",
    )  # fmt: skip
    add(
        "--guidance-start",
        type=float,
        metavar="SHARE",
        help="of the run, before which nothing is guided; 0 if not given",
    )
    add("--guidance-end", type=float, metavar="SHARE", help="of the run, after which nothing is guided; 1 if not given")
    add("--cache-interval", type=int, metavar="N", help="call the UNet's deep blocks in every Nth step; 1 if not given")


def _add_replay(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "replay",
        help="make a picture again from what it says of itself",
        description="Make PICTURE again from the settings inside it, with the SUBJECT that it was made of, and compare.",
        epilog=_examples("replay a-robot-on-the-beach-7.png toy.png"),
        formatter_class=_Help,
    )
    add = parser.add_argument
    add("picture", metavar="PICTURE", type=_file, help="a PNG that realcustom has made")
    add(
        "subjects", metavar="SUBJECT", nargs="+", type=_file,
        help="what it was made of: the subject's picture, or all pictures of several subjects in their order",
    )  # fmt: skip
    add(
        "--mask", type=_file, nargs="+", dest="masks", default=[], metavar="PICTURE",
        help="the masks that it was made with, if any, in the order of their subjects",
    )  # fmt: skip
    add("--output", "-o", type=_file, help="PNG to write; PICTURE's name with -again added if not given")
    add("--overwrite", action="store_true", help="replace files that exist")
    add("--model", help="embedded model, folder or hub id; the one that PICTURE names if not given")
    add("--adapter", metavar="NAME", help="folder or hub id of the RealCustom part, if PICTURE was made with one")
    add("--device", help="cpu, cuda, mps, ...; the best that there is if not given")
    add("--no-metadata", action="store_false", dest="metadata", help="do not write into the PNG how it was made")
    add("--json", action="store_true", help="print one JSON object about the run on standard output")
    parser.set_defaults(run=_program("replay"))


def _add_sweep(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "sweep",
        help="make a grid of pictures over one or two options",
        description="Make a picture for every value of one option, or every pair of values of two, and a grid with labels.",
        epilog=_examples(
            'sweep toy.png "a robot on the beach" --word robot --seed 7 -o sweep --x mask-scope 0.1 0.25 0.5',
            'sweep toy.png "a robot at night" --word robot -o sweep --x guidance-scale 2 4 8 --y seed 1 2',
        ),
        formatter_class=_Help,
    )
    _add_subject(parser)
    add = parser.add_argument
    axis = {"nargs": "*", "action": _Once, "metavar": ("NAME", "VALUE")}
    add("--x", required=True, help="option across the grid, its name without dashes, and its values", **axis)
    add("--y", help="likewise down the grid", **axis)
    add("--output", "-o", type=_file, required=True, metavar="FOLDER", help="for the pictures and grid.png")
    add("--overwrite", action="store_true", help="replace files that exist")
    add("--seed", type=int, help="of every picture; a random one if not given")
    _add_run_options(parser)
    parser.set_defaults(run=_program("sweep"), less="--width and --height")


def _add_batch(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "batch",
        help="make the pictures of a list",
        description="Make a picture for every row of LIST that is not there yet, and a sheet of them all. A row has subject "
        "and mask (files, beside the list), word, prompt, and what options of generate it wants, by name.",
        epilog=_examples("batch toys.csv --output toys", "batch pets.jsonl --output pets --steps 15 --scheduler dpm++"),
        formatter_class=_Help,
    )
    add = parser.add_argument
    add("list", metavar="LIST", type=_file, help="a .csv, .jsonl or .yaml file")
    add("--output", "-o", type=_file, required=True, metavar="FOLDER", help="for the pictures; gone on with if there")
    add("--seed", type=int, default=1, help="of the first row; the next rows count up, unless they say their own")
    _add_run_options(parser)
    parser.set_defaults(run=_program("batch"), less="--width and --height")


def _add_data(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "data",
        help="fetch and prepare what the embedded model is trained on, or write what it is measured by",
        epilog=_examples("data stickers runs/stickers/drawings", "data text-encoder runs/stickers/text"),
        formatter_class=_Help,
    )
    kinds = parser.add_subparsers(required=True, metavar="WHAT")
    stickers = kinds.add_parser(
        "stickers", help="the drawings", formatter_class=_Help,
        description="Download the openly licensed icon sets and rasterise every drawing of the vocabulary.",
        epilog=_examples("data stickers runs/stickers/drawings"),
    )  # fmt: skip
    stickers.add_argument("folder", type=_file, help="where to write drawings.safetensors and drawings.json")
    stickers.add_argument("--registry", default="https://registry.npmjs.org", help="npm registry to fetch them from")
    stickers.set_defaults(run=_data_stickers)
    bench = kinds.add_parser(
        "bench", help="StickerBench's work list", formatter_class=_Help,
        description="Write StickerBench's references and what is asked for as files, for any system to make its pictures.",
        epilog=_examples("data bench runs/bench --subset"),
    )  # fmt: skip
    bench.add_argument("folder", type=_file, help="a new folder, for references and requests.jsonl")
    _add_size(bench)
    bench.set_defaults(run=_program("bench"))
    text = kinds.add_parser(
        "text-encoder", help="the text encoder", formatter_class=_Help,
        description="Cut a small sentence encoder down to what the embedded model needs.",
        epilog=_examples("data text-encoder runs/stickers/text --layers 4"),
    )  # fmt: skip
    text.add_argument("folder", type=_file, help="where to write text_encoder and tokenizer")
    text.add_argument(
        "--source", default="sentence-transformers/all-MiniLM-L6-v2", help="hub id or folder of the encoder"
    )
    text.add_argument("--layers", type=int, default=4, help="how many of its layers to keep")
    text.add_argument("--words", type=int, default=20000, help="how many of its most frequent word pieces to keep")
    text.add_argument("--max-tokens", type=int, default=32, help="longest prompt, in tokens")
    text.set_defaults(run=_data_text_encoder)


def _data_stickers(options: argparse.Namespace) -> None:
    from realcustom.data.stickers.drawings import prepare

    prepare(options.folder, options.registry, progress=lambda line: print(line, file=sys.stderr))


def _data_text_encoder(options: argparse.Namespace) -> None:
    from realcustom.data.stickers.text_encoder import prepare_text_encoder

    read_as = prepare_text_encoder(
        options.source, options.folder, layers=options.layers, words=options.words, max_tokens=options.max_tokens
    )
    for word, name in read_as.items():
        print(f"{word}: {name}")
    print(f"{len(read_as)} words that no caption says are read as nouns that captions say", file=sys.stderr)


def _add_train(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "train",
        help="train a part of a model, or go on with it",
        description="Train what --config describes. A run that was interrupted goes on from its newest checkpoint.",
        epilog=_examples(
            "train base --config recipes/stickers/base.yaml",
            "train base --config recipes/stickers/base.yaml --set training.train_batch_size=16",
        ),
        formatter_class=_Help,
    )
    parser.add_argument(
        "part",
        choices=("autoencoder", "base", "adapter", "joint", "judges", "package"),
        help="what to train; package puts parts together",
    )
    parser.add_argument("--config", type=_file, required=True, metavar="RECIPE.yaml", help="the recipe")
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="SECTION.NAME=VALUE", dest="overrides",
        help="options that differ from the recipe",
    )  # fmt: skip
    parser.set_defaults(run=_train, less="training.train_batch_size")


def _train(options: argparse.Namespace) -> None:
    from realcustom.apps.train import train

    train(options.part, options.config, options.overrides)


def _add_evaluate(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "evaluate",
        help="measure a model",
        description="Make the pictures of a benchmark, go on with them if some are there, and judge them all.",
        epilog=_examples(
            "evaluate --output runs/evaluation",
            "evaluate --output runs/first-look --subset --rows subject",
            "evaluate --benchmark dreambench --photographs dreambooth/dataset --only cat can --output runs/dreambench",
        ),
        formatter_class=_Help,
    )
    add = parser.add_argument
    add(
        "--benchmark", default="stickers", metavar="NAME",
        help="stickers, dreambench, dreambench-pairs, or a folder with a benchmark.jsonl of its own",
    )  # fmt: skip
    add("--model", help="embedded model, folder or hub id; stickers if not given")
    add("--adapter", metavar="NAME", help="folder or hub id of another RealCustom part for the model")
    add("--judges", type=_file, metavar="FOLDER", help="of stickers: the judges; the ones that ship if not given")
    add(
        "--output",
        "-o",
        type=_file,
        required=True,
        metavar="FOLDER",
        help="for pictures and report; gone on with if there",
    )
    _add_size(parser)
    add(
        "--rows", nargs="+", metavar="ROW", choices=("subject", "twin", "wrong", "text", "paraphrase"),
        help="of stickers: make only these, of subject, twin, wrong, text and paraphrase",
    )  # fmt: skip
    add("--photographs", type=_file, metavar="FOLDER", help="of dreambench: its dataset, a folder for each subject")
    add(
        "--pictures", type=_file, metavar="FOLDER",
        help="measure these pictures, of photographs SUBJECT/PROMPT-SEED.png, of stickers NUMBER.png, and make none",
    )  # fmt: skip
    add("--only", nargs="+", metavar="NAME", help="of dreambench: only these subjects; pairs are written cat+dog")
    for name, told in (("clip", "CLIP"), ("dino", "DINO"), ("segmenter", "CLIPSeg")):
        add(
            f"--{name}", metavar="NAME",
            help=f"of photographs: {told}, a folder or hub id; the usual one of the hub's cache if not given",
        )  # fmt: skip
    for name, told in (("image-reward", "ImageReward"), ("lpips", "LPIPS")):
        add(f"--{name}", metavar="FOLDER", help=f"of photographs: {told}, as realcustom convert --as {name} makes it")
    add(
        "--method", metavar="NAME",
        help="realcustom, image-prompt (the subject acts everywhere), or a recipe that tunes the model to each subject, for "
        "example recipes/stickers/dreambooth.yaml; realcustom if not given",
    )  # fmt: skip
    add("--set", nargs="+", metavar="SECTION.NAME=VALUE", help="options that differ from the recipe of tuning")
    add("--ray", metavar="ADDRESS", help="make every picture as a task of this Ray cluster; local starts one here")
    add("--batch-size", type=int, metavar="N", help="pictures made at once; 16 if not given")
    _add_denoising_options(parser)
    add(
        "--mask-refined", action="store_true", default=None,
        help="spread the word's attention along the UNet's self-attention (RC++)",
    )  # fmt: skip
    add("--mask-layers", nargs="+", metavar="NAME", help="beginnings of the names of the layers that give the mask")
    add("--device", help="cpu, cuda, mps, ...; the best that there is if not given")
    add("--dtype", choices=_DTYPES, help="of the model's numbers (float32)")
    parser.set_defaults(run=_program("evaluate"), less="--batch-size")


def _add_compare(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "compare",
        help="evaluations side by side",
        description="Print a table of evaluations of one work list; write similarity against control as a page or drawing.",
        epilog=_examples("compare runs/realcustom runs/dreambooth --output comparison.html"),
        formatter_class=_Help,
    )
    add = parser.add_argument
    add(
        "folders",
        nargs="+",
        type=_file,
        metavar="FOLDER",
        help="outputs of realcustom evaluate on stickers, one a method",
    )
    add("--output", "-o", type=_file, metavar="FILE", help="a page, .html, or the drawing alone, .svg")
    add("--overwrite", action="store_true", help="replace the file if it is there")
    parser.set_defaults(run=_program("compare"))


def _add_size(parser: argparse.ArgumentParser) -> None:
    """Add what says how much of a benchmark is asked for."""
    add = parser.add_argument
    add(
        "--split", choices=("validation", "test"),
        help="of stickers: validation, the default, for every choice; test once, for a model card",
    )  # fmt: skip
    add(
        "--drawings", type=_file, metavar="FOLDER",
        help="of stickers: what realcustom data stickers has written; runs/stickers/drawings if not given",
    )  # fmt: skip
    add(
        "--subset", action="store_true", default=None,
        help="of stickers: 10 of 64 subjects, 10 of 20 sentences and one picture of each instead of two",
    )  # fmt: skip
    add("--subjects", type=int, metavar="N", help="of stickers: only the first N subjects of the split")
    add("--prompts", type=int, metavar="N", help="only N sentences about each subject: the first of dreambench's 25")
    add("--seeds", type=int, metavar="N", help="how many pictures of each sentence; 2 of stickers, 4 of photographs")


def _add_words(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "words",
        help="show which words of a prompt can carry a subject",
        description="Show the tokens of each word of PROMPT, which of them can be given as --word, and what is cut off.",
        epilog=_examples('words "a robot and another robot on the beach"'),
        formatter_class=_Help,
    )
    parser.add_argument("prompt", metavar="PROMPT", help="the sentence")
    parser.add_argument("--model", default="stickers", help="whose tokenizer: embedded model, folder or hub id")
    parser.add_argument("--json", action="store_true", help="print one JSON object on standard output")
    parser.set_defaults(run=_words)


def _words(options: argparse.Namespace) -> None:
    from realcustom.apps.words import words

    words(options.prompt, options.model, as_json=options.json)


def _add_convert(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "convert",
        help="turn the method's authors' files into a folder of safetensors",
        description="Read the files that the authors of RealCustom published, which are pickled, as tensors and nothing else, "
        "and write the adapter, the image encoders and the base's UNet, of those that they hold, as safetensors. With --as, "
        "likewise the files of a network that photographs are measured with.",
        epilog=_examples(
            "convert RealCustom_highres.pth --config sdxl.json -o RealCustom",
            "convert unet.pth RealCustom_highres.pth --config sdxl.json --siglip siglip.bin --dino dino.bin -o RealCustom",
            "convert alexnet-owt-7be5be79.pth alex.pth --as lpips -o lpips",
        ),
        formatter_class=_Help,
    )
    add = parser.add_argument
    add(
        "files",
        metavar="FILE",
        nargs="+",
        type=_file,
        help="of the UNet and the RealCustom part, or of the metric, in any order",
    )
    add(
        "--as", dest="kind", choices=("realcustom", "image-reward", "lpips"), default="realcustom",
        help="what the files are; a network that photographs are measured with is made by image-reward, of ImageReward.pt, or "
        "lpips, of torchvision's AlexNet and alex.pth of lpips 0.1",
    )  # fmt: skip
    add("--tokenizer", metavar="NAME", help="of image-reward: folder or hub id of bert-base-uncased")
    add("--config", type=_file, metavar="JSON", help="of realcustom: the authors' configuration of the UNet")
    add(
        "--siglip",
        type=_file,
        metavar="FILE",
        help="of vit_so400m_patch14_siglip_384, under timm's or open_clip's names",
    )
    add("--dino", type=_file, metavar="FILE", help="of vit_large_patch14_reg4_dinov2, under timm's names")
    add("--output", "-o", type=_file, required=True, metavar="FOLDER", help="to make")
    add("--json", action="store_true", help="print one JSON object about what was found on standard output")
    parser.set_defaults(run=_program("convert"))


def _add_models(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "models",
        help="list the models that are on this machine",
        description="List the embedded models, and the models of RealCustom in the hub's local cache.",
        epilog=_examples("models", "models --json"),
        formatter_class=_Help,
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object on standard output")
    parser.set_defaults(run=_models)


def _models(options: argparse.Namespace) -> None:
    from realcustom.apps.models import models

    models(as_json=options.json)


def _add_licenses(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "licenses",
        help="show whose the code, a model and its data are, and what may be done with them",
        description="Show the licences of the code and of a model: its weights, its text encoder and its data.",
        epilog=_examples("licenses", "licenses --model owner/name --commercial"),
        formatter_class=_Help,
    )
    parser.add_argument("--model", default="stickers", help="embedded model, folder or hub id in the local cache")
    parser.add_argument("--commercial", action="store_true", help="fail unless all of them allow commercial use")
    parser.add_argument("--json", action="store_true", help="print one JSON object on standard output")
    parser.set_defaults(run=_licenses)


def _licenses(options: argparse.Namespace) -> None:
    from realcustom.apps.licenses import licenses

    licenses(options.model, commercial=options.commercial, as_json=options.json)


def _add_doctor(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "doctor",
        help="check the installation, the devices and the files of a model",
        description="Check the installed packages, the devices and every file of a model, and name what repairs them.",
        epilog=_examples("doctor", "doctor --model owner/name --json"),
        formatter_class=_Help,
    )
    parser.add_argument("--model", default="stickers", help="embedded model, folder or hub id in the local cache")
    parser.add_argument("--json", action="store_true", help="print one JSON object on standard output")
    parser.set_defaults(run=_doctor)


def _doctor(options: argparse.Namespace) -> None:
    from realcustom.apps.doctor import doctor

    doctor(options.model, as_json=options.json)


def _add_completion(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "completion",
        help="print a script that lets a shell complete this command",
        description="Print a script that lets SHELL complete commands, options and files of realcustom.",
        epilog=_examples(
            "completion bash > ~/.local/share/bash-completion/completions/realcustom",
            "completion zsh > ~/.zfunc/_realcustom",
        ),
        formatter_class=_Help,
    )
    parser.add_argument("shell", metavar="SHELL", choices=("bash", "zsh", "tcsh"), help="bash, zsh or tcsh")
    parser.set_defaults(run=_completion)


def _completion(options: argparse.Namespace) -> None:
    from realcustom.apps.completion import script

    print(script(_parser(), options.shell, _file))


def _add_subject_commands(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "subject",
        help="look at the picture of a subject, or save what an encoder sees of it",
        epilog=_examples("subject check toy.png", "subject save toy.png --word toy -o toy.subject.safetensors"),
        formatter_class=_Help,
    )
    kinds = parser.add_subparsers(required=True, metavar="WHAT")
    check = kinds.add_parser(
        "check",
        help="say what the encoder sees of it",
        description="Say what a model's encoder sees of PICTURE, and how to make it the portrait that it expects.",
        epilog=_examples("subject check toy.png --save seen.png"),
        formatter_class=_Help,
    )
    check.add_argument("picture", metavar="PICTURE", type=_file, help="picture of the subject")
    check.add_argument("--model", default="stickers", help="whose encoder: embedded model, folder or hub id")
    check.add_argument(
        "--adapter", metavar="NAME", help="folder or hub id of a RealCustom part, which may bring an encoder of its own"
    )
    check.add_argument("--save", type=_file, metavar="SEEN.png", help="also write what the encoder sees")
    check.add_argument("--overwrite", action="store_true", help="replace a file that exists")
    check.add_argument("--json", action="store_true", help="print one JSON object on standard output")
    check.set_defaults(run=_subject_check)
    save = kinds.add_parser(
        "save",
        help="save what the encoder sees of it, to be used in the place of the picture",
        description="Write what a model's encoder sees of PICTURE, a preview, its word and a note into one file, which every "
        "command takes in the place of the picture, with every model that sees with the same encoder.",
        epilog=_examples('subject save fox.png --word fox -o fox.subject.safetensors --note "my own drawing, CC0"'),
        formatter_class=_Help,
    )
    save.add_argument("picture", metavar="PICTURE", type=_file, help="picture of the subject")
    save.add_argument("--word", required=True, help="the word that stands for it, if no other one is given")
    save.add_argument("--output", "-o", required=True, type=_file, help="a name that ends in .subject.safetensors")
    save.add_argument("--note", default="", help="whose it is, who consented to what, under which licence")
    save.add_argument("--model", default="stickers", help="whose encoder: embedded model, folder or hub id")
    save.add_argument(
        "--adapter", metavar="NAME", help="folder or hub id of a RealCustom part, for a model without one"
    )
    save.add_argument("--overwrite", action="store_true", help="replace a file that exists")
    save.set_defaults(run=_subject_save)


def _subject_save(options: argparse.Namespace) -> None:
    from realcustom.apps.subject import save

    save(options)


def _subject_check(options: argparse.Namespace) -> None:
    from realcustom.apps.subject import check

    check(
        options.picture, options.model, options.adapter, save=options.save, overwrite=options.overwrite,
        as_json=options.json,
    )  # fmt: skip
