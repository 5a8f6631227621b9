"""`realcustom words`: what the text encoder makes of a prompt, and which of its words can carry a subject."""

from __future__ import annotations

import json
from dataclasses import asdict

import transformers

from realcustom.apps.console import quiet_libraries
from realcustom.finding import locate
from realcustom.loading import require_tokenizer, resolve
from realcustom.prompts import SpokenWord, cut_off, spoken_words


def words(prompt: str, model: str, *, as_json: bool) -> None:
    """Print the words of a prompt with their tokens, and what is cut off.

    Raises:
        InputError: there is no such model, or it has no tokenizer.
    """
    quiet_libraries()
    locate(model)  # so that no network is asked for what is no name of a model
    folder = resolve(model)
    require_tokenizer(folder / "tokenizer")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
    found, lost = spoken_words(prompt, tokenizer), cut_off(prompt, tokenizer)
    if as_json:
        print(json.dumps({"words": [asdict(word) for word in found], "cut_off": lost}))
        return
    width = max((len(word.text) for word in found), default=0)
    for word in found:
        print(f"{word.text:{width}}  {_meaning(word)}")
    if lost:
        print(f"not read: {lost!r} (the text encoder reads {tokenizer.model_max_length} tokens)")


def _meaning(word: SpokenWord) -> str:
    if not word.read:
        return "cannot carry a subject: it is cut off"
    if set(word.pieces) == {"[UNK]"}:
        return "cannot carry a subject: the text encoder does not know it"
    which = f"  --occurrence {word.occurrence}" if word.occurrences > 1 else ""
    return f"{' '.join(word.pieces)}{which}"
