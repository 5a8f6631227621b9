from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from realcustom.data.stickers import drawings
from realcustom.errors import InputError
from realcustom.finding import Place, locate
from realcustom.licenses import Licensed, of_model, of_package

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("expression", "allowed"),
    [
        ("Apache-2.0", True),
        ("Apache-2.0 AND CC-BY-4.0 AND MIT", True),
        ("MIT AND CC-BY-NC-4.0", False),
        ("CC-BY-NC-4.0 AND LicenseRef-own", False),
        ("MIT AND LicenseRef-own", None),
        ("MIT OR GPL-2.0-only", None),
        (None, None),
    ],
)
def test_commercial_use_is_allowed_only_if_every_licence_allows_it(expression, allowed):
    assert Licensed("data", "it", license=expression).commercial is allowed


def test_what_licences_ask_for_is_told_once():
    asks = Licensed("weights", "it", license="Apache-2.0 AND CC-BY-4.0 AND MIT").asks
    assert len(set(asks)) == len(asks)
    assert any("name the authors" in duty for duty in asks)
    assert any("copyright notice" in duty for duty in asks)


def test_the_code_says_its_own_licence():
    code = of_package()
    assert (code.part, code.license, code.commercial) == ("code", "Apache-2.0", True)
    assert of_package("never-installed") == Licensed("code", "never-installed")


def test_a_model_that_does_not_tell_has_unknown_weights(tmp_path):
    assert of_model(Place("it", "folder", tmp_path)) == [Licensed("weights", "it")]
    (tmp_path / "README.md").write_text("# it")
    assert of_model(Place("it", "folder", tmp_path))[0].source == str(tmp_path / "README.md")
    hub = of_model(Place("owner/name", "hub", tmp_path / "absent"))
    assert hub == [Licensed("weights", "owner/name", source="https://huggingface.co/owner/name")]


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"entries": [{"part": "data"}]}', '{"entries": [1]}'])
def test_a_list_that_cannot_be_read_is_wrong_input(tmp_path, content):
    (tmp_path / "licenses.json").write_text(content)
    with pytest.raises(InputError, match="must hold entries with part, what, by, license and source"):
        of_model(Place("it", "folder", tmp_path))


class TestEmbedded:
    """The list that ships says what the vocabulary pins and the document tells."""

    @pytest.fixture(scope="class")
    def entries(self):
        return of_model(locate("stickers"))

    def test_everything_is_said_and_allowed(self, entries):
        assert {entry.part for entry in entries} == {"weights", "text encoder", "data"}
        assert all(entry.by and entry.source and entry.commercial for entry in entries)

    def test_the_data_are_the_sets_of_the_vocabulary(self, entries):
        vocabulary = json.loads((Path(drawings.__file__).parent / "vocabulary.json").read_text())
        sets = {f"{one['package']} {one['version']}": one for one in vocabulary["sets"].values()}
        data = {entry.what.split(", ")[-1]: entry for entry in entries if entry.part == "data"}
        assert data.keys() == sets.keys()
        for name, one in sets.items():
            assert data[name].source == one["url"]
            assert one["license"] in data[name].license.split(" AND ")  # a package may tell less than its source does

    def test_the_data_are_those_of_the_document(self, entries):
        rows = [line.strip("|").split("|") for line in (ROOT / "docs" / "data.md").read_text().splitlines()]
        told = {
            re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", name).strip() + "," + version.replace("`", "").rstrip(): (
                license,
                by,
            )
            for name, version, license, by, _ in (row for row in rows if len(row) == 5 and "@iconify" in row[1])
        }
        data = {entry.what: entry for entry in entries if entry.part == "data"}
        assert told.keys() == data.keys()
        for what, (license, by) in told.items():
            assert by.strip() == data[what].by
            assert {one.strip() for one in re.split(r",| and ", license)} <= set(data[what].license.split(" AND "))

    def test_the_weights_are_under_the_licences_of_all_that_they_are_made_from(self, entries):
        (weights,) = [entry for entry in entries if entry.part == "weights"]
        others = {name for entry in entries if entry != weights for name in entry.license.split(" AND ")}
        assert set(weights.license.split(" AND ")) == others
