"""Text: which tokens of a prompt are the subject's word, and what the text encoder makes of the prompt."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from realcustom.errors import InputError, WordAmbiguous, WordNotFound, WordTruncated, WordUnknown, did_you_mean


@dataclass(frozen=True)
class TargetWord:
    """The real word of the prompt that is narrowed to the subject."""

    text: str
    """As the prompt spells it."""
    start: int
    """Its first character in the prompt."""
    tokens: tuple[int, ...]
    """Positions of its tokens in the encoded prompt, counted from 0, the start token included."""
    pieces: tuple[str, ...]
    """Its tokens as the tokenizer spells them."""


_WORD = re.compile(r"\w[\w'-]*")


def _pattern(word: str) -> re.Pattern[str]:
    """Match the word or phrase as whole words, in singular or plural, whatever the case and spacing.

    What is searched must be composed, as `_Letters.text` is.
    """
    *first, last = (re.escape(part) for part in unicodedata.normalize("NFC", word).split())
    plural = f"(?:{last}(?:e?s)?|{last[:-1]}ies)" if last.lower().endswith("y") else f"{last}(?:e?s)?"
    return re.compile(r"(?<!\w)" + r"\s+".join([*first, plural]) + r"(?!\w)", re.IGNORECASE)


@dataclass(frozen=True)
class _Letters:
    """A prompt with its letters composed, so that an accent that was written as a letter of its own makes no other word."""

    text: str
    places: Sequence[tuple[int, int]]
    """Where in the prompt as it was given each of the text's letters begins and ends, with all its accents."""

    @classmethod
    def of(cls, prompt: str) -> _Letters:
        """Compose a prompt."""
        starts = [place for place in range(len(prompt)) if not _joins(prompt, place)]
        text, places = "", []
        for start, end in pairwise([*starts, len(prompt)]):
            composed = unicodedata.normalize("NFC", prompt[start:end])
            places += [(start, end)] * len(composed)
            text += composed
        return cls(text, places)

    def span(self, match: re.Match[str]) -> tuple[int, int, int]:
        """Return where in the prompt a match begins, where its last letter begins, and where it ends."""
        last, end = self.places[match.end() - 1]
        return self.places[match.start()][0], last, end


def _joins(prompt: str, place: int) -> bool:
    """Return whether a letter becomes one with those before it when it is composed."""
    letter = prompt[place]
    if place == 0 or letter.isascii():
        return False
    if unicodedata.combining(letter):
        return True
    before = prompt[max(place - 2, 0) : place]  # in Hangul, letters that are no accents join, up to three of them
    apart = "".join(unicodedata.normalize("NFC", part) for part in (before, letter))
    return unicodedata.normalize("NFC", before + letter) != apart


def find_word(
    prompt: str, word: str, tokenizer: PreTrainedTokenizerBase, *, occurrence: int | None = None
) -> TargetWord:
    """Find the subject's word in a prompt and its tokens, by the tokenizer's own character offsets.

    Args:
        prompt: the sentence.
        word: a word or phrase of it; case and how accents are encoded do not matter, a
            singular is found in the plural, too, and parts of words do not count.
        tokenizer: a fast tokenizer; its `model_max_length` says what the text encoder reads.
        occurrence: which one to take if the prompt says the word more than once, counted from 1.

    Returns:
        The word with at least one token.

    Raises:
        InputError: the word is empty, or `occurrence` is not one of those that there are.
        WordNotFound: the prompt does not say the word.
        WordAmbiguous: it says it more than once and `occurrence` was not given.
        WordUnknown: the text encoder has no token for it.
        WordTruncated: it does, but beyond the last token that is read.
    """
    if not word.strip():
        raise InputError("subject_word is empty; give the word of the prompt that stands for the subject")
    letters = _Letters.of(prompt)
    found = list(_pattern(word.strip()).finditer(letters.text))
    if not found:
        spoken = list(dict.fromkeys(_WORD.findall(letters.text)))
        hint = did_you_mean(unicodedata.normalize("NFC", word), spoken) or (
            f" Its words are: {', '.join(spoken)}." if spoken else ""
        )
        raise WordNotFound(f"the prompt {prompt!r} does not say {word!r}.{hint}")
    if occurrence is None and len(found) > 1:
        raise WordAmbiguous(
            f"the prompt {prompt!r} says {word!r} {len(found)} times; choose one with occurrence=1 to {len(found)}"
        )
    if occurrence is not None and not 1 <= occurrence <= len(found):
        raise InputError(f"occurrence must be from 1 to {len(found)} for {word!r} in {prompt!r}, but is {occurrence}")
    begin, last, finish = letters.span(found[(occurrence or 1) - 1])
    said = prompt[begin:finish]
    encoded = tokenizer(
        prompt, truncation=True, max_length=tokenizer.model_max_length, return_offsets_mapping=True, verbose=False
    )
    tokens = tuple(
        position
        for position, (start, end) in enumerate(encoded["offset_mapping"])
        if start < finish and end > begin and end > start
    )
    whole = bool(tokens) and encoded["offset_mapping"][tokens[-1]][1] > last  # tokenizers may drop an accent
    if not whole:
        raise WordTruncated(
            f"{said!r} lies beyond the {tokenizer.model_max_length} tokens that the text encoder reads; "
            f"shorten the prompt or move the word forward"
        )
    pieces = tokenizer.convert_ids_to_tokens([encoded["input_ids"][position] for position in tokens])
    if tokenizer.unk_token and all(piece == tokenizer.unk_token for piece in pieces):
        raise WordUnknown(f"the text encoder does not know {said!r}; take a more common word for the subject")
    return TargetWord(said, begin, tokens, tuple(pieces))


def find_words(
    sentences: Sequence[str], said: Sequence[Sequence[tuple[str, int | None]]], tokenizer: PreTrainedTokenizerBase
) -> list[list[TargetWord]]:
    """Return the words of several subjects in several sentences.

    Args:
        sentences: the prompts.
        said: for each subject and each sentence, its word and its occurrence, see `find_word`.
        tokenizer: of the text encoder.

    Returns:
        For each subject the words, one a sentence.

    Raises:
        InputError: a sentence does not say a word, or two subjects have the same one.
    """
    words = [
        [
            find_word(sentence, word, tokenizer, occurrence=occurrence)
            for sentence, (word, occurrence) in zip(sentences, subject, strict=True)
        ]
        for subject in said
    ]
    for together in zip(*words, strict=True):
        for word in together:
            if sum(not set(word.tokens).isdisjoint(other.tokens) for other in together) > 1:
                raise InputError(
                    f"two subjects have the word {word.text!r}, or a part of it; tell them apart with occurrence=1 and "
                    "occurrence=2 in a prompt that says it twice, or give several pictures of one subject as one "
                    "Subject(image=[...])"
                )
    return words


def cut_off(prompt: str, tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the end of a prompt that the text encoder does not read; "" if it reads it all."""
    read = tokenizer(prompt, truncation=True, max_length=tokenizer.model_max_length, return_offsets_mapping=True)
    last = max(end for _, end in read["offset_mapping"])
    ends = [end for _, end in _Letters.of(prompt).places]
    return prompt[min((end for end in ends if end >= last), default=last) if last else 0 :].strip()


@dataclass(frozen=True)
class SpokenWord:
    """A word of a prompt, as the text encoder reads it."""

    text: str
    start: int
    """Its first character in the prompt."""
    tokens: tuple[int, ...]
    """Positions of its tokens in the encoded prompt, counted from 0, the start token included; none where nothing of it is
    read."""
    pieces: tuple[str, ...]
    """Its tokens as the tokenizer spells them."""
    read: bool
    """Whether all of it lies within the tokens that the text encoder reads, so that it can carry a subject."""
    occurrence: int
    """Which one it is of those that `find_word` finds for it, from 1."""
    occurrences: int
    """How many of them there are, plurals included; with more than one, `occurrence` has to be said."""


def spoken_words(prompt: str, tokenizer: PreTrainedTokenizerBase) -> list[SpokenWord]:
    """Return the words of a prompt in order, each with its tokens."""
    encoded = tokenizer(
        prompt, truncation=True, max_length=tokenizer.model_max_length, return_offsets_mapping=True, verbose=False
    )
    spans = list(zip(encoded["offset_mapping"], tokenizer.convert_ids_to_tokens(encoded["input_ids"]), strict=True))
    words, letters = [], _Letters.of(prompt)
    for match in _WORD.finditer(letters.text):
        begin, last, finish = letters.span(match)
        tokens = [place for place, (span, _) in enumerate(spans) if span[0] < finish and begin < span[1] > span[0]]
        read = bool(tokens) and spans[tokens[-1]][0][1] > last
        alike = [found.start() for found in _pattern(match.group()).finditer(letters.text)]
        pieces = tuple(spans[place][1] for place in tokens)
        occurrence = alike.index(match.start()) + 1
        words.append(SpokenWord(prompt[begin:finish], begin, tuple(tokens), pieces, read, occurrence, len(alike)))
    return words


def word_columns(
    sentences: Sequence[str],
    words: Sequence[Sequence[TargetWord]],
    tokenizer: PreTrainedTokenizerBase,
    num_tokens: int,
    *,
    later: bool = False,
) -> list[Tensor]:
    """Return where in the encoded prompts each subject's word is, and where the words after it are.

    Args:
        sentences: the prompts.
        words: for each subject its word in each sentence.
        tokenizer: of the text encoder.
        num_tokens: how many tokens the encoded prompts have.
        later: tell also of the other words that a sentence says after a subject's, those of other subjects apart: of what it
            wears, of where it is. What stands before the word, as in "a red dog", is said of the subject itself.

    Returns:
        For each subject `[b, num_tokens, 1 + n]` float32: 1 on the tokens of its word, then on those of each of `n` other
        words, of which a sentence may have fewer; 0 elsewhere.
    """
    spoken = [spoken_words(sentence, tokenizer) if later else [] for sentence in sentences]
    of_subjects = [{place for word in together for place in word.tokens} for together in zip(*words, strict=True)]
    every = []
    for subject in words:
        told = [
            [
                word.tokens,
                *(one.tokens for one in said if one.start > word.start and one.read and taken.isdisjoint(one.tokens)),
            ]
            for said, word, taken in zip(spoken, subject, of_subjects, strict=True)
        ]
        columns = torch.zeros(len(sentences), num_tokens, max(map(len, told)))
        for row, ones in enumerate(told):
            for number, tokens in enumerate(ones):
                columns[row, list(tokens), number] = 1.0
        every.append(columns)
    return every


@dataclass(frozen=True)
class TextStates:
    """What the text encoder made of `b` prompts."""

    states: Tensor
    """`[b, t, c_t]`, one row a token."""
    keep: Tensor | None
    """`[b, t]` bool, False on padding; None where padding counts like any token, as in Stable Diffusion."""
    added: Mapping[str, Tensor] = field(default_factory=dict)
    """What else the UNet is told of each prompt, by diffusers' names: SDXL's `text_embeds` and `time_ids`."""

    def rows(self, index: Tensor) -> TextStates:
        """Return those of some prompts."""
        keep = None if self.keep is None else self.keep[index]
        return TextStates(self.states[index], keep, {name: tensor[index] for name, tensor in self.added.items()})

    def repeat(self, times: int, dtype: torch.dtype) -> TextStates:
        """Return the states of each prompt `times` times, next to each other, as numbers of another type."""
        rows = torch.arange(len(self.states), device=self.states.device).repeat_interleave(times)
        one = self.rows(rows)
        return TextStates(
            one.states.to(dtype), one.keep, {name: tensor.to(dtype) for name, tensor in one.added.items()}
        )

    def join(self, other: TextStates) -> TextStates:
        """Return these prompts and after them the other ones."""
        keep = None if self.keep is None or other.keep is None else torch.cat([self.keep, other.keep])
        added = {name: torch.cat([tensor, other.added[name]]) for name, tensor in self.added.items()}
        return TextStates(torch.cat([self.states, other.states]), keep, added)


def encode_prompts(
    prompts: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    text_encoder: PreTrainedModel,
    *,
    shortest: bool = False,
    device: torch.device | None = None,
) -> TextStates:
    """Encode prompts.

    Args:
        prompts: `b` sentences; what exceeds the tokenizer's `model_max_length` is cut off.
        tokenizer: of the text encoder.
        text_encoder: its last hidden states are used; padding is masked if its config says `use_attention_mask`.
        shortest: pad to the longest prompt only, where padding is masked, so that the result is the same.
        device: to compute on; where the text encoder's weights lie if not given, which is elsewhere if they are offloaded.
    """
    masked = getattr(text_encoder.config, "use_attention_mask", False)
    encoded = tokenizer(
        list(prompts),
        padding="longest" if shortest and masked else "max_length",
        truncation=True,
        max_length=tokenizer.model_max_length,
        return_tensors="pt",
    ).to(device or text_encoder.device)
    keep = encoded["attention_mask"] if masked else None
    states = text_encoder(encoded["input_ids"], attention_mask=keep)[0]
    return TextStates(states, keep.bool() if keep is not None else None)


@torch.no_grad()
def encode_prompts_twice(
    prompts: Sequence[str],
    tokenizers: Sequence[PreTrainedTokenizerBase],
    text_encoders: Sequence[PreTrainedModel],
    *,
    projected: bool = True,
    device: torch.device | None = None,
) -> TextStates:
    """Encode prompts by the two text encoders of Stable Diffusion XL.

    Args:
        prompts: `b` sentences.
        tokenizers: of the two encoders.
        text_encoders: the last but one hidden states of both are put side by side.
        projected: take the second encoder's projected text embedding as SDXL does; the authors of RealCustom take what it
            projects, where that is as wide.
        device: see `encode_prompts`.

    Raises:
        InputError: the second encoder gives nothing that fits.
    """
    states, pooled = [], None
    for tokenizer, encoder in zip(tokenizers, text_encoders, strict=True):
        ids = tokenizer(
            list(prompts), padding="max_length", truncation=True, max_length=tokenizer.model_max_length,
            return_tensors="pt",
        ).input_ids.to(device or encoder.device)  # fmt: skip
        output = encoder(ids, output_hidden_states=True)
        states.append(output.hidden_states[-2])
        pooled = output.text_embeds if hasattr(output, "text_embeds") else None
        if not projected:
            ends = (ids == tokenizer.eos_token_id).int().argmax(dim=-1)
            pooled = output.last_hidden_state[torch.arange(len(ids), device=ids.device), ends]
    if pooled is None:
        raise InputError(
            "the second text encoder has no projected text embedding; it must be a CLIPTextModelWithProjection"
        )
    return TextStates(torch.cat(states, dim=-1), None, {"text_embeds": pooled})
