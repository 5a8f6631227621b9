from __future__ import annotations

import re

import pytest

from parity.official import about
from realcustom.errors import InputError, WordTruncated
from realcustom.prompts import find_word

ROWS = about("phrase_positions")["rows"]


def whole_words(text, phrase):
    """Return where the phrase stands in the text as whole words, whatever the case."""
    return [match.start() for match in re.finditer(rf"(?<!\w){re.escape(phrase)}(?!\w)", text, re.IGNORECASE)]


def found(text, phrase, tokenizer):
    try:
        count = len(whole_words(text, phrase)) if phrase else 1
        return [find_word(text, phrase, tokenizer, occurrence=number).start for number in range(1, count + 1)]
    except InputError:
        return []


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row['phrase']} in {row['text']}")
def test_positions(row, clip_bpe):
    """Where the authors find whole words in the case that was given, so do we; elsewhere we differ as the docs say."""
    text, phrase, theirs = row["text"], row["phrase"], row["positions"]
    ours = found(text, phrase, clip_bpe)
    agree = bool(phrase) and theirs == whole_words(text, phrase)
    if agree:
        assert ours == theirs
    else:
        inside = [start for start in theirs if start not in whole_words(text, phrase)] if phrase else theirs
        assert not set(inside) & set(ours)  # parts of words are no words
        assert ours == whole_words(text, phrase) if phrase else not ours


def test_most_rows_agree():
    agreeing = [row for row in ROWS if row["phrase"] and row["positions"] == whole_words(row["text"], row["phrase"])]
    assert len(agreeing) > len(ROWS) / 2


def read_tokens(text, phrase, occurrence, tokenizer):
    """Return the tokens of one occurrence; none where it lies beyond what the text encoder reads."""
    try:
        return find_word(text, phrase, tokenizer, occurrence=occurrence).tokens
    except WordTruncated:
        return ()


@pytest.mark.parametrize(
    "row", about("phrase_tokens")["rows"], ids=lambda row: f"{row['phrase']} in {row['text'][:30]}"
)
def test_tokens(row, clip_bpe):
    text, phrase, theirs = row["text"], row["phrase"], row["target_token_indices"]
    assert clip_bpe(text, truncation=True, max_length=77)["input_ids"] == row["input_ids"]
    starts = whole_words(text, phrase)
    ours = sorted(token for number in range(len(starts)) for token in read_tokens(text, phrase, number + 1, clip_bpe))
    inside_words = len(re.findall(re.escape(phrase), text)) - len(starts)
    if not inside_words:
        assert ours == theirs
    else:
        assert set(ours) < set(theirs)
