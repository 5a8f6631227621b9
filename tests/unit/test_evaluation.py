from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import shutil

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from realcustom.data.stickers.backgrounds import PLACES
from realcustom.data.stickers.drawings import Drawing, DrawingStore, vocabulary
from realcustom.data.stickers.scenes import HUES, POSITIONS
from realcustom.errors import InputError
from realcustom.evaluation.benchmark import StickerBench, picture_file
from realcustom.evaluation.galleries import Galleries
from realcustom.evaluation.history import training_history
from realcustom.evaluation.judges import Judges, Reading, subject_crops
from realcustom.evaluation.methods import Customized, in_batches
from realcustom.evaluation.output import Settings, claim, write_report
from realcustom.evaluation.page import _ranked, write_page
from realcustom.evaluation.run import (
    MADE,
    ROWS,
    _mask_figures,
    describe,
    judge,
    make_pictures,
    manifest,
    require_pictures,
    summarise,
)
from realcustom.evaluation.scores import part_of
from realcustom.pictures import sheet
from realcustom.subject_encoder import SubjectEncoder

SIDE, COUNT = 32, 9

SIZE = {"subjects": 3, "prompts": 3, "seeds": 1, "side": SIDE}


def run(pipeline, bench, settings, folder, progress=lambda *_: None, rows=MADE):
    """Make the pictures of an evaluation here."""
    method = Customized(pipeline)
    make_pictures(in_batches(method, settings), describe(method, bench, settings), bench, folder, progress, rows)


def folders(folder):
    """Where the rows of an evaluation lie."""
    return {row: folder / row for row in MADE}


@pytest.fixture(scope="module")
def store():
    """Dogs, cups and owls in three styles each; the two shadings of one are held out. A cake and a crown are there, too."""
    drawings, pixels = [], []
    for noun in ("dog", "cup", "owl"):
        for style, split, colour in (
            ("noto", "train", "red"), ("fluent-emoji", "validation", "green"), ("fluent-emoji-flat", "validation", "lime"),
        ):  # fmt: skip
            picture = Image.new("RGBA", (128, 128))
            draw = ImageDraw.Draw(picture).ellipse if noun == "dog" else ImageDraw.Draw(picture).rectangle
            draw((4, 4, 123, 123), fill=colour)
            drawings.append(Drawing(noun, "thing", style, noun, split, common=noun == "dog", held_out=False))
            pixels.append(np.asarray(picture))
    for noun in ("cake", "crown"):
        drawings.append(Drawing(noun, "object", "noto", noun, "train", common=noun == "cake", held_out=False))
        pixels.append(pixels[0])
    return DrawingStore(drawings, np.stack(pixels), np.zeros(len(drawings), np.float32))


@pytest.fixture(scope="module")
def bench(store):
    return StickerBench(store, "validation", **SIZE)


@pytest.fixture(scope="module")
def blank():
    """Every drawing of the real vocabulary, without its pixels."""
    drawings = vocabulary()
    return DrawingStore(drawings, np.zeros((len(drawings), 1, 1, 4), np.uint8), np.zeros(len(drawings), np.float32))


@pytest.fixture(scope="module")
def judges():
    torch.manual_seed(0)
    places = [place.name for place in PLACES]
    return Judges(places, ["cup", "dog"], list(HUES), widths=[16, 16, 16, 32], identity_dim=8).eval()


def test_judges_may_know_what_is_worn_and_what_is_beside():
    widths = {"widths": [16, 16, 16, 32], "identity_dim": 8}
    judges = Judges(["beach"], ["cup", "dog"], ["red"], worn=["crown", "top hat"], beside=["cup"], **widths).eval()
    assert judges.labels["worn"] == ["", "crown", "top hat"]
    assert {name: tuple(logit.shape) for name, logit in judges.read(torch.zeros(2, 3, 32, 32)).logits.items()} == {
        "place": (2, 1), "noun": (2, 2), "colour": (2, 1), "worn": (2, 3), "beside": (2, 2),
    }  # fmt: skip
    assert set(Judges(["beach"], ["dog"], ["red"], **widths).labels) == {"place", "noun", "colour"}
    with pytest.raises(ValueError, match="must be among the nouns, but cup is not"):
        Judges(["beach"], ["dog"], ["red"], beside=["cup"], **widths)


def test_what_is_beside_is_named_by_the_thing_in_its_own_region():
    torch.manual_seed(0)
    sizes = {"widths": [16, 16, 16, 32], "identity_dim": 8}
    judges = Judges(["beach"], ["cup", "dog", "owl"], ["red"], beside=["owl", "cup"], **sizes).eval()
    picture = torch.rand(1, 3, 32, 32) * 2 - 1
    found = torch.full((1, 2, 32, 32), -9.0)
    judges.segment = lambda pixels: found
    nothing = judges.read(picture).logits["beside"]
    assert nothing.softmax(dim=1).tolist() == [[1.0, 0.0, 0.0]]
    found[:, 1, 4:20, 8:16] = 9.0
    reading = judges.read(picture)
    nouns = judges.describe(picture, (found[:, 1] > 0).float())["noun"]
    torch.testing.assert_close(reading.logits["beside"][:, 1:], nouns[:, [2, 0]])
    assert reading.logits["beside"].argmax() != 0
    assert not reading.found.any()  # the thing itself is not there


class TestBench:
    def test_only_held_out_drawings_are_subjects_and_each_item_is_consistent(self, bench):
        for item in bench.items:
            facts = item.example.facts
            assert facts["style"].startswith("fluent")
            assert item.subject == f"{facts['noun']}/fluent"
            assert item.example.word in item.example.caption
            assert item.example.picture.shape == item.example.reference.shape == (SIDE, SIDE, 3)

    def test_a_smaller_list_is_part_of_a_larger_one(self, store, bench):
        whole = StickerBench(store, "validation", side=SIDE)
        assert len(whole.items) == 3 * 20 * 2
        for one in bench.items:
            other = whole.item(one.number)
            assert (one.family, one.subject, one.example.caption) == (
                other.family,
                other.subject,
                other.example.caption,
            )
            assert np.array_equal(one.example.reference, other.example.reference)
            assert np.array_equal(one.example.picture, other.example.picture)
        assert whole.digest() != bench.digest()
        assert StickerBench(store, "validation", **SIZE).digest() == bench.digest()

    def test_each_sentence_of_a_subject_is_asked_for_with_the_same_reference_and_two_seeds(self, store):
        whole = StickerBench(store, "validation", side=SIDE)
        numbers = [item.number for item in whole.items]
        assert len(set(numbers)) == len(numbers)
        for subject in {item.subject for item in whole.items}:
            own = [item for item in whole.items if item.subject == subject]
            assert all(np.array_equal(item.example.reference, own[0].example.reference) for item in own)
            assert sum(item.repeated for item in own) == 20
            for first, second in zip(own[::2], own[1::2], strict=True):
                assert first.example is second.example
                assert second.repeated

    def test_each_family_asks_for_what_its_name_says(self, store):
        extras = {"worn", "beside", "position"}
        for item in StickerBench(store, "validation", side=SIDE).items:
            facts, family, said = item.example.facts, item.family, item.example.caption
            assert extras & facts.keys() == extras & {family}
            assert bool(facts["colour"]) == (family == "colour")
            assert (item.example.word == facts["noun"]) == (family != "general")
            if family == "position":
                y, x, _ = item.example.frames[0]
                assert part_of(y, x) == facts["position"]
                assert f" {POSITIONS[facts['position']][0]}" in said
            elif family == "colour":
                assert facts["colour"] in {"yellow", "green", "blue", "purple"}  # far from red, which all of them are
                assert f"{facts['colour']} {item.example.word}" in said
            elif family in extras:
                assert facts[family] in said

    def test_a_list_that_cannot_be_is_refused(self, store):
        with pytest.raises(InputError, match="none of these 11 drawings is of the test split"):
            StickerBench(store, "test")
        for subjects in (0, 65):
            with pytest.raises(InputError, match=f"1 to 64 subjects, not {subjects}"):
                StickerBench(store, "validation", subjects=subjects, side=32)
        with pytest.raises(InputError, match="1 to 20 sentences about each subject, not 21"):
            StickerBench(store, "validation", prompts=21)
        for seeds in (0, 3):
            with pytest.raises(InputError, match=f"1 to 2 seeds of each, not {seeds}"):
                StickerBench(store, "validation", seeds=seeds)

    def test_grey_drawings_are_no_subjects_and_companions_have_been_trained_on(self, store):
        hues = np.where([drawing.noun == "owl" for drawing in store.drawings], np.nan, store.hues).astype(np.float32)
        whole = StickerBench(DrawingStore(store.drawings, store.pixels, hues), "validation", side=SIDE)
        assert {item.example.facts["noun"] for item in whole.items} == {"dog", "cup"}
        companions = {item.example.facts.get("worn") or item.example.facts.get("beside") for item in whole.items}
        assert companions == {None, "crown", "cake", "dog"}  # dogs beside cups, from the drawings of the train split

    def test_the_gallery_holds_every_drawing_of_the_noun(self, bench):
        assert [portrait.subject for portrait in bench.gallery("dog")] == ["dog/noto", "dog/fluent", "dog/fluent"]

    def test_text_items_ask_for_every_common_noun_three_times(self, bench):
        items = bench.text_items()
        assert [item.noun for item in items] == ["cake"] * 3 + ["dog"] * 3
        assert all(f"a {item.noun}" in item.prompt for item in items)
        assert len({item.place for item in items}) == 6

    def test_what_text_asks_for_is_drawn_from_what_training_has_seen_alone(self, store, bench):
        trained = np.array([drawing.split == "train" for drawing in store.drawings])[:, None, None, None]
        only_trained, only_held_out = (
            StickerBench(DrawingStore(store.drawings, store.pixels * kept, store.hues), "validation", **SIZE)
            for kept in (trained, ~trained)
        )
        for item in bench.text_items():
            assert np.array_equal(bench.drawn(item), only_trained.drawn(item))
            assert not np.array_equal(bench.drawn(item), only_held_out.drawn(item))

    def test_without_a_subject_both_splits_say_the_same_words_in_other_places_and_with_other_seeds(self, blank):
        one, other = (StickerBench(blank, split, subjects=1, side=16) for split in ("validation", "test"))
        for ours, theirs in ((one.text_items(), other.text_items()), (one.paraphrases(), other.paraphrases())):
            assert [item.number for item in ours] == [item.number for item in theirs] == list(range(len(ours)))
            assert {item.seed for item in ours}.isdisjoint(item.seed for item in theirs)
            assert {item.prompt for item in ours}.isdisjoint(item.prompt for item in theirs)
            assert len({item.seed for item in theirs}) == len(theirs)
        assert [item.noun for item in one.text_items()] == [item.noun for item in other.text_items()]
        assert [item.seed for item in one.text_items()] == list(range(3 * 69))

    @pytest.mark.parametrize("split", ["validation", "test"])
    def test_paraphrases_are_words_that_no_caption_says_and_mean_what_the_judges_know(self, blank, split):
        drawings = vocabulary()
        said = {word for drawing in drawings for name in (drawing.noun, drawing.kind) for word in name.split()}
        phrases = {phrase for place in PLACES for phrase in place.phrases}
        common, places = {one.noun for one in drawings if one.common}, {place.name for place in PLACES}
        items = StickerBench(blank, split, subjects=1, side=16).paraphrases()
        assert len(items) == 4 * 20
        assert len({item.prompt for item in items}) == len(items)
        for item in items:
            assert item.place in places
            known = next((phrase for phrase in phrases if item.prompt.endswith(f" {phrase}")), None)
            if item.judged == ("noun",):
                assert known in next(place.phrases for place in PLACES if place.name == item.place)
                assert item.noun in common
                assert said.isdisjoint(item.prompt.removesuffix(known).split())
            else:
                assert item.judged == ("place",)
                assert known is None

    def test_the_work_lists_of_the_real_vocabulary_are_what_version_3_says(self, blank):
        """As if every drawing were red, for these have no pixels. Whoever changes what is asked for counts the version up."""
        found = {}
        for split in ("validation", "test"):
            asked = StickerBench(blank, split, side=16).asked()
            for number, said, word, *_ in asked:
                assert len(re.findall(rf"\b{word}(s|es)?\b", said)) == 1, (number, said)
            found[split] = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:16]
        assert found == {"validation": "101b8eb38a251e4a", "test": "de7a5403ad49d560"}

    def test_the_digest_sees_what_is_shown(self, store, bench):
        darker = DrawingStore(
            store.drawings, store.pixels // 2 + store.pixels * np.uint8([0, 0, 0, 1]) // 2, store.hues
        )
        other = StickerBench(darker, "validation", **SIZE)
        assert other.asked() == bench.asked()
        assert other.digest() != bench.digest()

    def test_the_wrong_subject_is_another_one(self, bench):
        for item in bench.items:
            assert bench.other(item).subject != item.subject


class TestJudges:
    def test_a_crop_shows_the_thing_alone_filling_the_square(self):
        pixels, region = torch.full((2, 3, 40, 40), -0.5), torch.zeros(2, 40, 40)
        region[0, 10:20, 5:25] = 1
        pixels[0, :, 10:20, 5:25] = 0.5
        crops = subject_crops(pixels, region, side=40)
        assert crops.shape == (2, 3, 40, 40)
        torch.testing.assert_close(crops[0, :, 15:25, 2:38], torch.full((3, 10, 36), 0.5), atol=1e-4, rtol=0)
        torch.testing.assert_close(crops[0, :, :6], torch.ones(3, 6, 40), atol=1e-4, rtol=0)
        torch.testing.assert_close(crops[1], torch.ones(3, 40, 40))  # nothing there: the whole, white, picture

    @torch.no_grad()
    def test_what_they_say_has_the_labels_and_does_not_depend_on_the_batch(self, judges):
        pixels = torch.rand(3, 3, SIDE, SIDE) * 2 - 1
        reading = judges.read(pixels)
        assert {name: logits.shape for name, logits in reading.logits.items()} == {
            "place": (3, len(PLACES)), "noun": (3, 2), "colour": (3, len(HUES)),
        }  # fmt: skip
        assert reading.region.shape == (3, SIDE, SIDE)
        alone = judges.read(pixels[1:2])
        torch.testing.assert_close(alone.region[0], reading.region[1], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(alone.identity[0], reading.identity[1], atol=1e-4, rtol=1e-4)
        assert 0 < reading.found.sum() < 3  # these see nothing in one of them
        torch.testing.assert_close(reading.identity.norm(dim=1), reading.found.float())

    def test_they_are_the_same_after_saving_and_loading(self, judges, tmp_path):
        judges.save_pretrained(tmp_path)
        loaded = Judges.from_pretrained(tmp_path).eval()
        assert loaded.labels == judges.labels
        pixels = torch.rand(1, 3, SIDE, SIDE)
        torch.testing.assert_close(loaded.read(pixels).region, judges.read(pixels).region)


class TestRun:
    SETTINGS = Settings(batch_size=2, num_inference_steps=2)

    @pytest.fixture(scope="class")
    def folder(self, tiny, bench, tmp_path_factory):
        folder = tmp_path_factory.mktemp("evaluation")
        run(tiny.pipeline(), bench, self.SETTINGS, folder)
        return folder

    def test_a_killed_run_goes_on_and_makes_the_same_pictures(self, tiny, bench, folder, tmp_path):
        calls = []

        def die(row, done, total):
            calls.append(row)
            if len(calls) == 7:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            run(tiny.pipeline(), bench, self.SETTINGS, tmp_path, die)
        half = sum(1 for _ in tmp_path.rglob("*.png"))
        run(tiny.pipeline(), bench, self.SETTINGS, tmp_path)
        whole = sorted(path.relative_to(folder) for path in folder.rglob("*.png"))
        assert 0 < half < len(whole) == COUNT * 3 + COUNT + 6 + 80
        for path in whole:
            one, other = (np.asarray(Image.open(root / path), int) for root in (folder, tmp_path))
            assert np.abs(one - other).max() <= 1, path

    def test_each_subject_is_looked_at_once(self, tiny, bench, tmp_path, monkeypatch):
        looked, features = [], SubjectEncoder.features

        def counted(self, levels, adapter):
            looked.append(len(levels))
            return features(self, levels, adapter)

        monkeypatch.setattr(SubjectEncoder, "features", counted)
        run(tiny.pipeline(), bench, self.SETTINGS, tmp_path, rows=["subject"])
        assert looked == [1] * SIZE["subjects"]  # though every batch begins or ends within a subject's sentences

    def test_pictures_of_another_model_or_setting_are_not_mixed(self, tiny, bench, folder):
        other = tiny.pipeline()
        other.unet.conv_out.bias.data += 1
        with pytest.raises(InputError, match="holds pictures made with another model; name another --output"):
            run(other, bench, self.SETTINGS, folder)
        other = tiny.pipeline(subject_guidance_scale=9.0)
        with pytest.raises(InputError, match="holds pictures made with another subject_guidance_scale"):
            run(other, bench, self.SETTINGS, folder)
        with pytest.raises(InputError, match="holds pictures made with another guidance_scale"):
            run(tiny.pipeline(), bench, Settings(batch_size=2, num_inference_steps=2, guidance_scale=9), folder)

    def test_a_refused_run_does_not_claim_its_folder(self, tiny, bench, tmp_path):
        with pytest.raises(InputError, match="num_inference_steps"):
            run(tiny.pipeline(), bench, Settings(num_inference_steps=0), tmp_path)
        run(tiny.pipeline(), bench, Settings(num_inference_steps=1), tmp_path)
        (tmp_path / "run.json").unlink()
        with pytest.raises(InputError, match=r"holds files, but no run\.json"):
            run(tiny.pipeline(), bench, self.SETTINGS, tmp_path)

    def test_every_row_is_judged(self, bench, judges, folder, tmp_path):
        records = judge(bench, judges, folders(folder), tmp_path / "journal")
        assert {record["row"] for record in records} == set(ROWS)
        by_row = {row: [record for record in records if record["row"] == row] for row in ROWS}
        assert {row: len(found) for row, found in by_row.items()} == {
            **dict.fromkeys(ROWS, COUNT),
            "text": 6,
            "drawn": 6,
            "paraphrase": 80,
        }
        for record in by_row["paraphrase"]:
            assert ("noun" in record) != ("place" in record)
        for record in by_row["subject"]:
            assert len(record["mask_by_step"]) == 2
            assert 0 <= record["mask"] <= 1
        for record in records:
            assert all(0 <= record[name] <= 1 for name in ("place", "identity", "leak", "paste") if name in record)

    def test_the_records_say_what_the_judges_saw(self, bench, folder, tmp_path):
        """Judges that see, in every picture, the place of the first item's reference and its thing on the left."""
        seen, left = bench.items[0].example.facts["reference_place"], torch.zeros(SIDE, SIDE)
        left[:, : SIDE // 2] = 1
        places = [place.name for place in PLACES]

        class Stub(torch.nn.Module):
            labels = {"place": places, "noun": ["dog"], "colour": list(HUES)}  # noqa: RUF012

            def read(self, pixels):
                count = len(pixels)
                place = torch.zeros(count, len(places))
                place[:, places.index(seen)] = 1
                logits = {"place": place, "noun": torch.ones(count, 1), "colour": torch.zeros(count, len(HUES))}
                return Reading(left.expand(count, -1, -1), logits, torch.tensor([[1.0, 0.0]]).expand(count, -1))

            def describe(self, pixels, region):
                """The first drawing of every noun looks like every picture."""
                embeddings = torch.tensor([[0.0, 1.0]]).repeat(len(pixels), 1)
                embeddings[0] = torch.tensor([1.0, 0.0])
                return {"identity": embeddings}

        records = judge(bench, Stub(), folders(folder), tmp_path / "journal")
        assert len(records) == COUNT * 5 + 2 * 6 + 80
        for record in records:
            if record["row"] in {"text", "drawn"}:
                assert record["noun"] == (bench.text_items()[record["number"]].noun == "dog")
                continue
            if record["row"] == "paraphrase":
                item = bench.paraphrases()[record["number"]]
                assert record.get("noun") == (None if "noun" not in item.judged else float(item.noun == "dog"))
                assert record.get("place") == (None if "place" not in item.judged else float(item.place == seen))
                continue
            item = bench.item(record["number"])
            facts = item.example.facts
            shown = bench.other(item) if record["row"] == "wrong" else item
            said, behind = facts["place"], shown.example.facts["reference_place"]
            assert record["place"] == (said == seen)
            assert record.get("leak") == (None if behind == said else float(behind == seen))
            assert record["paste"] == 1
            assert record["family"] == item.family
            if facts["colour"]:
                assert "identity" not in record
            else:
                assert record["identity"] == 0  # the first of its noun's drawings is never the subject's
                assert record["identity_chance"] == pytest.approx(2 / 3)
            assert ("noun" in record) == (facts["noun"] == "dog")
            said_beside = {name: record[name] for name in ("place", "colour", "position") if name in record}
            if item.family in ("worn", "beside"):  # which these judges do not know
                assert "control" not in record
            else:
                assert record["control"] == pytest.approx(np.mean(list(said_beside.values())))
            assert record.get("position") == (float(facts["position"] == "left") if "position" in facts else None)
            if record["row"] == "oracle":
                truth = item.example.region >= 0.5
                expected = (truth & (left.numpy() > 0)).sum() / (truth | (left.numpy() > 0)).sum()
                assert record["segmenter"] == pytest.approx(expected)

    def test_pictures_that_were_judged_before_a_run_was_killed_are_not_judged_again(
        self, bench, judges, folder, tmp_path, monkeypatch
    ):
        journal, looked, read = tmp_path / "journal", [], Judges.read
        monkeypatch.setattr(Judges, "read", lambda self, pixels: looked.append(len(pixels)) or read(self, pixels))
        whole = judge(bench, judges, folders(folder), tmp_path / "undisturbed")
        all_looks = len(looked)

        def die(what, done, total):
            if done == 4:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            judge(bench, judges, folders(folder), journal, die)
        looked.clear()
        assert judge(bench, judges, folders(folder), journal) == whole
        assert len(looked) == all_looks - 4

        moved, other = (folder / "subject" / picture_file(item.number) for item in bench.items[:2])
        kept = moved.read_bytes()
        shutil.copy(other, moved)
        looked.clear()
        assert judge(bench, judges, folders(folder), journal) != whole
        assert looked == [COUNT, SIZE["subjects"]]  # the batch with another picture in it, and the references
        moved.write_bytes(kept)

    def test_the_manifest_holds_every_picture_with_its_seed_and_hash(self, bench, folder):
        rows = folders(folder)
        told = manifest(bench, rows)
        assert sorted(line["picture"] for line in told) == sorted(
            f"{row}/{path.name}" for row in rows for path in rows[row].glob("????.png")
        )
        for line in told:
            assert line["sha256"] == hashlib.sha256((folder / line["picture"]).read_bytes()).hexdigest()
        by_picture = {line["picture"]: line for line in told}
        for item in bench.items:
            twin, subject, wrong = (by_picture[f"{row}/{item.number:04d}.png"] for row in ("twin", "subject", "wrong"))
            assert twin["prompt"] == subject["prompt"] == wrong["prompt"] == item.example.caption
            assert twin["seed"] == subject["seed"] == wrong["seed"] == item.number
            assert twin["shown"] == []
            assert subject["shown"] == [{"subject": item.subject_file, "word": item.example.word}]
            assert wrong["shown"] == [{"subject": bench.other(item).subject_file, "word": item.example.word}]

    def test_the_report_sums_up_and_shows(self, bench, judges, folder, tmp_path):
        records = judge(bench, judges, folders(folder), tmp_path / "journal")
        report = summarise(records, bench, {"model": "abc"})
        lines = [{"step": 7, "examples": 70, "hours": 0.5, "loss": 1.0}, {"step": 10, "examples": 100, "hours": 0.75}]
        lines[1] |= {"validation/right/900": 0.8125, "validation/error/100": 0.5}
        (folder / "training").mkdir(exist_ok=True)
        (folder / "training" / "joint.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        report["training"] = training_history(folder)
        assert report["training"] == [{"run": "joint", "step": 10, "examples": 100, "hours": 0.75, "right/900": 0.8125}]
        place = [record["place"] for record in records if record["row"] == "twin"]
        assert report["rows"]["twin"]["place"][0] == pytest.approx(np.mean(place), abs=1e-4)
        assert "mask" not in report["rows"]["twin"]
        by_family = {item.family for item in bench.items}
        assert by_family == {"worn", "beside", "colour", "position", "scene"} == report["families"].keys()
        for family, figures in report["families"].items():
            own = [one["place"] for one in records if one["row"] == "subject" and one["family"] == family]
            assert figures["pictures"] == len(own)
            assert figures["place"][0] == pytest.approx(np.mean(own), abs=1e-4)
        kinds = {drawing.identity: drawing.kind for drawing in bench.store.drawings}
        own_kinds = {item.subject: kinds[item.subject] for item in bench.items}
        assert report["kinds"].keys() == set(own_kinds.values())
        assert sum(figures["pictures"] for figures in report["kinds"].values()) == len(bench.items)
        write_report(report, folder)
        write_page(report, bench, folders(folder), folder)
        written = (folder / "report.json").read_text()
        assert json.loads(written) == report
        assert report["records"] == records
        assert [json.loads(line.rstrip(",")) for line in written.splitlines() if '"row"' in line] == records
        page = (folder / "report.html").read_text()
        assert "<td>joint</td><td>10</td><td>100</td><td>0.75</td><td>0.812</td>" in page
        assert page.count("<figure>") == page.count('<img src="data:image/png;base64,') > 0
        assert "src=" not in page.replace('<img src="data:', "")
        assert "http" not in page.replace("http://www.w3.org/2000/svg", "")
        assert Image.open(folder / "grid.png").size == (3 * 34 - 2, 3 * 34 - 2)


def test_a_single_subject_has_no_wrong_one(blank):
    several, alone = (StickerBench(blank, "validation", subjects, 1, 1, 16) for subjects in (3, 1))
    order = [item.subject for item in several.one_each()]
    assert [several.other(item).subject for item in several.one_each()] == order[1:] + order[:1]
    with pytest.raises(InputError, match="there is no wrong one"):
        alone.other(alone.items[0])


def test_the_report_shows_first_what_is_alike_and_obeys_then_the_middle_and_the_worst_last(bench):
    figures = [(0.5, 1), (0.9, 1), (0.1, 1), (0.7, 1), (0.2, 1), (0.8, 1), (0.95, 0.5), (0.6, 1), (0.3, 1)]
    records = [
        {"row": row, "number": item.number, "identity": 1.0, "similarity": similarity, "control": control}
        for row in ("subject", "twin")
        for item, (similarity, control) in zip(bench.items, figures if row == "subject" else [(1, 1)] * 9, strict=True)
    ]
    records.append({"row": "subject", "number": bench.items[0].number, "control": 1.0})  # not judged by its drawing
    ranked = _ranked(records, bench, {}, count=2)
    shown = {name: [re.search(r"similarity (\S+), ", figure)[1] for figure in group] for name, group in ranked.items()}
    assert shown == {"Best": ["0.90", "0.80"], "Median": ["0.60", "0.50"], "Worst": ["0.20", "0.10"]}
    strip = base64.b64decode(re.search(r"base64,([^\"]+)", ranked["Best"][0])[1])
    best = bench.items[1].example
    expected = sheet([Image.fromarray(best.reference), Image.fromarray(best.picture)], columns=2)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(strip))), np.asarray(expected))


def test_a_subject_is_found_by_its_own_drawing_and_as_like_as_their_cosine(bench):
    """An encoder that gives each drawing of a noun a direction of its own."""

    class Apart:
        def describe(self, pixels, region):
            return {"identity": torch.eye(len(pixels))}

    galleries = Galleries(bench, Apart())
    item = next(one for one in bench.items if not one.example.facts["colour"])
    embeddings, names = galleries.of(item.example.facts["noun"])
    own = names.index(item.subject)
    other = next(place for place, name in enumerate(names) if name != item.subject)
    chance = names.count(item.subject) / len(names)
    for mixed, expected in (((1.0, 0.0), 1.0), ((0.8, 0.6), 1.0), ((0.6, 0.8), 0.0)):
        found = galleries.identity(item, mixed[0] * embeddings[own] + mixed[1] * embeddings[other])
        assert found == pytest.approx({"identity": expected, "identity_chance": chance, "similarity": mixed[0]})


def test_the_part_of_a_picture_is_where_a_point_lies_farthest_from_the_middle():
    found = {(0.5, 0.2): "left", (0.6, 0.9): "right", (0.1, 0.3): "top", (0.9, 0.3): "bottom"}
    assert {point: part_of(*point) for point in found} == found


def test_some_rows_alone_can_be_made_and_judged(tiny, bench, judges, tmp_path):
    run(tiny.pipeline(), bench, TestRun.SETTINGS, tmp_path, rows=["subject"])
    assert not (tmp_path / "twin").exists()
    made = {"subject": tmp_path / "subject"}
    records = judge(bench, judges, made, tmp_path / "journal")
    assert {record["row"] for record in records} == {"subject", "oracle", "copy", "drawn"}
    report = {**summarise(records, bench, {}), "training": []}
    assert report["rows"].keys() == {"subject", "oracle", "copy", "drawn"}
    write_page(report, bench, made, tmp_path)
    assert (tmp_path / "report.html").is_file()


def test_a_subject_that_is_not_found_is_nowhere(bench, judges, tmp_path, monkeypatch):
    """Not even on the right, into which the middle of an empty region falls; nor is white like anything."""
    for item in bench.items:
        Image.new("RGB", (SIDE, SIDE), "red").save(tmp_path / f"{item.number:04d}.png")
    monkeypatch.setattr(Judges, "segment", lambda self, pixels: torch.full((len(pixels), 1, SIDE, SIDE), -9.0))
    records = judge(bench, judges, {"subject": tmp_path}, tmp_path / "journal")
    unseen = [record for record in records if record["row"] in {"subject", "oracle", "copy", "drawn"}]
    for name in ("found", "position", "identity", "similarity", "noun", "colour"):
        assert {record[name] for record in unseen if name in record} == {0.0}, name


def test_a_folder_with_anything_in_it_belongs_to_its_settings(tmp_path):
    claim(tmp_path, {"model": "one"})
    claim(tmp_path, {"model": "two"})
    (tmp_path / "tuning" / "dog").mkdir(parents=True)
    (tmp_path / "tuning" / "dog" / "log.jsonl").write_text("")
    with pytest.raises(InputError, match="made with another model"):
        claim(tmp_path, {"model": "three"})


def test_a_folder_of_an_older_version_belongs_to_what_its_pictures_were_made_with(tmp_path):
    (tmp_path / "run.json").write_text('{"model": "one"}')
    (tmp_path / "0001.png").write_bytes(b"")
    claim(tmp_path, {"model": "one", "final_mask_scope": 1.0, "token_ratio": 0.8, "mask_yields": False})
    with pytest.raises(InputError, match="made with another final_mask_scope, token_ratio; name"):
        claim(tmp_path, {"model": "one", "final_mask_scope": 0.35, "token_ratio": 0.9})


@pytest.mark.parametrize(("steps", "expected"), [(4, (0.3 + 0.4) / 2), (5, (0.4 + 0.5) / 2), (1, 0.1)])
def test_the_masks_figure_is_of_the_steps_that_begin_in_the_second_half(steps, expected):
    """Of a picture that is all subject, of which mask number n covers n tenths."""
    masks = torch.zeros(steps, 10, 10)
    for number in range(steps):
        masks[number, : number + 1] = 1
    figures = _mask_figures(masks, torch.ones(1, 20, 20))
    assert figures["mask"] == pytest.approx(expected)
    # Where all is subject, any mask overlaps it by its own size.
    assert figures["mask_random"] == pytest.approx(expected)
    assert figures["mask_all"] == 1.0
    for name in ("mask_by_step", "mask_random_by_step"):
        assert figures[name] == pytest.approx([0.1 * (number + 1) for number in range(steps)])


def test_a_random_mask_is_as_large_as_the_mask_of_its_step():
    """Of a picture whose left half is subject, all of which the masks find, and then as much again beside it."""
    region = torch.zeros(1, 10, 10)
    region[:, :, :5] = 1
    figures = _mask_figures(torch.cat([region, torch.ones(1, 10, 10)]), region)
    assert figures["mask_by_step"] == pytest.approx([1.0, 0.5])
    assert figures["mask_random_by_step"] == pytest.approx([0.25 / 0.75, 0.5])
    assert (figures["mask"], figures["mask_random"]) == (pytest.approx(0.5), pytest.approx(0.5))


def test_what_a_folder_belongs_to_is_written_once_and_must_be_readable(tmp_path):
    told = tmp_path / "run.json"
    told.write_bytes(b'{"model": "o')  # of a run that was killed before it made anything
    claim(tmp_path, {"model": "one"})
    assert json.loads(told.read_text()) == {"model": "one"}
    (tmp_path / "0001.png").write_bytes(b"")
    before = told.stat()
    claim(tmp_path, {"model": "one"})
    assert (told.stat().st_ino, told.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    for torn in (b'{"model": "o', b"\xff", b"[]"):
        told.write_bytes(torn)
        with pytest.raises(InputError, match=r"run\.json"):
            claim(tmp_path, {"model": "one"})


def test_pictures_of_another_system_are_judged_without_masks(bench, judges, tmp_path):
    numbers = [f"{item.number:04d}.png" for item in bench.items]
    for number in numbers[1:]:
        Image.new("RGB", (SIDE, SIDE), "red").save(tmp_path / number)
    with pytest.raises(InputError, match=rf"lacks 1 of 9 pictures, {numbers[0]} for one"):
        require_pictures(bench, tmp_path)
    Image.new("RGB", (SIDE, SIDE // 2)).save(tmp_path / numbers[0])
    with pytest.raises(InputError, match="32 x 16 pixels; the pictures must have 32 x 32"):
        require_pictures(bench, tmp_path)
    (tmp_path / numbers[0]).write_text("no picture")
    with pytest.raises(InputError, match=rf"{numbers[0]} cannot be read"):
        require_pictures(bench, tmp_path)
    Image.new("RGB", (SIDE, SIDE), "blue").save(tmp_path / numbers[0])
    require_pictures(bench, tmp_path)
    report = summarise(judge(bench, judges, {"subject": tmp_path}, tmp_path / "journal"), bench, {})
    assert report["rows"]["subject"]["pictures"] == COUNT
    assert "mask" not in report["rows"]["subject"]
    assert (report["mask_by_step"], report["mask_random_by_step"]) == ([], [])
