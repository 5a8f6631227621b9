"""The embedded model's text encoder: what captions say is read as it was, and near words as what they are near to."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from realcustom.data.stickers.drawings import DrawingStore, vocabulary
from realcustom.data.stickers.scenes import SceneOptions, SceneSource
from realcustom.data.stickers.text_encoder import everything_said, names_said, prepare_text_encoder, read_as_nearest
from realcustom.evaluation.benchmark import PARAPHRASED_NOUNS
from realcustom.loading import resolve


@pytest.fixture(scope="module")
def shipped():
    return resolve("stickers")


def rows(encoder):
    return encoder.get_input_embeddings().weight.detach().clone()


class TestReadAsNearest:
    SAID = ("a dog on the beach", "cat", "robot")
    NAMES = ("dog", "cat", "ice cream")

    def changed(self, tiny, near):
        encoder, tokenizer = tiny.text_encoder(), tiny.tokenizer()
        before = rows(encoder)
        read_as = read_as_nearest(encoder, tokenizer, said=self.SAID, names=self.NAMES, near=near)
        return read_as, before, rows(encoder), tokenizer.get_vocab()

    def test_each_unheard_word_is_given_the_vector_of_the_name_whose_state_is_nearest(self, tiny):
        read_as, before, after, pieces = self.changed(tiny, near=-1.0)
        heard = {*["a", "dog", "on", "the", "beach", "cat", "robot"], "[CLS]", "[SEP]", "[UNK]"}
        assert set(read_as) == {
            word for word in pieces
            if word.isalpha() and len(word) > 2 and word not in heard and not word.endswith(("ed", "ing"))
        }  # fmt: skip
        encoder = tiny.text_encoder()

        def state(word):
            sentence = torch.tensor([[pieces[said] for said in ("[CLS]", "a", word, "on", "the", "beach", "[SEP]")]])
            return encoder(sentence).last_hidden_state[0, 2]

        for word, name in read_as.items():
            near = {other: torch.cosine_similarity(state(word), state(other), dim=0).item() for other in ("dog", "cat")}
            assert name == max(near, key=near.__getitem__), word
            assert torch.equal(after[pieces[word]], before[pieces[name]])
        untouched = [number for word, number in pieces.items() if word not in read_as]
        assert torch.equal(after[untouched], before[untouched])
        assert len(set(read_as.values())) == 2

    def test_words_that_are_not_near_enough_stay_what_they_are(self, tiny):
        read_as, before, after, _ = self.changed(tiny, near=1.01)
        assert read_as == {}
        assert torch.equal(before, after)
        counts = [len(self.changed(tiny, near=near)[0]) for near in (-1.0, 0.2, 0.4, 0.6, 0.8)]
        assert counts == sorted(counts, reverse=True)
        assert len(set(counts)) > 2

    def test_a_name_that_is_not_said_is_refused(self, tiny):
        with pytest.raises(ValueError, match="names must be among what is said, but cat is not"):
            read_as_nearest(tiny.text_encoder(), tiny.tokenizer(), said=["dog"], names=["dog", "cat"], near=0.7)


def test_what_is_said_is_all_that_captions_say(shipped):
    """So nothing that the base learned is read otherwise than it was."""
    tokenizer = AutoTokenizer.from_pretrained(shipped / "tokenizer")
    known = {number for words in everything_said() for number in tokenizer(words).input_ids}
    drawings = vocabulary()
    pixels = np.full((len(drawings), 128, 128, 4), 200, np.uint8)
    blank = DrawingStore(drawings, pixels, np.zeros(len(drawings)))
    options = SceneOptions(
        common_share=0.2, kind_share=0.2, thing_share=0.1, colour_share=0.3, worn_share=0.3, beside_share=0.4,
        position_share=0.5, synonym_share=0.5,
    )  # fmt: skip
    source = SceneSource(blank, options, seed=3, side=16)
    captions = {source.scene(number).caption for number in range(1500)}
    unknown = {caption for caption in captions if not known >= set(tokenizer(caption).input_ids)}
    assert unknown == set()
    assert len(captions) > 1200


def test_held_out_nouns_and_what_has_another_meaning_are_no_names_as_which_others_are_read():
    names = names_said()
    assert {"dog", "animal"} <= names
    assert names.isdisjoint({drawing.noun for drawing in vocabulary() if drawing.held_out})
    assert names.isdisjoint({"can", "chick", "fly", "turkey"})


def test_what_ships_is_a_fixed_point_and_a_smaller_vocabulary_is_read_alike(shipped, tmp_path):
    source = tmp_path / "source"
    shutil.copytree(shipped / "tokenizer", source)
    shutil.copy(shipped / "text_encoder" / "config.json", source)
    pieces = AutoTokenizer.from_pretrained(source).get_vocab()
    weights = load_file(shipped / "text_encoder" / "model.safetensors")
    words = weights["embeddings.word_embeddings.weight"]
    parted = weights | {"embeddings.word_embeddings.weight": words.clone()}
    parted["embeddings.word_embeddings.weight"][pieces["present"]] *= 1.01
    save_file(parted, source / "model.safetensors", {"format": "pt"})
    read_as = prepare_text_encoder(str(source), tmp_path / "made", layers=4, words=3000, max_tokens=32)
    made = load_file(tmp_path / "made" / "text_encoder" / "model.safetensors")
    kept = AutoTokenizer.from_pretrained(tmp_path / "made" / "tokenizer").get_vocab()
    assert read_as["present"] == "gift"
    assert kept.keys() < pieces.keys()
    assert {"present", "parrot", "meadow"} < kept.keys()
    expected = weights | {
        "embeddings.word_embeddings.weight": words[[pieces[word] for word in sorted(kept, key=kept.__getitem__)]]
    }
    assert made.keys() == expected.keys()
    assert [name for name in expected if not torch.equal(made[name], expected[name])] == []


def test_the_paraphrases_that_are_one_piece_are_read_as_what_they_mean(shipped):
    pieces = AutoTokenizer.from_pretrained(shipped / "tokenizer").get_vocab()
    words = load_file(shipped / "text_encoder" / "model.safetensors")["embeddings.word_embeddings.weight"]
    own = {word: noun for word, noun in PARAPHRASED_NOUNS.items() if word in pieces}
    assert len(own) == 7
    assert [word for word, noun in own.items() if not torch.equal(words[pieces[word]], words[pieces[noun]])] == []
