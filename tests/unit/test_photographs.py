"""Measuring on photographs: work lists, arithmetic against values worked out by hand, encoders from folders, resuming."""

from __future__ import annotations

import json
import re
import shutil
from copy import deepcopy
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
import transformers
from huggingface_hub.errors import LocalEntryNotFoundError
from PIL import Image

from realcustom.errors import InputError
from realcustom.evaluation import dreambench, photographs
from realcustom.evaluation.cases import Case, RealSubject, digest, dreambench_cases, listed_cases
from realcustom.evaluation.encoders import Encoders, cut_out, load_encoders
from realcustom.evaluation.image_reward import ImageRewardModel
from realcustom.evaluation.lpips import Lpips
from realcustom.evaluation.methods import Customized, in_batches
from realcustom.evaluation.output import Settings
from realcustom.evaluation.photo_page import grid, write_page
from realcustom.evaluation.scores import pairwise_cosine

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "yellow": (255, 255, 0)}


def run(pipeline, cases, settings, folder, progress=lambda *_: None):
    """Make the pictures of a work list here."""
    method = Customized(pipeline)
    about = photographs.describe(method, cases, settings)
    photographs.make_pictures(in_batches(method, settings), about, cases, folder, progress)


def plain(colour, size=(24, 24)):
    return Image.new("RGB", size, COLOURS[colour])


@dataclass
class MeanColour:
    """An encoder whose embedding is the mean colour's direction; of a sentence, the colour that it names."""

    name: str = "mean colour"

    def embed(self, pictures):
        means = [np.asarray(picture.convert("RGB"), float).mean(axis=(0, 1)) for picture in pictures]
        return torch.nn.functional.normalize(torch.tensor(np.stack(means)), dim=1)

    def embed_text(self, sentences):
        named = [next(colour for colour in COLOURS if colour in sentence) for sentence in sentences]
        return torch.nn.functional.normalize(torch.tensor([COLOURS[one] for one in named]).double(), dim=1)


@dataclass
class TopHalf:
    """A segmenter that finds everything in the upper half."""

    name: str = "top half"

    def region(self, picture, word):
        found = torch.zeros(picture.height, picture.width, dtype=torch.bool)
        found[: picture.height // 2] = True
        return found


@dataclass
class CountsRed:
    """A reward: the share of red, plus the sentence's length."""

    name: str = "red"

    def reward(self, picture, sentence):
        return float(np.asarray(picture.convert("RGB"))[..., 0].mean() / 255) + len(sentence)


@dataclass
class MeanDifference:
    """A distance: the mean difference of levels, in [0, 1]."""

    name: str = "mean difference"

    def distance(self, one, other):
        return float(np.abs(np.asarray(one, float) - np.asarray(other, float)).mean() / 255)


def save(picture, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)


def measured(cases, encoders, folder, told=None):
    """Measure the pictures in `made`; `told` receives what progress is told."""
    say = (lambda *_: None) if told is None else lambda *what: told.append(what)
    return photographs.score(cases, encoders, {"subject": folder / "made"}, folder / "journal.jsonl", say)


class TestArithmetic:
    """One subject with two real pictures, red (the reference) and green; the picture made of it is yellow."""

    @pytest.fixture
    def case(self, tmp_path):
        for number, colour in enumerate(("red", "green")):
            save(plain(colour), tmp_path / "real" / f"{number}.png")
        paths = tuple(sorted((tmp_path / "real").glob("*")))
        return Case((RealSubject("ball", "ball", paths, paths[0]),), "a ball on red", "scene", 0, 0)

    def score(self, case, tmp_path, encoders):
        save(plain("yellow"), tmp_path / "made" / case.path)
        return measured([case], encoders, tmp_path)

    def test_of_pairs_the_mean_cosine_counts(self):
        made, real = np.array([[1.0, 0.0], [0.6, 0.8]]), np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
        np.testing.assert_allclose(pairwise_cosine(made, real), [1 / 3, (0.6 + 0.8 + 0.8) / 3])

    def test_figures_are_those_worked_out_by_hand(self, case, tmp_path):
        records = self.score(case, tmp_path, Encoders(MeanColour(), MeanColour()))
        half = 0.5**0.5  # cosine of yellow with red, and with green
        made, copy, *real = records
        assert [record["row"] for record in records] == ["subject", "copy", "real", "real"]
        assert made["clip_i"] == pytest.approx(half)
        assert made["dino"] == pytest.approx(half)
        assert made["clip_i_reference"] == pytest.approx(half)
        assert made["clip_t"] == pytest.approx(half)
        assert (copy["clip_i"], copy["clip_i_reference"], copy["clip_t"]) == pytest.approx((0.5, 1, 1))
        assert [one["clip_i"] for one in real] == pytest.approx([0, 0])
        assert not any("segmented" in name for record in records for name in record)

    def test_the_segmented_figures_are_those_of_what_is_cut_out(self, case, tmp_path):
        path = case.subjects[0].reference
        lower_half_green = plain("red")
        lower_half_green.paste(COLOURS["green"], (0, 12, 24, 24))
        lower_half_green.save(path)
        alone = replace(case.subjects[0], pictures=(path,))
        records = self.score(replace(case, subjects=(alone,)), tmp_path, Encoders(MeanColour(), None, TopHalf()))
        # half yellow and half white, (2, 2, 1) / 3, against half red and half white, (2, 1, 1) / 6 ** .5
        assert records[0]["clip_i_segmented"] == pytest.approx(7 / (3 * 6**0.5))
        assert records[0]["segmented_found"] == 1
        assert records[1]["clip_i_segmented"] == pytest.approx(1)
        assert [record["row"] for record in records] == ["subject", "copy"]  # one real picture has no others

    def test_the_reward_is_of_the_picture_under_its_sentence(self, case, tmp_path):
        records = self.score(case, tmp_path, Encoders(image_reward=CountsRed()))
        assert [one.get("image_reward") for one in records] == [1 + len("a ball on red")] * 2 + [None] * 2

    def test_diversity_is_the_mean_distance_of_the_pictures_of_one_sentence(self, case, tmp_path):
        work = [replace(case, seed=seed) for seed in range(3)] + [replace(case, prompt_number=1)]
        for one, colour in zip(work, ("red", "red", "yellow", "blue"), strict=True):
            save(plain(colour), tmp_path / "made" / one.path)
        records = measured(work, Encoders(lpips=MeanDifference()), tmp_path)
        third = 1 / 3  # red and yellow differ in one of three channels
        assert [one["diversity"] for one in records[:3]] == pytest.approx([third / 2, third / 2, third])
        assert not any("diversity" in one for one in records[3:])
        report = photographs.summarise(records, {})
        assert report["rows"]["subject"]["diversity"][0] == pytest.approx((0 + third + third) / 3, abs=1e-4)

    def test_what_a_killed_run_has_measured_is_not_measured_again(self, case, tmp_path):
        work = [replace(case, prompt_number=number) for number in range(2)]
        for one, colour in zip(work, ("red", "yellow"), strict=True):
            save(plain(colour), tmp_path / "made" / one.path)

        class Fails(CountsRed):
            def reward(self, picture, sentence):
                assert np.asarray(picture)[0, 0, 1] == 0, "killed at the yellow one"
                return 7.0

        with pytest.raises(AssertionError, match="killed"):
            measured(work, Encoders(image_reward=Fails()), tmp_path)
        with (tmp_path / "journal.jsonl").open("a") as journal:
            journal.write('{"key": "cut o')
        told = []
        for _ in range(2):
            records = measured(work, Encoders(image_reward=CountsRed()), tmp_path, told)
            assert [one["image_reward"] for one in records[:2]] == [7, 1 + len(case.prompt)]
        assert told[:3] == [("measured", count, 4) for count in (1, 2, 3)]
        save(plain("blue"), tmp_path / "made" / work[0].path)
        assert measured(work, Encoders(image_reward=CountsRed()), tmp_path)[0]["image_reward"] == len(case.prompt)
        other = measured(work, Encoders(image_reward=CountsRed("another")), tmp_path)
        assert other[1]["image_reward"] == 1 + len(case.prompt)

    def test_without_encoders_nothing_is_a_number(self, case, tmp_path):
        records = self.score(case, tmp_path, Encoders(missing=(("clip", "no such folder"),)))
        report = photographs.summarise(
            records, {"benchmark": "own", "encoders": {"clip": "not measured: no such folder"}}
        )
        assert report["rows"]["subject"] == {"pictures": 1}
        page = tmp_path / "page.html"
        write_page(report, [case], {"subject": tmp_path / "made"}, page)
        shown = page.read_text("utf-8")
        assert "not measured: no such folder" in shown
        rows = shown.partition("</table>")[0]
        for name in photographs.FIGURES:
            assert f"<th>{name.replace('_', ' ')}</th>" in rows
        assert rows.count("<td>not measured</td>") == len(report["rows"]) * len(photographs.FIGURES)
        assert shown.count("<figure>") == 1  # there is a picture to look at nevertheless

    def test_the_column_of_an_encoder_that_is_not_there_says_so(self, case, tmp_path):
        records = self.score(case, tmp_path, Encoders(None, MeanColour()))
        report = photographs.summarise(records, {"benchmark": "own", "encoders": {}})
        page = tmp_path / "page.html"
        write_page(report, [case], {"subject": tmp_path / "made"}, page)
        table = page.read_text("utf-8").partition("</table>")[0]
        absent = [name for name in photographs.FIGURES if name not in ("dino", "dino_reference")]
        assert table.count("<td>not measured</td>") == len(report["rows"]) * len(absent)
        assert table.count("<th") == 2 + len(photographs.FIGURES)

    def test_of_two_subjects_the_mean_counts(self, case, tmp_path):
        save(plain("blue"), tmp_path / "other" / "0.png")
        other = RealSubject("box", "box", (tmp_path / "other" / "0.png",), tmp_path / "other" / "0.png")
        both = replace(case, subjects=(case.subjects[0], other))
        records = self.score(both, tmp_path, Encoders(None, MeanColour()))
        assert [record["row"] for record in records] == ["subject"]  # no picture shows both that could be copied
        assert records[0]["dino"] == pytest.approx((0.5**0.5 + 0) / 2)
        assert records[0]["group"] == "ball+box"

    def test_the_report_holds_means_over_all_by_family_and_by_word_and_shows_every_row(self, case, tmp_path):
        records = self.score(case, tmp_path, Encoders(MeanColour(), MeanColour()))
        report = photographs.summarise(records, {"benchmark": "own", "encoders": {}})
        assert report["rows"]["subject"]["clip_t"] == pytest.approx([0.5**0.5], abs=1e-4)
        assert report["by_family"]["scene"]["pictures"] == report["by_word"]["ball"]["pictures"] == 1
        write_page(report, [case], {"subject": tmp_path / "made"}, tmp_path / "page.html")
        page = (tmp_path / "page.html").read_text("utf-8")
        assert all(told in page for row, told in photographs.ROWS.items() if row != "text")
        assert page.count("<circle") == 2  # the real pictures have no sentence
        assert 'src="data:image/png' in page
        assert "http" not in page.replace("http://www.w3.org/2000/svg", "")

    def test_the_grid_shows_each_subject_under_another_sentence(self, case, tmp_path):
        colours = ["red", "green", "blue", "green"]
        cases = []
        for name in ("one", "two"):
            reference = tmp_path / name / "0.png"
            save(plain("blue" if name == "one" else "green"), reference)
            shown = RealSubject(name, name, (reference,), reference)
            cases += [
                replace(case, subjects=(shown,), prompt=f"a ball {number}", prompt_number=number, seed=seed)
                for number in (0, 1)
                for seed in (0, 1)
            ]
        for one, colour in zip(cases, (colour for colour in colours for _ in range(2)), strict=True):
            save(plain(colour), tmp_path / "made" / one.path)
        shown = grid(cases, {"subject": tmp_path / "made"})
        middles = [shown.getpixel((x, y)) for y in (64, 194) for x in (64, 194)]
        assert middles == [plain(colour).getpixel((0, 0)) for colour in ("blue", "green", "red", "green")]
        assert shown.size == (258, 258)


class TestDreamBench:
    @pytest.fixture(scope="class")
    def folder(self, tmp_path_factory):
        folder = tmp_path_factory.mktemp("dreambench")
        for name in dreambench.CLASSES:
            for number in range(dreambench.REFERENCES[name] + 1):
                save(plain("red"), folder / name / f"{number:02d}.png")
        return folder

    def test_the_protocol_has_30_subjects_25_sentences_and_4_pictures(self, folder):
        cases = dreambench_cases(folder)
        assert len(cases) == 3000
        assert len({case.path for case in cases}) == 3000
        assert len({case.group for case in cases}) == 30

    def test_pairs_too_are_30(self, folder):
        cases = dreambench_cases(folder, pairs=True)
        assert len({case.group for case in cases}) == 30
        assert len(cases) == 3000

    def test_the_living_are_asked_for_in_clothes_and_things_in_more_scenes(self, folder):
        said = {
            name: [case.prompt for case in dreambench_cases(folder, subjects=[name], seeds=1)]
            for name in ("dog6", "can")
        }
        assert "a dog in a chef outfit" in said["dog6"]
        assert "a can floating in an ocean of milk" in said["can"]
        assert said["can"][-1] == "a cube shaped can"
        assert {"a dog in the jungle"} == {said["dog6"][0]}

    def test_every_sentence_says_each_subjects_word_as_often_as_it_is_meant(self, folder):
        for case in dreambench_cases(folder, pairs=True, seeds=1) + dreambench_cases(folder, seeds=1):
            words = [word for word, _ in case.words]
            for word, occurrence in case.words:
                assert 1 <= occurrence <= words.count(word) == len(re.findall(rf"\b{word}\b", case.prompt))

    def test_two_subjects_of_one_class_are_told_apart_by_which_one_is_said(self, folder):
        (case,) = dreambench_cases(folder, pairs=True, subjects=["dog+dog2"], prompts=1, seeds=1)
        assert case.prompt == "a dog and a dog in the jungle"
        assert case.words == [("dog", 1), ("dog", 2)]

    def test_the_reference_is_that_of_the_list(self, folder):
        (case,) = dreambench_cases(folder, subjects=["dog3"], prompts=1, seeds=1)
        assert case.subjects[0].reference.name == "05.png"

    @pytest.mark.parametrize(
        ("name", "message"), [("unicorn", "DreamBench has no unicorn"), ("cat", "no pictures of cat")]
    )
    def test_what_is_not_there_is_refused(self, tmp_path, name, message):
        with pytest.raises(InputError, match=message):
            dreambench_cases(tmp_path, subjects=[name])

    def test_another_picture_never_stands_in_for_the_reference(self, folder, tmp_path):
        shutil.copytree(folder / "can", tmp_path / "can")
        (tmp_path / "can" / "01.png").rename(tmp_path / "can" / "02.png")
        with pytest.raises(InputError, match="lacks the picture 01, the reference of can"):
            dreambench_cases(tmp_path, subjects=["can"])

    def test_more_sentences_than_there_are_are_refused_and_a_subject_takes_part_once(self, folder):
        with pytest.raises(InputError, match="1 to 25 sentences about each subject, not 99"):
            dreambench_cases(folder, prompts=99)
        assert len(dreambench_cases(folder, subjects=["can", "can"])) == 100

    def test_other_pictures_are_another_benchmark(self, folder, tmp_path):
        before = digest(dreambench_cases(folder, subjects=["can"]))
        copied = tmp_path / "dataset"
        shutil.copytree(folder / "can", copied / "can")
        assert digest(dreambench_cases(copied, subjects=["can"])) == before
        plain("blue").save(copied / "can" / "00.png")
        assert digest(dreambench_cases(copied, subjects=["can"])) != before


LINE = {"subject": "mug", "word": "mug", "pictures": ["mug.png"], "prompts": ["a mug on red", "a mug on blue"]}


class TestOwnFolder:
    def write(self, folder, *lines):
        save(plain("red"), folder / "mug.png")
        (folder / "benchmark.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
        return folder

    def test_another_reference_is_another_benchmark(self, tmp_path):
        save(plain("blue"), tmp_path / "other.png")
        one, other = (
            digest(listed_cases(self.write(tmp_path, {**LINE, "pictures": pictures})))
            for pictures in (["mug.png", "other.png"], ["other.png", "mug.png"])
        )
        assert one != other

    def test_a_list_that_is_no_text_is_refused(self, tmp_path):
        (tmp_path / "benchmark.jsonl").write_bytes(b"\xff\xfe{")
        with pytest.raises(InputError, match="cannot be read as UTF-8"):
            listed_cases(tmp_path)

    def test_each_line_is_a_subject(self, tmp_path):
        cases = listed_cases(self.write(tmp_path, LINE), seeds=2)
        assert [str(case.path) for case in cases] == ["mug/00-0.png", "mug/00-1.png", "mug/01-0.png", "mug/01-1.png"]
        assert cases[-1].prompt == "a mug on blue"

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"pictures": ["none.png"]}, "line 1 of .* names .*none.png"), ({"pictures": []}, "names no pictures"),
            ({"subject": "../mug"}, "cannot name a folder"), ({"words": "mug"}, "words is no option"),
            ({"prompts": []}, "lists nothing"),
        ],
    )  # fmt: skip
    def test_a_line_that_cannot_be_used_is_refused(self, tmp_path, change, message):
        with pytest.raises(InputError, match=message):
            listed_cases(self.write(tmp_path, {**LINE, **change}))

    def test_a_subject_has_one_line(self, tmp_path):
        with pytest.raises(InputError, match="names a subject twice"):
            listed_cases(self.write(tmp_path, LINE, LINE))

    def test_a_folder_without_list_is_refused(self, tmp_path):
        with pytest.raises(InputError, match=r"has no benchmark\.jsonl"):
            listed_cases(tmp_path)


class TestEncoders:
    @pytest.fixture(scope="class")
    def folders(self, tmp_path_factory):
        """A CLIP, a DINO and a CLIPSeg of their real classes at small sizes, in folders as the hub has them."""
        folder = tmp_path_factory.mktemp("encoders")
        torch.manual_seed(0)
        pieces = ["<|startoftext|>", "<|endoftext|>", *"abcdefghijklmnopqrstuvwxyz"]
        pieces += [f"{letter}</w>" for letter in "abcdefghijklmnopqrstuvwxyz"]
        tokenizer = transformers.CLIPTokenizer(vocab={one: number for number, one in enumerate(pieces)}, merges=[])
        small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
        text = {**small, "vocab_size": len(pieces), "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
        vision = {**small, "image_size": 32, "patch_size": 8}
        models = {
            "clip": transformers.CLIPModel(
                transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)
            ),
            "dino": transformers.ViTModel(transformers.ViTConfig(**vision), add_pooling_layer=False),
            "segmenter": transformers.CLIPSegForImageSegmentation(
                transformers.CLIPSegConfig(
                    text_config=text, vision_config=vision, projection_dim=16, reduce_dim=16, extract_layers=[0, 1],
                    decoder_num_attention_heads=2, decoder_intermediate_size=32, conditional_layer=0,
                )
            ),
            "image_reward": ImageRewardModel(
                {**vision, "patch_size": 16}, {**small, "vocab_size": len(pieces), "pad_token_id": 1}, head_widths=[4]
            ),
            "lpips": Lpips((4, 4, 4, 4, 4)),
        }  # fmt: skip
        for parameter in models["image_reward"].parameters():
            parameter.data += 0.3 * torch.randn_like(parameter)  # as made, it hardly sees the picture
        for name, model in models.items():
            model.save_pretrained(folder / name)
            tokenizer.save_pretrained(folder / name)
        return {name: folder / name for name in models}

    @pytest.fixture(scope="class")
    def loaded(self, folders):
        return load_encoders(**folders)

    def test_all_come_from_folders_and_say_which_they_are(self, loaded):
        assert loaded.missing == ()
        assert all(name in told for name, told in loaded.names().items())

    def test_rewards_and_distances_are_numbers_that_depend_on_what_is_shown(self, loaded):
        rng = np.random.default_rng(0)
        one, other = (Image.fromarray(rng.integers(0, 255, (64, 48, 3), np.uint8)) for _ in range(2))
        rewards = {
            loaded.image_reward.reward(*asked) for asked in ((one, "a cat"), (one, "two dogs"), (other, "a cat"))
        }
        assert len(rewards) == 3
        assert loaded.lpips.distance(one, one) == 0 < loaded.lpips.distance(one, other)

    @pytest.fixture(scope="class")
    def picture(self):
        """Higher than wide, by no round factor; noise in red, a ramp in green, dark in blue."""
        levels = np.random.default_rng(1).integers(0, 255, (178, 100, 3), np.uint8)
        levels[..., 1] = np.linspace(0, 255, 178)[:, None]
        levels[..., 2] //= 8
        return Image.fromarray(levels)

    def test_clip_embeds_as_the_library_does(self, folders, loaded, picture):
        model = transformers.CLIPModel.from_pretrained(folders["clip"])
        processor = transformers.CLIPImageProcessorPil(
            size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
        )
        tokens = loaded.clip.tokenizer(["a cat", "two dogs"], padding=True, return_tensors="pt")
        with torch.no_grad():
            out = model(pixel_values=processor(picture, return_tensors="pt")["pixel_values"], **tokens)
        torch.testing.assert_close(loaded.clip.embed([picture]), out.image_embeds, atol=1e-5, rtol=0)
        torch.testing.assert_close(loaded.clip.embed_text(["a cat", "two dogs"]), out.text_embeds)

    def test_dino_embeds_by_the_librarys_class_token(self, folders, loaded, picture):
        processor = transformers.CLIPImageProcessorPil(
            size={"shortest_edge": 37}, crop_size={"height": 32, "width": 32}, image_mean=[0.485, 0.456, 0.406],
            image_std=[0.229, 0.224, 0.225],
        )  # fmt: skip
        model = transformers.ViTModel.from_pretrained(folders["dino"], add_pooling_layer=False)
        with torch.no_grad():
            token = model(**processor(picture, return_tensors="pt")).last_hidden_state[0, 0]
        torch.testing.assert_close(loaded.dino.embed([picture])[0], token / token.norm(), atol=1e-5, rtol=0)

    def test_a_region_is_where_the_librarys_probability_is_above_one_half(self, folders, loaded, picture):
        picture = picture.resize((88, 176))  # whose pixels lie between those of the 352 that the model sees
        model = transformers.CLIPSegForImageSegmentation.from_pretrained(folders["segmenter"])
        processor = transformers.ViTImageProcessorPil(
            size={"height": 352, "width": 352}, image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225]
        )
        tokens = loaded.segmenter.tokenizer(["cat"], return_tensors="pt")
        seen = processor(picture, return_tensors="pt")["pixel_values"]
        bias = model.decoder.transposed_convolution.bias
        with torch.no_grad():
            bias -= model(pixel_values=seen, **tokens).logits.median()  # as made, it finds everything or nothing
            logits = model(pixel_values=seen, **tokens).logits.view(352, 352)
        rows = (logits[::2] + logits[1::2]) / 2
        found = torch.sigmoid((rows[:, 1::4] + rows[:, 2::4]) / 2) > 0.5
        region = replace(loaded.segmenter, model=model).region(picture, "cat")
        assert region.shape == (176, 88)
        assert 0.2 < found.float().mean() < 0.8
        assert (region == found).float().mean() > 0.999

    def test_lpips_is_shown_levels_from_minus_one_to_one(self, folders, loaded, picture):
        other = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT).convert("L")
        one, two = (
            torch.tensor(np.asarray(each.convert("RGB"), np.float32) / 127.5 - 1).permute(2, 0, 1)[None]
            for each in (picture, other)
        )
        with torch.no_grad():
            expected = Lpips.from_pretrained(folders["lpips"])(one, two).item()
        assert loaded.lpips.distance(picture, other) == pytest.approx(expected, rel=1e-4)

    def test_what_is_cut_out_lies_in_the_middle_of_a_white_square(self):
        region = torch.zeros(24, 24, dtype=torch.bool)
        region[4:10, 2:20] = True
        region[4, 2] = False
        alone = np.asarray(cut_out(plain("red"), region))
        assert alone.shape == (18, 18, 3)
        is_red = (alone == (255, 0, 0)).all(axis=2)
        assert is_red.sum() == 6 * 18 - 1
        assert sorted(set(is_red.nonzero()[0])) == list(range(6, 12))
        assert (alone[~is_red] == 255).all()

    def test_where_nothing_is_found_the_picture_stands_for_it(self):
        assert cut_out(plain("red"), torch.zeros(24, 24, dtype=torch.bool)) == plain("red")

    @pytest.fixture
    def hub(self, monkeypatch):
        """A hub that nobody reaches, and an empty cache; which repositories were asked for over the network."""
        asked = []

        def listed(_, name, revision=None):
            asked.append(name)
            raise OSError("offline")

        def cached(name, **_):
            raise LocalEntryNotFoundError("not in the cache")

        monkeypatch.setattr("huggingface_hub.HfApi.list_repo_files", listed)
        monkeypatch.setattr("realcustom.loading.snapshot_download", cached)
        return asked

    def test_a_revision_may_be_named(self, folders, monkeypatch):
        asked = []

        def listed(_, name, revision=None):
            asked.append((name, revision))
            return ["model.safetensors"]

        monkeypatch.setattr("huggingface_hub.HfApi.list_repo_files", listed)
        monkeypatch.setattr("realcustom.loading.snapshot_download", lambda name, **_: str(folders["dino"]))
        found = load_encoders(dino="owner/dino@refs/pr/3")
        assert asked[0] == ("owner/dino", "refs/pr/3")
        assert found.dino.name.startswith("owner/dino@")

    def test_what_is_not_named_comes_from_the_cache_or_is_missing_with_its_reason(self, folders, hub):
        found = load_encoders(dino=folders["dino"])
        assert (found.clip, found.segmenter) == (None, None)
        assert found.names()["clip"].startswith("not measured: openai/clip-vit-base-patch32 is not in the hub's cache")
        assert found.dino is not None
        assert hub == []

    def test_what_is_named_and_not_to_be_had_is_refused(self, folders, hub):
        named = {name: folders[name] for name in ("clip", "dino", "segmenter")}
        for name in named:
            with pytest.raises(InputError, match="called 'runs/clpi'"):
                load_encoders(**{**named, name: "runs/clpi"})
        assert hub == ["runs/clpi"] * 3

    def test_they_compute_where_their_networks_are(self, folders, loaded):
        """As on torch's device of numbers that are not there, from which no result can be fetched."""
        names = ("clip", "dino", "segmenter", "image_reward", "lpips")
        away = {
            name: replace(one, model=deepcopy(one.model).to("meta")) for name in names if (one := getattr(loaded, name))
        }
        there = Encoders(**away)
        picture = plain("red", (64, 64))
        for compute in (
            lambda: there.clip.embed([picture]),
            lambda: there.clip.embed_text(["a cat"]),
            lambda: there.dino.embed([picture]),
            lambda: there.segmenter.region(picture, "cat"),
            lambda: there.image_reward.reward(picture, "a cat"),
            lambda: there.lpips.distance(picture, picture),
        ):
            with pytest.raises((NotImplementedError, RuntimeError), match=r"Cannot copy out of meta tensor|\.item\(\)"):
                compute()
        with pytest.raises(InputError, match="the device 'abacus' cannot be used"):
            load_encoders(lpips=folders["lpips"], device="abacus")

    def test_a_folder_that_holds_something_else_is_refused(self, folders):
        with pytest.raises(InputError):
            load_encoders(clip=folders["dino"], dino=folders["dino"], segmenter=folders["segmenter"])


class TestMaking:
    SETTINGS = Settings(batch_size=2, num_inference_steps=2)

    @pytest.fixture
    def cases(self, tmp_path):
        for name in ("dog", "cat"):
            save(plain("red", (40, 30)), tmp_path / "real" / name / "0.png")
        subjects = [
            RealSubject(name, name, (path,), path)
            for name in ("dog", "cat")
            for path in [tmp_path / "real" / name / "0.png"]
        ]
        single = [Case((one,), f"a {one.word} on the beach", "scene", 0, seed) for one in subjects for seed in (0, 1)]
        return single, [Case(tuple(subjects), "a dog and a cat on the beach", "scene", 0, 0)]

    @pytest.mark.parametrize("pairs", [False, True])
    def test_a_run_that_is_killed_goes_on_where_it_was(self, tiny, cases, tmp_path, pairs):
        work, whole, parts = cases[pairs], tmp_path / "whole", tmp_path / "parts"
        run(tiny.pipeline(), work, self.SETTINGS, whole)

        def die(row, done, total):
            if row == "text":
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            run(tiny.pipeline(), work, self.SETTINGS, parts, die)
        assert (parts / "subject" / work[0].path).exists()
        run(tiny.pipeline(), work, self.SETTINGS, parts)
        assert photographs.manifest(parts, work) == photographs.manifest(whole, work)

    def test_other_settings_are_refused(self, tiny, cases, tmp_path):
        run(tiny.pipeline(), cases[0], self.SETTINGS, tmp_path / "out")
        with pytest.raises(InputError, match="another guidance_scale"):
            run(tiny.pipeline(), cases[0], replace(self.SETTINGS, guidance_scale=9.0), tmp_path / "out")

    def test_another_systems_pictures_have_to_be_all_there(self, cases, tmp_path):
        save(plain("red"), tmp_path / "peer" / cases[0][0].path)
        with pytest.raises(InputError, match="lacks 3 of 4 pictures"):
            photographs.require_pictures(cases[0], tmp_path / "peer")

    def test_another_systems_pictures_of_one_sentence_are_of_one_size(self, cases, tmp_path):
        for number, case in enumerate(cases[0]):
            save(plain("red", (64, 64) if number < 3 else (64, 65)), tmp_path / case.path)
        with pytest.raises(InputError, match=r"cat.00-1\.png has 64 x 65 pixels"):
            photographs.require_pictures(cases[0], tmp_path)
        save(plain("red", (64, 64)), tmp_path / cases[0][-1].path)
        photographs.require_pictures(cases[0], tmp_path)
