"""The embedded model's text encoder: the first layers of a small sentence encoder, with a smaller vocabulary.

`all-MiniLM-L6-v2` (Apache-2.0) understands many more words than captions will ever hold. Its later layers serve whole
sentences; its first ones suffice to tell words apart in their context, and let a noun's attention stay with the noun.
"""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoTokenizer, BertModel, BertTokenizerFast

from realcustom.data.stickers.backgrounds import PLACES
from realcustom.data.stickers.drawings import vocabulary


def prepare_text_encoder(source: str, folder: Path, *, layers: int, words: int, max_tokens: int) -> None:
    """Cut a BERT encoder down and write `text_encoder` and `tokenizer` into `folder`.

    Args:
        source: folder or hub id of the encoder, for example "sentence-transformers/all-MiniLM-L6-v2".
        folder: where to write.
        layers: how many of its layers to keep.
        words: the vocabulary keeps the specials, all single ASCII characters, every ASCII piece among the first `words`
            of the original (which is sorted by frequency), and what spells the stickers' nouns and places.
        max_tokens: longest prompt in tokens.
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
    model.half().save_pretrained(folder / "text_encoder")
    smaller.save_pretrained(folder / "tokenizer")
