from __future__ import annotations

import gzip
from pathlib import Path

import pytest
import transformers


@pytest.fixture(scope="session")
def clip_bpe() -> transformers.CLIPTokenizer:
    """CLIP's own tokenizer, from the merges that OpenAI published."""
    packed = Path(__file__).with_name("clip_merges.txt.gz")
    lines = gzip.decompress(packed.read_bytes()).decode().split("\n")[1 : 49152 - 256 - 2 + 1]
    merges = [tuple(line.split()) for line in lines]
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    letters = [chr(byte) for byte in printable] + [chr(256 + number) for number in range(256 - len(printable))]
    pieces = [*letters, *(f"{letter}</w>" for letter in letters), *("".join(pair) for pair in merges)]
    pieces += ["<|startoftext|>", "<|endoftext|>"]
    numbers = {piece: number for number, piece in enumerate(pieces)}
    return transformers.CLIPTokenizer(vocab=numbers, merges=merges, model_max_length=77)
