from __future__ import annotations

import unicodedata

import pytest
import torch

from realcustom.errors import InputError, WordAmbiguous, WordNotFound, WordTruncated
from realcustom.prompts import (
    cut_off,
    encode_prompts,
    encode_prompts_twice,
    find_word,
    find_words,
    spoken_words,
    word_columns,
)


@pytest.fixture
def bert(tiny):
    return tiny.tokenizer()


@pytest.mark.parametrize(
    ("prompt", "word", "said", "pieces"),
    [
        ("a dog on the beach", "dog", "dog", ["dog"]),
        ("A DOG on the beach", "dog", "DOG", ["dog"]),
        ("a dog on the beach", "Dog", "dog", ["dog"]),
        ("a dog on the beach", "  dog ", "dog", ["dog"]),
        ("two dogs", "dog", "dogs", ["dog", "##s"]),
        ("two buses at the beach", "bus", "buses", ["bus", "##es"]),
        ("puppies, robots", "puppy", "puppies", ["pupp", "##ies"]),
        ("puppies, robots", "PUPPY", "puppies", ["pupp", "##ies"]),
        ("PUPPIES, robots", "Puppy", "PUPPIES", ["pupp", "##ies"]),
        ("toys", "toy", "toys", ["toy", "##s"]),
        ("red ice  cream", "ice cream", "ice  cream", ["ice", "cream"]),
        ("red ice cream", "ice \t cream", "ice cream", ["ice", "cream"]),
        ("a wooden dog, on snow", "wooden dog", "wooden dog", ["wooden", "dog"]),
        ("the category and a cat", "cat", "cat", ["cat"]),
        ('the "cat".', "cat", "cat", ["cat"]),
        ("(a dog)", "a dog", "a dog", ["a", "dog"]),
    ],
)
def test_the_word_is_found(bert, prompt, word, said, pieces):
    found = find_word(prompt, word, bert)
    assert (found.text, found.start, list(found.pieces)) == (said, prompt.rindex(said), pieces)
    assert [bert.convert_ids_to_tokens(bert(prompt)["input_ids"])[token] for token in found.tokens] == pieces


@pytest.mark.parametrize(("kind", "tokens"), [("tokenizer", [(2, 3), (5,)]), ("clip_tokenizer", [(2, 3, 4), (6,)])])
def test_the_tokens_are_the_words_alone_with_word_pieces_and_with_byte_pairs(tiny, kind, tokens):
    tokenizer = getattr(tiny, kind)()
    found = [find_word("a Dogs, dog", "dog", tokenizer, occurrence=occurrence) for occurrence in (1, 2)]
    assert [word.tokens for word in found] == tokens


def test_the_words_of_a_prompt_are_counted_as_they_are_found(bert):
    prompt = "a dog and the dogs, a red dog"
    dogs = [word for word in spoken_words(prompt, bert) if word.text == "dog"]
    assert [(word.occurrence, word.occurrences) for word in dogs] == [(1, 3), (3, 3)]
    for word in dogs:
        assert find_word(prompt, word.text, bert, occurrence=word.occurrence).start == word.start


@pytest.mark.parametrize(("occurrence", "start"), [(1, 2), (2, 14), (3, 26)])
def test_an_occurrence_chooses(bert, occurrence, start):
    assert find_word("a dog and the dogs, a red dog", "dog", bert, occurrence=occurrence).start == start


@pytest.mark.parametrize("occurrence", [0, -1, 3])
def test_an_occurrence_that_is_not_there_is_an_error(bert, occurrence):
    with pytest.raises(InputError, match=f"occurrence must be from 1 to 2 .* but is {occurrence}"):
        find_word("a dog and a dog", "dog", bert, occurrence=occurrence)


def test_a_word_said_twice_is_ambiguous(bert):
    with pytest.raises(WordAmbiguous, match="says 'dog' 2 times; choose one with occurrence=1 to 2"):
        find_word("a dog and two dogs", "dog", bert)


@pytest.mark.parametrize(
    ("prompt", "word"),
    [
        ("a category", "cat"), ("a bobcat", "cat"), ("cats_and_dogs", "dog"), ("ice and cream", "ice cream"),
        ("a d.g", "d.*"), ("pups", "puppy"),
    ],
)  # fmt: skip
def test_a_part_of_a_word_or_phrase_is_no_hit(bert, prompt, word):
    with pytest.raises(WordNotFound):
        find_word(prompt, word, bert)


def test_an_absent_word_is_answered_with_near_ones_or_with_all_that_are_there(bert):
    with pytest.raises(WordNotFound, match=r"does not say 'robto'\. Did you mean 'robot'\?"):
        find_word("a robot at the beach", "robto", bert)
    with pytest.raises(WordNotFound, match=r"Its words are: a, robot, at, the, beach\."):
        find_word("a robot at the beach", "zebra", bert)


@pytest.mark.parametrize("word", ["", "  "])
def test_an_empty_word_is_an_error(bert, word):
    with pytest.raises(InputError, match="subject_word is empty"):
        find_word("a dog", word, bert)


@pytest.mark.parametrize(("before", "word"), [(14, "dog"), (20, "dog"), (13, "puppies")])
def test_a_word_beyond_the_last_token_that_is_read_is_an_error(bert, before, word):
    with pytest.raises(WordTruncated, match=f"'{word}' lies beyond the 16 tokens"):
        find_word("a " * before + word, word, bert)


def test_the_last_token_that_is_read_still_counts(bert):
    assert find_word("a " * 13 + "dog and the rest is cut off", "dog", bert).tokens == (14,)


def test_columns_mark_each_prompts_own_word(bert):
    prompts = ["a dog", "the red dogs"]
    (columns,) = word_columns(prompts, find_words(prompts, [[("dog", None)] * 2], bert), bert, 6)
    assert columns[..., 0].tolist() == [[0, 0, 1, 0, 0, 0], [0, 0, 0, 1, 1, 0]]
    assert columns.shape == (2, 6, 1)


def test_columns_of_the_words_behind_a_subjects_leave_other_subjects_out(bert):
    prompts = ["a red dog on the red robot", "the robot a dog"]
    said = [[("dog", None)] * 2, [("robot", None)] * 2]
    dog, robot = word_columns(prompts, find_words(prompts, said, bert), bert, 10, later=True)
    assert [column.nonzero()[:, 0].tolist() for column in dog[0].T] == [[3], [4], [5], [6]]  # itself, on, the, red
    assert [column.nonzero()[:, 0].tolist() for column in dog[1].T] == [[4], [], [], []]
    assert [column.nonzero()[:, 0].tolist() for column in robot[0].T] == [[7], []]
    assert [column.nonzero()[:, 0].tolist() for column in robot[1].T] == [[2], [3]]  # itself, a


def test_words_that_are_not_read_have_no_columns(bert):
    prompt = "a dog " + "on " * 20
    (columns,) = word_columns([prompt], find_words([prompt], [[("dog", None)]], bert), bert, 16, later=True)
    assert columns.shape == (1, 16, 1 + 12)
    assert columns.sum(dim=(0, 1)).eq(1).all()


def test_padding_is_masked_and_so_changes_no_state(tiny, bert):
    prompts = ["a dog", "a red robot on the beach"]
    long, short = (encode_prompts(prompts, bert, tiny.text_encoder(), shortest=shortest) for shortest in (False, True))
    assert (long.states.shape, short.states.shape) == ((2, 16, 32), (2, 8, 32))
    assert short.keep.sum(dim=1).tolist() == long.keep.sum(dim=1).tolist() == [4, 8]
    torch.testing.assert_close(long.states[0, :4], short.states[0, :4])
    torch.testing.assert_close(
        short.states[0, :4], encode_prompts(["a dog"], bert, tiny.text_encoder(), shortest=True).states[0]
    )


def test_padding_counts_like_any_token_where_the_text_encoder_does_not_mask_it(tiny, bert):
    text = encode_prompts(["a dog"], bert, tiny.text_encoder(use_attention_mask=False))
    assert text.keep is None
    assert text.states.shape == (1, 16, 32)


def test_what_exceeds_the_tokenizer_is_cut_off(tiny, bert):
    text = encode_prompts(["a " * 40], bert, tiny.text_encoder(), shortest=True)
    assert text.states.shape == (1, 16, 32)


def test_a_second_text_encoder_without_a_projected_embedding_is_refused(tiny):
    tokenizers, encoders = [tiny.clip_tokenizer()] * 2, [tiny.clip_text_encoder()] * 2
    with pytest.raises(InputError, match="must be a CLIPTextModelWithProjection"):
        encode_prompts_twice(["a dog"], tokenizers, encoders)


class TestSpokenWords:
    def test_every_word_has_its_tokens_in_order(self, tiny):
        found = spoken_words("A puppy, and a dog!", tiny.tokenizer())
        assert [(word.text, word.pieces, word.read) for word in found] == [
            ("A", ("a",), True), ("puppy", ("pupp", "##y"), True), ("and", ("and",), True), ("a", ("a",), True),
            ("dog", ("dog",), True),
        ]  # fmt: skip
        assert [word.start for word in found] == [0, 2, 9, 13, 15]

    def test_words_that_are_said_again_are_counted_whatever_their_case(self, tiny):
        found = spoken_words("a dog and a Dog", tiny.tokenizer())
        assert [(word.occurrence, word.occurrences) for word in found] == [(1, 2), (1, 2), (1, 1), (2, 2), (2, 2)]

    def test_a_word_that_is_cut_off_cannot_carry_a_subject(self, tiny):
        found = spoken_words("a dog and a puppy", tiny.tokenizer(model_max_length=7))
        assert [(word.text, word.read) for word in found if not word.read] == [("puppy", False)]
        assert spoken_words("", tiny.tokenizer()) == []


class TestAccents:
    """Letters with accents, composed or not, are the same ones."""

    @pytest.mark.parametrize("prompt_form", ["NFC", "NFD"])
    @pytest.mark.parametrize("word_form", ["NFC", "NFD"])
    def test_the_word_is_found(self, bert, prompt_form, word_form):
        prompt = unicodedata.normalize(prompt_form, "a r\xe9d d\xf3g\u0327, on snow")
        said = unicodedata.normalize(prompt_form, "d\xf3g\u0327")
        found = find_word(prompt, unicodedata.normalize(word_form, "d\xf3g\u0327"), bert)
        assert (found.text, found.start, found.tokens) == (said, prompt.index(said), (3,))

    @pytest.mark.parametrize("form", ["NFC", "NFD"])
    def test_a_word_without_them_is_another_one(self, bert, form):
        with pytest.raises(WordNotFound):
            find_word(unicodedata.normalize(form, "a dog\xe9 and a do\u0121"), "dog", bert)

    @pytest.mark.parametrize(
        "text", ["a d\xf3\u0121, the d\xf3\u0121", "a \ud55c\uae00 dog", "\u212b dog", "dog\u0301\u0301 dog"]
    )
    def test_the_words_of_a_prompt_are_the_same(self, bert, text):
        composed, apart = (spoken_words(unicodedata.normalize(form, text), bert) for form in ("NFC", "NFD"))
        assert [(one.pieces, one.read, one.occurrence, one.occurrences) for one in composed] == [
            (one.pieces, one.read, one.occurrence, one.occurrences) for one in apart
        ]
        assert [unicodedata.normalize("NFC", one.text) for one in apart] == [one.text for one in composed]

    @pytest.mark.parametrize("form", ["NFC", "NFD"])
    @pytest.mark.parametrize("end", [" ", "", " and a c\xe3t"])
    def test_no_letter_is_cut_in_two(self, tiny, form, end):
        prompt = unicodedata.normalize(form, f"a red d\xf3\u0121{end}")
        assert cut_off(prompt, tiny.tokenizer(model_max_length=5)) == unicodedata.normalize(form, end).strip()
