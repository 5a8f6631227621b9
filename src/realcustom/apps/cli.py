"""The command `realcustom`: words into calls, and errors into messages. No tensor is touched here.

Nothing heavy is imported until a command needs it, so that `--help` answers at once.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from realcustom import __version__
from realcustom.errors import InputError, RealCustomError

EXIT_FAILED, EXIT_WRONG_INPUT, EXIT_INTERRUPTED = 1, 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0, 1 failed, 2 wrong usage or input, 130 interrupted."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("realcustom").setLevel(logging.INFO)
    try:
        options.run(options)
    except InputError as error:
        return _complain(error, EXIT_WRONG_INPUT)
    except (RealCustomError, FloatingPointError) as error:
        return _complain(error, EXIT_FAILED)
    except ModuleNotFoundError as error:
        return _complain(f'{error}; install what training needs with: pip install "realcustom[train]"', EXIT_FAILED)
    except KeyboardInterrupt:
        return _complain("interrupted", EXIT_INTERRUPTED)
    return 0


def _complain(message: object, code: int) -> int:
    print(f"realcustom: {message}", file=sys.stderr)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="realcustom", description="Make pictures of one given subject that obey a sentence."
    )
    parser.add_argument("--version", action="version", version=f"realcustom {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_generate(commands)
    _add_data(commands)
    _add_train(commands)
    _add_evaluate(commands)
    _add_words(commands)
    return parser


def _add_generate(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "generate",
        help="make pictures of the subject of a picture",
        description="Make pictures of the subject of SUBJECT that obey PROMPT. --word names the subject in the prompt.",
        epilog='example: realcustom generate toy.png "a robot on the beach" --word robot --seed 7',
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("subject", metavar="SUBJECT", type=Path, help="picture of the subject")
    add("prompt", metavar="PROMPT", help="what the new picture shows")
    add("--word", required=True, help="word or phrase of the prompt that stands for the subject")
    add("--occurrence", type=int, metavar="N", help="which one, if the prompt says the word more than once; from 1")
    add("--output", "-o", type=Path, help="PNG to write; with several pictures a number is added to its name")
    add("--overwrite", action="store_true", help="replace files that exist")
    add("--seed", type=int, help="seed of the first picture, the next ones count up; a random one if not given")
    add("--num-images", type=int, default=1, metavar="N", help="how many pictures")
    add("--steps", type=int, metavar="N", help="denoising steps; the model's own number if not given")
    add("--scheduler", metavar="NAME", help="sampler, for example ddim, dpm++ or euler; the model's own if not given")
    add("--negative-prompt", metavar="TEXT", help="what the picture shall not show")
    add("--guidance-scale", type=float, metavar="W", help="w_t, how strongly the text is followed")
    add("--subject-guidance-scale", type=float, metavar="W", help="w_i, how strongly the subject is followed")
    add("--subject-scale", type=float, default=1.0, metavar="S", help="strength of the subject inside the model")
    add("--mask-scope", type=float, metavar="SHARE", help="gamma_scope, share of the picture where the subject may act")
    add("--token-ratio", type=float, default=0.8, metavar="SHARE", help="gamma_num, share of its features that act")
    add("--width", type=int, metavar="PIXELS", help="of the pictures; the model's own if not given")
    add("--height", type=int, metavar="PIXELS", help="of the pictures; the model's own if not given")
    add("--model", default="stickers", help="embedded model, folder or hub id")
    add("--device", help="cpu, cuda, mps, ...; the best that there is if not given")
    add("--dtype", default="float32", choices=("float32", "float16", "bfloat16"), help="of the model's numbers")
    add(
        "--save-masks",
        action="store_true",
        help="also write, for each picture, its mask over the steps and on top of it",
    )
    add("--json", action="store_true", help="print one JSON object about the run on standard output")
    parser.set_defaults(run=_generate)


def _generate(options: argparse.Namespace) -> None:
    from realcustom.apps.generate import generate

    generate(options)


def _add_data(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("data", help="fetch and prepare what the embedded model is trained on")
    kinds = parser.add_subparsers(required=True, metavar="WHAT")
    stickers = kinds.add_parser(
        "stickers", help="the drawings", formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        description="Download the openly licensed icon sets and rasterise every drawing of the vocabulary.",
    )  # fmt: skip
    stickers.add_argument("folder", type=Path, help="where to write drawings.safetensors and drawings.json")
    stickers.add_argument("--registry", default="https://registry.npmjs.org", help="npm registry to fetch them from")
    stickers.set_defaults(run=_data_stickers)
    text = kinds.add_parser(
        "text-encoder", help="the text encoder", formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        description="Cut a small sentence encoder down to what the embedded model needs.",
    )  # fmt: skip
    text.add_argument("folder", type=Path, help="where to write text_encoder and tokenizer")
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

    prepare_text_encoder(
        options.source, options.folder, layers=options.layers, words=options.words, max_tokens=options.max_tokens
    )


def _add_train(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "train",
        help="train a part of a model, or go on with it",
        description="Train what --config describes. A run that was interrupted goes on from its newest checkpoint.",
        epilog="example: realcustom train base --config recipes/stickers/base.yaml --set training.train_batch_size=16",
    )
    parser.add_argument(
        "part",
        choices=("autoencoder", "base", "adapter", "joint", "judges", "package"),
        help="what to train; package puts parts together",
    )
    parser.add_argument("--config", type=Path, required=True, metavar="RECIPE.yaml", help="the recipe")
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="SECTION.NAME=VALUE", dest="overrides",
        help="options that differ from the recipe",
    )  # fmt: skip
    parser.set_defaults(run=_train)


def _train(options: argparse.Namespace) -> None:
    from realcustom.apps.train import train

    train(options.part, options.config, options.overrides)


def _add_evaluate(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "evaluate",
        help="measure a model",
        description="Make the pictures of a benchmark, go on with them if some are there, and judge them all.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--benchmark", choices=("stickers",), default="stickers", help="which one")
    add(
        "--split", choices=("validation", "test"), default="validation",
        help="validation for every choice; test once, for a model card",
    )  # fmt: skip
    add("--model", default="stickers", help="embedded model, folder or hub id")
    add(
        "--drawings", type=Path, default=Path("runs/stickers/drawings"), metavar="FOLDER",
        help="what realcustom data stickers has written",
    )  # fmt: skip
    add("--judges", type=Path, metavar="FOLDER", help="the judges; the ones that ship if not given")
    add(
        "--output",
        "-o",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="for pictures and report; gone on with if there",
    )
    add("--count", type=int, default=400, metavar="N", help="how many subjects under sentences")
    add("--batch-size", type=int, default=16, metavar="N", help="pictures made at once")
    add("--steps", type=int, metavar="N", help="denoising steps; the model's own number if not given")
    add("--scheduler", metavar="NAME", help="sampler, for example ddim, dpm++ or euler; the model's own if not given")
    add("--guidance-scale", type=float, metavar="W", help="w_t; the model's own if not given, like the next two")
    add("--subject-guidance-scale", type=float, metavar="W", help="w_i")
    add("--mask-scope", type=float, metavar="SHARE", help="gamma_scope")
    add("--token-ratio", type=float, default=0.8, metavar="SHARE", help="gamma_num")
    add("--device", help="cpu, cuda, mps, ...; the best that there is if not given")
    parser.set_defaults(run=_evaluate)


def _evaluate(options: argparse.Namespace) -> None:
    from realcustom.apps.evaluate import evaluate

    evaluate(options)


def _add_words(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "words",
        help="show which words of a prompt can carry a subject",
        description="Show the tokens of each word of PROMPT, which of them can be given as --word, and what is cut off.",
        epilog='example: realcustom words "a robot and another robot on the beach"',
    )
    parser.add_argument("prompt", metavar="PROMPT", help="the sentence")
    parser.add_argument("--model", default="stickers", help="whose tokenizer: embedded model, folder or hub id")
    parser.add_argument("--json", action="store_true", help="print one JSON object on standard output")
    parser.set_defaults(run=_words)


def _words(options: argparse.Namespace) -> None:
    from realcustom.apps.words import words

    words(options.prompt, options.model, as_json=options.json)
