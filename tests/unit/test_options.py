from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import PositiveInt, ValidationError

from realcustom.errors import InputError
from realcustom.options import Options, load_options
from realcustom.training.adapter import AdapterRecipe, JointRecipe
from realcustom.training.autoencoder import AutoencoderRecipe
from realcustom.training.base import BaseRecipe
from realcustom.training.judges import JudgesRecipe
from realcustom.training.package import PackageRecipe
from realcustom.training.tuning import TuningRecipe

RECIPES = Path(__file__).parents[2] / "recipes"
KINDS = {
    "autoencoder": AutoencoderRecipe,
    "base": BaseRecipe,
    "adapter": AdapterRecipe,
    "joint": JointRecipe,
    "judges": JudgesRecipe,
    "model": PackageRecipe,
    "image": AdapterRecipe,
    "textual": TuningRecipe,
    "dreambooth": TuningRecipe,
    "custom": TuningRecipe,
}


class Inner(Options):
    """A section."""

    learning_rate: float
    batch: PositiveInt = 4


class Recipe(Options):
    """A recipe."""

    output_dir: Path
    training: Inner
    names: tuple[str, ...] = ()
    stages: list[Inner] = []  # noqa: RUF012
    last: Inner | None = None
    pairs: tuple[tuple[Inner, ...] | None, ...] = ()


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("output_dir: runs\ntraining:\n  learning_rate: 1.0e-3\n")
    return path


@pytest.mark.parametrize("path", sorted(RECIPES.rglob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_of_the_project_loads(path):
    kind = KINDS[path.stem.split("-")[0]]
    assert isinstance(load_options(kind, path), kind)


def test_defaults_then_file_then_overrides(recipe):
    loaded = load_options(
        Recipe, recipe, ["training.batch=8", "training.learning_rate=1e-4", "names=[a, b]", "output_dir=x=y"]
    )
    assert loaded.training == Inner(learning_rate=1e-4, batch=8)
    assert (loaded.names, loaded.output_dir) == (("a", "b"), Path("x=y"))
    assert load_options(Recipe, recipe).training.batch == 4


def test_options_do_not_change(recipe):
    with pytest.raises(ValidationError, match="frozen"):
        load_options(Recipe, recipe).training.batch = 3


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["trainin.batch=8"], r"trainin is no option\. Did you mean 'training'\?"),
        (["training.bach=8"], r"training\.bach is no option\. Did you mean 'batch'\?"),
        (["zzz=8"], r"zzz is no option\.$"),
        (["training.batch=many"], r"training\.batch: input should be a valid integer.* \(given: 'many'\)"),
        (["training.batch=0"], r"training\.batch: input should be greater than 0 \(given: 0\)"),
        (["training=null"], r"training: input should be a valid dictionary"),
        (["training.batch=0", "zzz=1"], r"training\.batch: .*; zzz is no option"),
        (["training.batch"], r"an override is written section\.name=value, but 'training\.batch' was given"),
        (["output_dir.name=1"], r"output_dir"),
        (["stages=[{learning_rate: 1, bach: 2}]"], r"stages\.0\.bach is no option\. Did you mean 'batch'\?"),
        (["last.bach=8"], r"last\.bach is no option\. Did you mean 'batch'\?"),
        (["pairs=[null, [{bach: 2}]]"], r"pairs\.1\.0\.bach is no option\. Did you mean 'batch'\?"),
        (["names=[a"], r"names=\[a"),
    ],
)
def test_a_wrong_option_is_named(recipe, overrides, message):
    with pytest.raises(InputError, match=message):
        load_options(Recipe, recipe, overrides)


SCENES, JOINT, BASE = (
    RECIPES / "stickers" / "judges.yaml",
    RECIPES / "stickers" / "joint.yaml",
    RECIPES / "stickers" / "base.yaml",
)


@pytest.mark.parametrize(
    ("path", "override", "message"),
    [
        (SCENES, "data.scenes.worn_share=1.1", "less than or equal to 1"),
        (SCENES, "data.scenes.smallest=0", "greater than 0"),
        (SCENES, "data.scenes.backgrounds=0", "greater than 0"),
        (SCENES, "data.scenes.smallest=0.9", r"smallest \(0\.9\) is larger than largest \(0\.85\)"),
        (SCENES, "data.scenes.largest_portrait=0.6", r"smallest_portrait \(0\.7\) is larger than largest_portrait"),
        (SCENES, "data.scenes.worn_share=0.9", r"worn_share \(0\.9\) and beside_share \(0\.3\) together exceed 1"),
        (SCENES, "data.scenes.colour_share=.8", None),
        (SCENES, "data.scenes.hue_share=.9", r"colour_share \(0\.2\) and hue_share \(0\.9\) together exceed 1"),
        (SCENES, "data.scenes.kind_share=1", r"kind_share \(1.0\) and thing_share \(0\.05\) together exceed 1"),
        (SCENES, "identity_scale=0", "greater than 0"),
        (JOINT, "caption_dropout=1.5", "less than or equal to 1"),
        (JOINT, "reference_dropout=-1", "greater than or equal to 0"),
        (JOINT, "lowest_token_ratio=0", "greater than 0"),
        (JOINT, "frame_jitter=-.1", "greater than or equal to 0"),
        (JOINT, "reach_rate=-1", "greater than or equal to 0"),
        (JOINT, "validation_examples=0", "greater than 0"),
        (JOINT, "initial_adapter=null", None),
        (JOINT, "training.adam_beta2=1", "less than 1"),
        (BASE, "caption_dropout=2", "less than or equal to 1"),
        (BASE, "snr_gamma=5", "snr_gamma is no option"),
        (RECIPES / "stickers" / "joint-sharp.yaml", "initial_adapter=null", "finer needs initial_adapter"),
        (RECIPES / "stickers" / "adapter.yaml", "image_prompt=true", "image_prompt needs initial_adapter"),
        (RECIPES / "stickers" / "autoencoder.yaml", "latent_noise=-1", "greater than or equal to 0"),
    ],
)
def test_numbers_that_no_training_can_use_are_refused(path, override, message):
    kind = KINDS[path.stem.split("-")[0]]
    if message is None:
        assert load_options(kind, path, [override])
        return
    with pytest.raises(InputError, match=message):
        load_options(kind, path, [override])


def test_a_missing_option_is_named(recipe):
    recipe.write_text("training: {}\n")
    with pytest.raises(InputError, match=r"output_dir: field required; training\.learning_rate: field required"):
        load_options(Recipe, recipe)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"- a\n- b\n", "must hold options by name, but holds a list"),
        (b"", "must hold options by name, but holds a NoneType"),
        (b"a: [1", "could not read the recipe"),
        (b"a: \xff\xfe", "could not read the recipe"),
        (b"a: !!python/object/apply:os.getcwd []", "could not read the recipe"),
    ],
)
def test_a_file_that_is_no_recipe_is_refused(recipe, content, message):
    recipe.write_bytes(content)
    with pytest.raises(InputError, match=message):
        load_options(Recipe, recipe)


def test_a_recipe_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InputError, match=r"could not read the recipe .*nowhere\.yaml"):
        load_options(Recipe, tmp_path / "nowhere.yaml")
