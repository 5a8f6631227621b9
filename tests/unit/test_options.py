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
        (["names=[a"], r"names=\[a"),
    ],
)
def test_a_wrong_option_is_named(recipe, overrides, message):
    with pytest.raises(InputError, match=message):
        load_options(Recipe, recipe, overrides)


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
