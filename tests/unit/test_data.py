from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from realcustom.data.examples import Example, collate, to_pixels
from realcustom.data.stickers.backgrounds import PLACES
from realcustom.data.stickers.captions import with_article
from realcustom.data.stickers.drawings import (
    SPLITS,
    Drawing,
    DrawingStore,
    dominant_hue,
    icon_sets,
    synonyms,
    vocabulary,
)
from realcustom.data.stickers.scenes import (
    HUES,
    POSITIONS,
    Fit,
    Pose,
    SceneOptions,
    SceneSource,
    ink_box,
    place_drawing,
    shift_hue,
    worn_pose,
)
from realcustom.errors import InputError
from realcustom.evaluation.benchmark import PARAPHRASED_NOUNS, PARAPHRASED_PLACES
from realcustom.prompts import find_word

DRAWINGS = [
    Drawing("robot", "toy", "noto", "robot", "train", common=True, held_out=False),
    Drawing("ice cream", "food", "noto", "ice-cream", "train", common=False, held_out=False),
    Drawing("owl", "animal", "twemoji", "owl", "train", common=False, held_out=False),
]


@pytest.fixture(scope="module")
def store():
    """A red disc, a green square and a grey triangle, all opaque inside and empty outside."""
    pictures = [Image.new("RGBA", (128, 128)) for _ in DRAWINGS]
    disc, square, triangle = (ImageDraw.Draw(picture) for picture in pictures)
    disc.ellipse((0, 0, 127, 127), fill=(220, 20, 20, 255))
    square.rectangle((10, 0, 117, 127), fill=(20, 200, 20, 255))
    triangle.polygon(((64, 0), (127, 127), (0, 127)), fill=(90, 90, 90, 255))
    pixels = np.stack([np.asarray(picture) for picture in pictures])
    return DrawingStore(DRAWINGS, pixels, np.array([dominant_hue(rgba) for rgba in pixels], np.float32))


def test_one_drawing_of_each_noun_is_in_the_first_style_that_it_has():
    kept = [
        ("dog", "noto"),
        ("dog", "twemoji"),
        ("cat", "noto"),
        ("cat", "fxemoji"),
        ("owl", "fxemoji"),
        ("cup", "openmoji"),
    ]
    drawings = [Drawing(noun, "thing", style, noun, "train", common=True, held_out=False) for noun, style in kept]
    whole = DrawingStore(drawings, np.arange(6)[:, None, None, None], np.zeros(6))
    one = whole.one_each(["twemoji", "noto", "fxemoji"])
    assert [(drawing.noun, drawing.style) for drawing in one.drawings] == [
        ("dog", "twemoji"), ("cat", "noto"), ("owl", "fxemoji"),
    ]  # fmt: skip
    assert one.pixels.ravel().tolist() == [1, 2, 4]
    with pytest.raises(
        InputError, match="no drawing in the style emojione; there are fxemoji, noto, openmoji, twemoji"
    ):
        whole.one_each(["noto", "emojione"])


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_things_are_mirrored_in_the_said_share_of_scenes(store, share):
    scenes = source(store, mirrored_share=share)
    assert {scenes.scene(number).pose.mirrored for number in range(20)} == {bool(share)}


def source(store, *, seed=0, reference="self", **options):
    return SceneSource(store, SceneOptions(**{"backgrounds": 1, **options}), seed=seed, side=48, reference=reference)


@pytest.fixture(scope="module")
def scenes(store):
    return source(store, colour_share=0.3)


def same(one: Example, other: Example) -> bool:
    arrays = zip((one.picture, one.region, one.reference), (other.picture, other.region, other.reference), strict=True)
    return (one.caption, one.word) == (other.caption, other.word) and all(np.array_equal(*pair) for pair in arrays)


class TestVocabulary:
    @pytest.fixture(scope="class")
    def nouns(self):
        nouns = defaultdict(list)
        for drawing in vocabulary():
            nouns[drawing.noun].append(drawing)
        return nouns

    def test_counts(self, nouns):
        drawings = vocabulary()
        assert (len(drawings), len(nouns), len(icon_sets())) == (3212, 539, 7)
        assert len({drawing.noun for drawing in drawings if drawing.common}) == 69
        assert len({drawing.noun for drawing in drawings if drawing.held_out}) == 78
        assert Counter(drawing.split for drawing in drawings) == {"train": 2105, "validation": 518, "test": 589}

    def test_drawings_of_one_identity_share_a_split(self):
        splits = defaultdict(set)
        for drawing in vocabulary():
            splits[drawing.identity].add(drawing.split)
        assert all(len(found) == 1 for found in splits.values())
        assert sum(1 for name in splits if name.endswith("/fluent")) == 539

    def test_no_drawing_of_a_held_out_noun_is_trained_on(self, nouns):
        held_out = {noun for noun, drawings in nouns.items() if any(drawing.held_out for drawing in drawings)}
        trained = {noun for noun, drawings in nouns.items() if any(drawing.split == "train" for drawing in drawings)}
        assert held_out == set(nouns) - trained

    def test_every_other_noun_has_drawings_to_train_on_and_to_measure_with(self, nouns):
        for drawings in nouns.values():
            if not drawings[0].held_out:
                splits = {drawing.split for drawing in drawings}
                assert "train" in splits
                assert splits - {"train"}

    def test_a_noun_is_common_held_out_and_of_a_kind_as_a_whole(self, nouns):
        for drawings in nouns.values():
            assert len({(drawing.kind, drawing.common, drawing.held_out) for drawing in drawings}) == 1
            assert not (drawings[0].common and drawings[0].held_out)

    def test_another_word_belongs_to_one_name_that_is_trained_on_and_says_no_other(self, nouns):
        names = {name for drawings in nouns.values() for one in drawings for name in (one.noun, one.kind)} | {"thing"}
        known = {noun for noun, drawings in nouns.items() if not drawings[0].held_out}
        assert synonyms().keys() <= known | {drawings[0].kind for drawings in nouns.values()}
        assert set(Counter(word for words in synonyms().values() for word in words).values()) == {1}
        for name, words in synonyms().items():
            for word in words:
                said = set(word.split())
                assert not {other for other in names - {name} if set(other.split()) <= said}, (name, word)
                assert not said & (HUES.keys() | POSITIONS.keys()), word

    def test_what_stickerbench_calls_words_that_no_caption_said_are_none(self):
        said = {part for words in synonyms().values() for word in words for part in word.split()}
        assert not said & PARAPHRASED_NOUNS.keys()
        assert not [said for said in PARAPHRASED_PLACES for place in PLACES if said in place.phrases]

    def test_no_drawing_occurs_twice_and_every_set_is_pinned(self):
        places = [(drawing.style, drawing.icon) for drawing in vocabulary()]
        assert len(places) == len(set(places))
        assert {style for style, _ in places} == {one.name for one in icon_sets()}
        assert {drawing.split for drawing in vocabulary()} == set(SPLITS)
        assert all(one.integrity.startswith("sha512-") and one.license and one.author for one in icon_sets())


class TestStore:
    def test_saving_and_loading_is_exact(self, store, tmp_path):
        store.save(tmp_path / "new")
        loaded = DrawingStore.load(tmp_path / "new")
        assert loaded.drawings == store.drawings
        np.testing.assert_array_equal(loaded.pixels, store.pixels)
        np.testing.assert_array_equal(loaded.hues, store.hues)

    def test_a_folder_without_drawings_says_how_to_make_them(self, tmp_path):
        with pytest.raises(InputError, match="holds no prepared drawings; make them with: realcustom data stickers"):
            DrawingStore.load(tmp_path)

    def test_where_selects_drawings_with_their_pixels(self, store):
        some = store.where(lambda drawing: drawing.noun != "ice cream")
        assert [drawing.noun for drawing in some.drawings] == ["robot", "owl"]
        np.testing.assert_array_equal(some.pixels, store.pixels[[0, 2]])

    def test_the_dominant_hue_is_that_of_the_colourful_part(self, store):
        assert store.hues[:2] == pytest.approx([0, 120], abs=2)
        assert np.isnan(store.hues[2])
        assert np.isnan(dominant_hue(np.zeros((8, 8, 4), np.uint8)))


class TestScenes:
    @pytest.fixture(scope="class")
    def tokenizer(self, tiny):
        return tiny.tokenizer(model_max_length=32)

    @pytest.mark.parametrize("reference", ["self", "other"])
    def test_the_same_number_is_the_same_scene_in_whatever_order(self, store, reference):
        one, other = (source(store, seed=3, reference=reference) for _ in range(2))
        forwards = [one[number] for number in range(4)]
        backwards = [other[number] for number in reversed(range(4))][::-1]
        assert all(same(*pair) for pair in zip(forwards, backwards, strict=True))
        assert not any(same(forwards[0], later) for later in forwards[1:])
        assert not same(source(store, seed=4, reference=reference)[0], forwards[0])

    def test_the_picture_is_its_background_wherever_the_thing_is_not(self, store):
        """Empty drawings in the same scenes leave just the backgrounds."""
        hues = np.full(len(DRAWINGS), np.nan, np.float32)
        with_things, without = (
            source(DrawingStore(DRAWINGS, pixels, hues)) for pixels in (store.pixels, np.zeros_like(store.pixels))
        )
        for number in range(12):
            scene, background = with_things.scene(number), without.scene(number).picture
            change = np.abs(scene.picture.astype(int) - background).max(axis=-1)
            assert change[scene.region == 0].max() <= 1
            assert (change[scene.region > 0.5] > 1).mean() > 0.95
            assert 0.1 < (scene.region > 0.5).mean() < 0.8

    def test_an_example_is_its_scene(self, scenes):
        example, scene = scenes[5], scenes.scene(5)
        assert (example.caption, example.word) == (scene.caption, scene.word)
        assert np.array_equal(example.picture, scene.picture)
        assert np.array_equal(example.region, scene.region)
        assert example.reference is example.picture

    def test_another_reference_shows_the_same_thing_elsewhere(self, store):
        selves, others = source(store), source(store, reference="other")
        for number in range(6):
            assert np.array_equal(selves[number].picture, others[number].picture)
            assert not np.array_equal(others[number].reference, others[number].picture)
        red = source(store.where(lambda drawing: drawing.noun == "robot"), colour_share=0, reference="other")
        reference = red[0].reference.astype(int)
        assert ((abs(reference - (220, 20, 20)) < 12).all(axis=-1)).mean() > 0.05

    def test_a_reference_is_a_portrait_that_turns_as_its_scene_does(self, store):
        half = np.zeros((128, 128, 4), np.uint8)  # red on the left, blue on the right, so that a mirrored one is known
        half[:, :64], half[:, 64:] = (220, 20, 20, 255), (20, 20, 220, 255)
        turned = source(
            DrawingStore(DRAWINGS[2:], half[None], np.full(1, np.nan, np.float32)),
            reference="other", smallest_portrait=0.7, largest_portrait=0.9, smallest=0.5, largest=0.6,
        )  # fmt: skip
        facing = set()
        for number in range(12):
            example = turned[number]
            left = []
            for picture in (example.picture, example.reference):
                red, blue = ((abs(picture.astype(int) - colour) < 12).all(axis=-1) for colour in half[0, [0, -1], :3])
                left.append(np.argwhere(red)[:, 1].mean() < np.argwhere(blue)[:, 1].mean())
            rows, columns = np.argwhere(red | blue).T
            assert abs(columns.mean() / 48 - 0.5) < 0.1
            assert abs(rows.mean() / 48 - 0.5) < 0.1
            assert 0.6 < np.ptp(rows) / 48 < 1
            assert left[0] == left[1]
            facing.add(bool(left[0]))
        assert facing == {True, False}

    def test_the_frames_are_where_the_subject_lies(self, store):
        """Of an upright square drawing that lies inside the picture, the region is the frame."""
        full = np.full((1, 128, 128, 4), (220, 20, 20, 255), np.uint8)
        squares = DrawingStore(DRAWINGS[:1], full, np.full(1, np.nan, np.float32))
        checked = 0
        for number in range(30):
            example = source(squares, reference="other", smallest=0.3, largest=0.4)[number]
            y, x, size = example.frames[0]
            rows, columns = np.argwhere(example.region > 0.5).T
            assert ((rows.mean() + 0.5) / 48, (columns.mean() + 0.5) / 48) == pytest.approx((y, x), abs=0.02)
            assert np.sqrt(example.region.sum()) / 48 == pytest.approx(size, abs=0.02)
            red = (abs(example.reference.astype(int) - (220, 20, 20)) < 12).all(axis=-1)
            y, x, size = example.frames[1]
            rows, columns = np.argwhere(red).T
            if red.mean() < size**2 * 1.1:  # on a red place there is nothing to see
                assert ((rows.mean() + 0.5) / 48, (columns.mean() + 0.5) / 48) == pytest.approx((y, x), abs=0.03)
                checked += 1
        assert checked > 20

    def test_a_reference_of_another_size_shows_the_same(self, store):
        small, large = (
            SceneSource(store, SceneOptions(backgrounds=1), seed=0, side=32, reference="other", reference_side=side)[3]
            for side in (32, 96)
        )
        assert (small.picture.shape, large.picture.shape, large.reference.shape) == (
            (32,) * 2 + (3,),
            (32,) * 2 + (3,),
            (96,) * 2 + (3,),
        )
        assert small.frames == large.frames
        shrunk = np.asarray(Image.fromarray(large.reference).resize((32, 32), Image.Resampling.BOX), int)
        assert abs(shrunk - small.reference).mean() < 12

    @pytest.mark.parametrize(("share", "turns"), [("colour_share", False), ("hue_share", True)])
    def test_only_a_colour_that_the_caption_does_not_say_is_the_references_too(self, store, share, turns):
        shares = {"colour_share": 0, "hue_share": 0, share: 1}
        recoloured = source(store.where(lambda drawing: drawing.noun == "robot"), reference="other", **shares)
        red = [
            ((abs(recoloured[number].reference.astype(int) - (220, 20, 20)) < 12).all(axis=-1)).mean() > 0.2
            for number in range(8)
        ]
        assert all(red) or turns
        assert sum(red) <= 3 or not turns

    def test_every_caption_says_its_word_and_its_place(self, scenes, tokenizer):
        phrases = {place.name: place.phrases for place in PLACES}
        for number in range(80):
            scene = scenes.scene(number)
            assert find_word(scene.caption, scene.word, tokenizer).text == scene.word
            assert any(phrase in scene.caption for phrase in phrases[scene.place])

    def test_captions_name_things_by_noun_kind_and_colour_as_often_as_asked(self, store):
        named = source(store, thing_share=0.25, kind_share=0.25, colour_share=0.5, common_share=0)
        found = [named.scene(number) for number in range(400)]
        words = Counter(scene.word for scene in found)
        assert words["thing"] / 400 == pytest.approx(0.25, abs=0.08)
        assert sum(words[drawing.kind] for drawing in DRAWINGS) / 400 == pytest.approx(0.25, abs=0.08)
        colourful = [scene for scene in found if DRAWINGS[scene.drawing].noun != "owl"]
        said = [any(f"{colour} {scene.word}" in scene.caption for colour in HUES) for scene in colourful]
        assert np.mean(said) == pytest.approx(0.5, abs=0.1)
        grey = [scene for scene in found if DRAWINGS[scene.drawing].noun == "owl"]
        assert not any(f"{colour} {scene.word}" in scene.caption for scene in grey for colour in HUES)

    def test_captions_say_other_words_as_often_as_asked_and_without_them_nothing_changes(self, store):
        plain, other = source(store, kind_share=0.25), source(store, kind_share=0.25, synonym_share=0.5)
        assert all(
            same(plain[number], source(store, kind_share=0.25, synonym_share=0.0)[number]) for number in range(20)
        )
        words = Counter()
        for number in range(400):
            example = other[number]
            names = [name for one in DRAWINGS if one.noun == example.facts["noun"] for name in (one.noun, one.kind)]
            assert example.word in [*names, "thing", *(word for name in names for word in synonyms().get(name, ()))]
            assert example.word in example.caption
            words[example.word] += 1
        robots = sum(words[word] for word in ("robot", *synonyms()["robot"]))
        assert sum(words[word] for word in synonyms()["robot"]) / robots == pytest.approx(0.5, abs=0.12)

    def test_a_position_that_a_caption_says_is_where_the_thing_is(self, store):
        told = source(store, position_share=0.5)
        found = [told.scene(number) for number in range(60)]
        assert 15 < sum(bool(scene.position) for scene in found) < 45
        assert {scene.position for scene in found} == {"", *POSITIONS}
        for scene in found:
            if scene.position:
                phrase, x, y = POSITIONS[scene.position]
                assert scene.caption.count(scene.position) == 1  # not "at the bottom, at the bottom of the ocean"
                assert f" {phrase}" in scene.caption
                assert (scene.pose.x, scene.pose.y) == pytest.approx((x, y), abs=0.1)
                assert scene.pose.size <= 0.55

    def test_things_are_near_the_middle_and_upright_where_the_world_is_narrow(self, store):
        narrow = source(store, centre_spread=0.0, tilt=0.0, position_share=0.3, beside_share=0.3)
        found = [narrow.scene(number) for number in range(40)]
        alone = [scene.pose for scene in found if not scene.position and not scene.beside]
        assert {(pose.x, pose.y) for pose in alone} == {(0.5, 0.5)}
        assert {scene.pose.angle for scene in found} == {0.0}
        assert {scene.pose.x for scene in found if scene.beside} == {0.38, 0.62}  # beside it there is room
        assert all((scene.pose.x, scene.pose.y) != (0.5, 0.5) for scene in found if scene.position)

    def test_the_colour_that_a_caption_says_is_the_colour_of_the_thing(self, store):
        coloured = source(store.where(lambda drawing: drawing.noun == "robot"), colour_share=1)
        for number in range(10):
            scene = coloured.scene(number)
            colour = next(colour for colour in HUES if f"{colour} {scene.word}" in scene.caption)
            thing = np.concatenate([scene.picture, np.uint8(255 * (scene.region[..., None] > 0.99))], axis=-1)
            distance = (dominant_hue(thing) - HUES[colour] + 180) % 360 - 180
            assert abs(distance) < 20

    def test_common_nouns_are_shown_as_often_as_asked(self, store):
        shown = source(store, common_share=0.7)
        robots = [shown.scene(number).drawing == 0 for number in range(200)]
        assert np.mean(robots) == pytest.approx(0.7 + 0.3 / 3, abs=0.1)

    @pytest.mark.parametrize("noun", ["house", "orange"])
    def test_a_place_is_never_said_with_the_word_of_the_thing(self, store, tokenizer, noun):
        drawings = [Drawing(noun, "object", "noto", noun, "train", common=False, held_out=False)]
        only = source(DrawingStore(drawings, store.pixels[2:], store.hues[2:]), kind_share=0, thing_share=0)
        for number in range(150):
            scene = only.scene(number)
            find_word(scene.caption, scene.word, tokenizer)


class TestExtras:
    @pytest.fixture(scope="class")
    def dressed(self, store):
        """The three drawings, and a black block in the middle of its square that is a top hat."""
        hat = Image.new("RGBA", (128, 128))
        ImageDraw.Draw(hat).rectangle((32, 48, 95, 79), fill=(0, 0, 0, 255))
        drawings = [*DRAWINGS, Drawing("top hat", "object", "noto", "top-hat", "train", common=False, held_out=False)]
        return DrawingStore(drawings, np.stack([*store.pixels, np.asarray(hat)]), np.append(store.hues, np.nan))

    def test_a_hat_stands_on_the_head_whole_and_the_reference_has_none(self, dressed):
        scenes = source(dressed, reference="other", worn_share=1.0, hue_share=0.0, colour_share=0.0)
        worn = [example for example in (scenes[number] for number in range(60)) if "worn" in example.facts]
        assert {example.facts["worn"] for example in worn} == {"top hat"}
        for example in worn:
            assert " wearing a top hat" in example.caption
            plain = scenes.scene(0).picture.shape
            black = (example.picture.astype(int).sum(axis=2) < 20) & (example.region < 0.5)
            rows, columns = np.flatnonzero(black.any(axis=1)), np.flatnonzero((example.region > 0.5).any(axis=0))
            assert example.picture.shape == plain
            if example.facts["place"] in ("black", "night", "space"):
                continue
            y, x, size = example.frames[0]
            assert rows.size
            assert rows[0] / 48 < y - 0.2 * size
            assert columns[0] / 48 < x + 0.5 * size

    @pytest.mark.parametrize("mirrored", [False, True])
    @pytest.mark.parametrize("angle", [0.0, 30.0])
    def test_what_is_worn_turns_with_its_wearer(self, angle, mirrored):
        wearer = Pose(0.5, 0.5, 0.4, angle, mirrored=mirrored)
        fit = Fit(width=0.5, height=0.0, part=1.0)
        found = worn_pose(wearer, (0.5, 0.0, 1.0, 1.0), (0.25, 0.25, 0.75, 0.75), fit)
        # half of the wearer's half; its lower edge, .25 below its middle, on the wearer's top, right of the middle by .25
        across, down = (-0.25 if mirrored else 0.25), -0.5 - 0.5 * 0.25
        turn = np.deg2rad(angle)
        assert found.size == pytest.approx(0.4 * 0.5)
        assert found.x == pytest.approx(0.5 + 0.4 * (across * np.cos(turn) + down * np.sin(turn)))
        assert found.y == pytest.approx(0.5 + 0.4 * (down * np.cos(turn) - across * np.sin(turn)))
        assert (found.angle, found.mirrored) == (angle, mirrored)

    def test_a_second_thing_is_said_and_seen(self, store):
        scenes = source(store, beside_share=1.0, common_share=0.0, colour_share=0.0, kind_share=0.0, thing_share=0.0)
        said = [scenes[number] for number in range(60)]
        beside = [example for example in said if "beside" in example.facts]
        assert all("robot" in example.caption.split() for example in beside)
        assert {example.facts["noun"] for example in beside} == {"ice cream", "owl"}
        red = [(np.abs(example.picture.astype(int) - (220, 20, 20)).max(axis=2) < 12).sum() for example in beside]
        assert min(red) > 20
        for example in beside:
            is_red = np.abs(example.picture.astype(int) - (220, 20, 20)).max(axis=2) < 12
            assert example.foreground[is_red].mean() > 0.9
            assert (example.foreground >= example.region).all()
            assert (example.foreground > 0.5).mean() < 0.9

    @pytest.mark.parametrize("share", [0.0, 1.0])
    def test_the_second_thing_stands_to_the_right_unless_it_is_all_mirrored(self, store, share):
        scenes = source(store, beside_share=1.0, common_share=0.0, centre_spread=0.0, mirrored_share=share)
        found = [scene for scene in map(scenes.scene, range(30)) if scene.beside]
        assert {scene.pose.x for scene in found} == {0.62 if share else 0.38}
        for scene in found:
            is_red = np.abs(scene.picture.astype(int) - (220, 20, 20)).max(axis=2) < 12  # the robot
            assert (is_red.nonzero()[1].mean() > 24) != bool(share)

    def test_what_is_worn_belongs_to_the_foreground_and_not_to_the_thing(self, dressed):
        scenes = source(dressed, worn_share=1.0)
        for example in (scenes[number] for number in range(40)):
            if "worn" in example.facts:
                worn = (example.foreground > 0.9) & (example.region < 0.1)
                assert worn.any()
                assert example.picture[worn].max(axis=1).mean() < 60  # the hat is black

    def test_shares_are_kept_and_without_them_nothing_changes(self, dressed):
        scenes = source(dressed, worn_share=0.3, beside_share=0.2)
        facts = [scenes[number].facts for number in range(400)]
        assert 0.2 < sum("worn" in one for one in facts) / 400 < 0.35
        assert 0.08 < sum("beside" in one for one in facts) / 400 < 0.25

    def test_ink_is_what_is_more_solid_than_transparent(self):
        rgba = np.zeros((8, 8, 4), np.uint8)
        assert ink_box(rgba) == (0, 0, 1, 1)
        rgba[2:4, 1:7, 3] = 200
        rgba[0, 0, 3] = 100
        assert ink_box(rgba) == (1 / 8, 2 / 8, 7 / 8, 4 / 8)


class TestPlacing:
    RGBA = np.full((64, 64, 4), (0, 0, 0, 255), np.uint8)

    def place(self, rgba=RGBA, shape=(40, 60), **pose):
        canvas = np.full((*shape, 3), 200, np.uint8)
        return place_drawing(
            canvas, rgba, Pose(**{"x": 0.5, "y": 0.5, "size": 0.5, "angle": 0, "mirrored": False, **pose})
        )

    def test_the_region_is_where_the_drawing_lies(self):
        picture, region = self.place(x=0.25)
        expected = np.zeros((40, 60))
        expected[10:30, 5:25] = 1
        np.testing.assert_array_equal(region, expected)
        np.testing.assert_array_equal(picture, np.where(expected[..., None] > 0, 0, 200).repeat(3, axis=-1))

    @pytest.mark.parametrize(
        ("x", "y", "rows", "columns"), [(0, 0, slice(0, 10), slice(0, 10)), (1, 1, slice(30, 40), slice(50, 60))]
    )
    def test_what_leaves_the_picture_is_cut_off(self, x, y, rows, columns):
        picture, region = self.place(x=x, y=y)
        expected = np.zeros((40, 60))
        expected[rows, columns] = 1
        np.testing.assert_array_equal(region, expected)
        assert picture.shape == (40, 60, 3)

    def test_a_thing_larger_than_the_picture_fills_it(self):
        assert self.place(size=3.0)[1].min() == 1

    def test_half_transparent_pixels_mix_and_the_canvas_is_not_changed(self):
        rgba = np.full((16, 16, 4), (100, 0, 0, 51), np.uint8)
        canvas = np.full((16, 16, 3), 200, np.uint8)
        picture, region = place_drawing(canvas, rgba, Pose(0.5, 0.5, 1.0, 0, mirrored=False))
        np.testing.assert_allclose(region, 0.2, atol=0.01)
        np.testing.assert_allclose(picture[8, 8], (180, 160, 160), atol=2)
        assert (canvas == 200).all()

    def test_mirroring_and_turning(self):
        rgba = np.zeros((64, 64, 4), np.uint8)
        rgba[:, :32, 3] = 255
        left = [self.place(rgba, mirrored=mirrored)[1][10:30, 20:30].mean() for mirrored in (False, True)]
        assert left == pytest.approx([1, 0], abs=0.05)
        assert self.place(rgba, angle=90)[1][20:30, 20:40].mean() == pytest.approx(1, abs=0.05)


class TestHue:
    def test_no_turn_changes_almost_nothing(self):
        rgba = np.random.default_rng(0).integers(0, 256, (16, 16, 4), np.uint8)
        for degrees in (0, 360, -720):
            turned = shift_hue(rgba, degrees)
            np.testing.assert_allclose(turned[..., :3].astype(int), rgba[..., :3], atol=8)
            np.testing.assert_array_equal(turned[..., 3], rgba[..., 3])

    @pytest.mark.parametrize(
        ("degrees", "colour"), [(120, (0, 255, 0)), (-120, (0, 0, 255)), (180, (0, 255, 255)), (480, (0, 255, 0))]
    )
    def test_red_turns_to_known_colours(self, degrees, colour):
        red = np.full((2, 2, 4), (255, 0, 0, 77), np.uint8)
        turned = shift_hue(red, degrees)
        np.testing.assert_allclose(turned[0, 0, :3].astype(int), colour, atol=6)
        assert (turned[..., 3] == 77).all()


class TestExamples:
    def test_pixels_span_minus_one_to_one(self):
        picture = np.zeros((2, 3, 3), np.uint8)
        picture[0, 2] = (255, 51, 0)
        pixels = to_pixels([picture])
        assert pixels.shape == (1, 3, 2, 3)
        torch.testing.assert_close(pixels[0, :, 0, 2], torch.tensor([1.0, -0.6, -1.0]))

    @pytest.mark.parametrize("known", [True, False])
    def test_regions_are_there_only_if_every_example_knows_its_own(self, known):
        picture, region = np.zeros((2, 2, 3), np.uint8), np.ones((2, 2), np.float32)
        batch = collate(
            [
                Example(picture, "a", "a", picture, region),
                Example(picture, "b", "b", picture, region if known else None),
            ]
        )
        assert batch.captions == ["a", "b"]
        assert (batch.regions.shape if known else batch.regions) == ((2, 2, 2) if known else None)
        assert batch.foregrounds is None


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("robot", "a robot"), ("owl", "an owl"), ("orange robot", "an orange robot"), ("umbrella", "an umbrella"),
        ("unicorn", "a unicorn"), ("grapes", "grapes"), ("bread", "bread"), ("cactus", "a cactus"),
        ("glass", "a glass"), ("piece of clothing", "a piece of clothing"), ("hourglass", "an hourglass"),
        ("abacus", "an abacus"), ("hippopotamus", "a hippopotamus"), ("nest with eggs", "a nest with eggs"),
    ],
)  # fmt: skip
def test_articles(words, said):
    assert with_article(words) == said
