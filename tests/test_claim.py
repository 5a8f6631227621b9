"""What the documents claim of the test split is what the reports beside them hold."""

from __future__ import annotations

from pathlib import Path

import pytest

from realcustom.evaluation.comparison import differences, read_reports
from realcustom.evaluation.scores import bootstrap

ROOT = Path(__file__).parents[1]
FOLDERS = sorted((ROOT / "docs" / "reports").iterdir())
WITH_INTERVAL = ("similarity", "identity", "control")

CLAIM = {
    "**RealCustom**": ("realcustom", "subject"),
    "RealCustom, `--no-mask-yields` *": ("no-yielding", "subject"),
    "placed image prompt": ("image-prompt", "subject"),
    "placed image prompt, `--subject-scale 0.6` *": ("image-prompt-0.6", "subject"),
    "Custom Diffusion": ("custom-diffusion", "subject"),
    "Textual Inversion": ("textual-inversion", "subject"),
    "(text alone)": ("realcustom", "twin"),
    "(the reference itself)": ("realcustom", "copy"),
    "(a real render)": ("realcustom", "oracle"),
}
README = {
    "text alone": ("realcustom", "twin"),
    "**RealCustom**": ("realcustom", "subject"),
    "the same, where its mask yields to no other word": ("no-yielding", "subject"),
    "the same, acting in all of the picture: an image prompt that knows places": ("image-prompt", "subject"),
    "that image prompt at .6 of its strength": ("image-prompt-0.6", "subject"),
    "Custom Diffusion, 500 steps": ("custom-diffusion", "subject"),
    "Textual Inversion, 500 steps": ("textual-inversion", "subject"),
    "a real drawing, as the sentence says": ("realcustom", "oracle"),
}
CARD = {
    "the subject under the sentence": ("realcustom", "subject"),
    "text-only twin": ("realcustom", "twin"),
    "real re-posed render": ("realcustom", "oracle"),
    "the reference itself": ("realcustom", "copy"),
}


@pytest.fixture(scope="module")
def reports():
    return read_reports(FOLDERS)


def rounded(value: float, digits: int = 2) -> str:
    return f"{value:.{digits}f}".replace("0.", ".", 1) if abs(value) < 1 else f"{value:.{digits}f}"


def cells(document: str, heading: str, name: str) -> list[str]:
    """The first row below a document's heading that is called so, without its name."""
    _, text = (ROOT / document).read_text("utf-8").split(f"## {heading}\n")
    for line in text.splitlines():
        first, *others = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("|") and first == name:
            return [cell.strip("*") for cell in others]
    raise LookupError(f"{document} has no row {name!r}")


@pytest.mark.parametrize("name", CLAIM)
def test_the_claim_is_what_the_reports_hold(reports, name):
    folder, row = CLAIM[name]
    figures = reports[folder]["rows"][row]
    told = ["{} ({} to {})".format(*map(rounded, figures[figure])) for figure in WITH_INTERVAL]
    told += [rounded(figures[figure][0]) for figure in ("place", "worn", "colour", "beside", "position")]
    assert cells("docs/claim.md", "On the test split", name)[: len(told)] == told


@pytest.mark.parametrize("name", README)
def test_the_readme_says_the_same(reports, name):
    folder, row = README[name]
    figures = reports[folder]["rows"][row]
    told = [rounded(figures["control"][0], 3), rounded(figures["similarity"][0]), rounded(figures["identity"][0])]
    assert cells("README.md", "Whether it is so", name)[:3] == told


@pytest.mark.parametrize("name", CARD)
def test_the_card_says_the_same(reports, name):
    folder, row = CARD[name]
    figures = reports[folder]["rows"][row]
    asked = ("identity", "similarity", "control", "place", "colour", "worn", "beside", "position", "leak")
    shown = [cell.split(" (")[0] for cell in cells("src/realcustom/models/stickers/README.md", "Measured", name)]
    assert shown[: len(asked)] == [rounded(figures[figure][0]) for figure in asked]


def test_the_card_says_how_far_control_lies_below_the_twins(reports):
    control = {
        (one["row"], one["number"]): one["control"] for one in reports["realcustom"]["records"] if "control" in one
    }
    own = [one for one in reports["realcustom"]["records"] if one["row"] == "subject" and "control" in one]
    below = [control["twin", one["number"]] - one["control"] for one in own]
    told = "{} below ({} to {}".format(*(rounded(one, 3) for one in bootstrap(below, [one["group"] for one in own])))
    assert told in (ROOT / "src" / "realcustom" / "models" / "stickers" / "README.md").read_text("utf-8")


@pytest.mark.parametrize("name", [folder.name for folder in FOLDERS if folder.name != "realcustom"])
def test_the_differences_that_the_claim_names_are_those_of_the_reports(reports, name):
    apart = differences({"realcustom": reports["realcustom"], name: reports[name]})[name]
    text = (ROOT / "docs" / "claim.md").read_text("utf-8").split("## The whole curves")[0]
    for figure in ("similarity", "control"):
        mean = rounded(abs(apart[figure][0]), 3)
        assert mean in text, f"{name}: {figure} {mean}"


def test_the_reports_are_of_one_model_and_of_every_picture(reports):
    assert {told["model"] for told in reports.values()} == {reports["realcustom"]["model"]}
    assert {told["split"] for told in reports.values()} == {"test"}
    assert all(apart["pictures"] == 1600 for apart in differences(reports).values())
