"""The embedded model's text encoder: the first layers of a small sentence encoder, with a smaller vocabulary.

`all-MiniLM-L6-v2` (Apache-2.0) understands many more words than captions will ever hold. Its later layers serve whole
sentences; its first ones suffice to tell words apart in their context, and let a noun's attention stay with the noun.
Words that captions never say are read as nouns that they do say where the encoder takes them for nearly the same.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoTokenizer, BertModel, BertTokenizerFast, PreTrainedTokenizerBase

from realcustom.data.stickers.backgrounds import PLACES
from realcustom.data.stickers.captions import connecting_words
from realcustom.data.stickers.drawings import synonyms, vocabulary
from realcustom.data.stickers.scenes import HUES, POSITIONS

NEAR = 0.7
"""Cosine from which on a word that no caption says is read as a noun that captions do say.

Lower, more and more words that only belong to the world of a noun are read as it ("priests" as "church").
"""

AMBIGUOUS = {"can", "chick", "fly", "turkey"}
"""Nouns that mean something else more often: near "could", "girl", "flew" and "turkish"."""


def prepare_text_encoder(source: str, folder: Path, *, layers: int, words: int, max_tokens: int) -> dict[str, str]:
    """Cut a BERT encoder down, let it read words that captions never say as near ones, and write both its parts into `folder`.

    Args:
        source: folder or hub id of the encoder, for example "sentence-transformers/all-MiniLM-L6-v2".
        folder: where to write.
        layers: how many of its layers to keep.
        words: the vocabulary keeps the specials, all single ASCII characters, every ASCII piece among the first `words`
            of the original (which is sorted by frequency), and what spells the stickers' nouns and places.
        max_tokens: longest prompt in tokens.

    Returns:
        the words that captions never say and that are read as nouns, and as which, see `read_as_nearest`.
    """
    tokenizer = AutoTokenizer.from_pretrained(source)
    model = BertModel.from_pretrained(source, num_hidden_layers=layers, dtype=torch.float32)
    pieces = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    spoken = [f"{drawing.noun} {drawing.kind}" for drawing in vocabulary()] + [
        " ".join(place.phrases) for place in PLACES
    ]
    needed = {piece for words_spoken in spoken for piece in tokenizer.tokenize(words_spoken)}
    kept = [
        number
        for number, piece in enumerate(pieces)
        if piece in needed
        or piece in tokenizer.all_special_tokens
        or (piece.isascii() and not piece.startswith("[") and (number < words or len(piece.removeprefix("##")) == 1))
    ]
    smaller = BertTokenizerFast(
        vocab={pieces[number]: place for place, number in enumerate(kept)},
        do_lower_case=True,
        model_max_length=max_tokens,
    )
    with torch.no_grad():
        old = model.get_input_embeddings().weight
        model.set_input_embeddings(
            torch.nn.Embedding.from_pretrained(old[torch.tensor(kept)], padding_idx=smaller.pad_token_id)
        )
    model.config.use_attention_mask = True  # as diffusers' pipelines read it: padding takes no part in cross-attention
    model.config.vocab_size, model.config.pad_token_id = len(kept), smaller.pad_token_id
    model.embeddings.position_embeddings = torch.nn.Embedding.from_pretrained(
        model.embeddings.position_embeddings.weight[:max_tokens].clone()
    )
    model.embeddings.register_buffer("position_ids", torch.arange(max_tokens)[None], persistent=False)
    model.embeddings.register_buffer("token_type_ids", torch.zeros(1, max_tokens, dtype=torch.long), persistent=False)
    model.config.max_position_embeddings = max_tokens
    read_as = read_as_nearest(model, smaller, said=everything_said(), names=names_said(), near=NEAR)
    model.half().save_pretrained(folder / "text_encoder")
    smaller.save_pretrained(folder / "tokenizer")
    return read_as


def names_said() -> set[str]:
    """Return the nouns and kinds that captions of training say, but for the ambiguous ones."""
    names = {name for drawing in vocabulary() if not drawing.held_out for name in (drawing.noun, drawing.kind)}
    return names - AMBIGUOUS


def everything_said() -> set[str]:
    """Return all words that captions of training are made of, and the nouns that are held out.

    These are to show what a noun is worth that nobody was told, so they must stay what they are.
    """
    names = {name for drawing in vocabulary() for name in (drawing.noun, drawing.kind)}
    others = {name for names in synonyms().values() for name in names}
    phrases = {phrase for place in PLACES for phrase in place.phrases} | {phrase for phrase, _, _ in POSITIONS.values()}
    return names | others | phrases | set(HUES) | {"thing", connecting_words()}


@torch.no_grad()
def read_as_nearest(
    encoder: BertModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    said: Collection[str],
    names: Collection[str],
    near: float,
) -> dict[str, str]:
    """Give words that are never said the vectors of the nearest names that are: "puppy" that of "dog".

    A base that learned from captions knows the words that they say. Another word is a state like any other to it, however
    near to a known one, and is drawn as something in between. What is said is read as before, to the last bit.

    Args:
        encoder: whose word vectors are changed, of words that are one piece; those in -ed and -ing, mostly forms of verbs,
            are left alone.
        tokenizer: of the encoder.
        said: all that captions say.
        names: of what is said, the names of things.
        near: cosine of two words' states in one sentence from which on one is read as the other.

    Returns:
        for each word that was changed the name as which it is read.

    Raises:
        ValueError: a name is not said.
    """
    heard = {number for words in said for number in tokenizer(words).input_ids}
    pieces = tokenizer.get_vocab()
    known = sorted(name for name in names if name in pieces)
    if unsaid := [name for name in known if pieces[name] not in heard]:
        raise ValueError(f"names must be among what is said, but {', '.join(unsaid)} is not")
    unheard = sorted(
        word
        for word, number in pieces.items()
        if number not in heard and re.fullmatch(r"[a-z]{3,}", word) and not word.endswith(("ed", "ing"))
    )
    if not known or not unheard:
        return {}
    known_pieces = torch.tensor([pieces[word] for word in known])
    unheard_pieces = torch.tensor([pieces[word] for word in unheard])
    known_states, unheard_states = (
        F.normalize(_states_in_sentence(encoder, tokenizer, some), dim=1) for some in (known_pieces, unheard_pieces)
    )
    cosines, nearest = (unheard_states @ known_states.T).max(dim=1)
    changed = cosines >= near
    vectors = encoder.get_input_embeddings().weight
    vectors[unheard_pieces[changed]] = vectors[known_pieces[nearest[changed]]]
    return {unheard[row]: known[int(nearest[row])] for row in changed.nonzero()[:, 0].tolist()}


def _states_in_sentence(encoder: BertModel, tokenizer: PreTrainedTokenizerBase, pieces: Tensor) -> Tensor:
    """Return the state of each of some word pieces in one and the same sentence, `[n, width]`."""
    sentence = torch.tensor(tokenizer("a [MASK] on the beach").input_ids)
    hole = int((sentence == tokenizer.mask_token_id).nonzero())
    states = []
    for some in pieces.split(256):
        sentences = sentence.repeat(len(some), 1)
        sentences[:, hole] = some
        states.append(encoder(sentences).last_hidden_state[:, hole])
    return torch.cat(states)
