import pytest

from illume_calibration.layers import Layer
from illume_calibration.recipe import (
    StageRecipe,
    check_stages,
    default_name,
    for_layers,
    recipe_from_name,
    with_overrides,
)
from illume_runtime.errors import UsageError
from illume_runtime.quantization import Bars

SHIPPED = "illume"
KINDS = {"stem": "conv", "blocks.0.mlp.up": "linear", "tail": "conv", "blocks.0.mlp.down": "linear", "out": "linear"}
LAYERS = [Layer(name, kind, i, "x", f"{name}.weight", "y") for i, (name, kind) in enumerate(KINDS.items())]


def written(tmp_path, text):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    return str(path)


def test_the_shipped_recipe_covers_every_stage():
    recipe = recipe_from_name(SHIPPED)
    assert (recipe.name, recipe.method, recipe.bars) == (SHIPPED, "mse", Bars())
    for stage in (
        "vision_encoder",
        "image_tokenizer",
        "decoder",
        "head_text",
        "head_level0",
        "denoiser",
        "vae_decoder",
    ):
        assert recipe.stage(stage).weights == "int8"
    assert recipe.stage("vq_decoder") is None


def test_the_first_pattern_counts_and_the_rest_keeps_its_defaults(tmp_path):
    text = 'method = "minmax"\n[stages.head_text]\nweights = "float32"\n[stages."head_*"]\nweights = "int4"\n'
    recipe = recipe_from_name(written(tmp_path, text))
    assert recipe.stage("head_text") is None
    assert recipe.stage("head_level1") == StageRecipe("int4", "float32", 32, (), ())
    assert recipe.name == "mine"


def test_no_pattern_names_the_table(tmp_path):
    text = 'method = "minmax"\n[stages."*"]\nweights = "int8"\nactivations = "int8"\n'
    recipe = recipe_from_name(written(tmp_path, text))
    assert not recipe.has_int8_embedding
    assert with_overrides(recipe, ["token_embedding.weights=int8"], None).has_int8_embedding
    assert not with_overrides(recipe, ["token_embedding.weights=float32"], None).has_int8_embedding


@pytest.mark.parametrize("name", ["default", "illume", "illume_plus"])
def test_shipped_recipes_have_an_int8_embedding(name):
    assert recipe_from_name(name).has_int8_embedding


def test_overrides_start_from_what_the_recipe_says_of_the_stage():
    changed = with_overrides(
        recipe_from_name(SHIPPED),
        [
            "head_text.weights=int4",
            "head_text.group_size=64",
            "decoder.keep=a,b",
            "decoder.scaling=awq",
            "decoder.rounding=nearest",
            "new.activations=int8",
        ],
        "entropy",
    )
    assert changed.stage("head_text") == StageRecipe("int4", "float32", 64, rounding="gptq")
    assert changed.stage("head_level0") == StageRecipe("int8", rounding="gptq")
    expected = StageRecipe("int8", "int8", 32, ("a", "b"), ("*down_proj",), "awq", "nearest")
    assert changed.stage("decoder") == expected
    assert changed.stage("new") == StageRecipe("int8", "int8")
    assert (changed.method, changed.name) == ("entropy", "illume, changed")
    assert with_overrides(recipe_from_name(SHIPPED), [], "mse").name == SHIPPED


BAD = {
    "no TOML": ("method =", "no TOML"),
    "no method": ("[stages]", "method: missing key"),
    "unknown method": ('method = "best"\n[stages]', 'method: got "best", expected "minmax" or'),
    "unknown key": ('method = "mse"\nspeed = 1\n[stages]', "speed: unknown key"),
    "unknown bar": ('method = "mse"\n[stages]\n[bars]\nfun = 1', "bars.fun: unknown key"),
    "a name": ('method = "mse"\nname = "x"\n[stages]', "name: unknown key; a recipe is called what its file"),
    "percentile": ('method = "mse"\npercentile = 101\n[stages]', "percentile: got 101, expected a number from 50"),
    "group size": ('method = "mse"\n[stages.a]\nweights = "int4"\ngroup_size = 33', "stages.a.group_size: got 33"),
    "keep is no list": ('method = "mse"\n[stages.a]\nweights = "int8"\nkeep = "x"', "stages.a.keep: got"),
}


@pytest.mark.parametrize(("text", "message"), BAD.values(), ids=BAD)
def test_a_malformed_recipe_is_refused(tmp_path, text, message):
    with pytest.raises(UsageError, match=message):
        recipe_from_name(written(tmp_path, text))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("decoder", "expected STAGE.KEY=VALUE"),
        ("decoder.keep", "expected STAGE.KEY=VALUE"),
        ("weights=int8", "expected STAGE.KEY=VALUE"),
        ("decoder.group_size=many", "expected a whole number"),
    ],
)
def test_a_malformed_override_is_refused(text, message):
    with pytest.raises(UsageError, match=message):
        with_overrides(recipe_from_name(SHIPPED), [text], None)


def test_a_stage_that_the_bundle_has_not_is_refused_where_the_user_names_it(tmp_path):
    stages = ("decoder", "head_text", "head_level0")
    shipped = recipe_from_name(SHIPPED)
    check_stages(SHIPPED, shipped, ["decoder.keep=x", "head_*.weights=int4", "token_embedding.weights=float32"], stages)
    with pytest.raises(UsageError, match="there is no stage 'decodr'; the nearest names are decoder"):
        check_stages(SHIPPED, shipped, ["decodr.keep=x"], stages)
    own = written(tmp_path, 'method = "mse"\n[stages."vae*"]\nweights = "int8"\n[stages.heads]\nweights = "int8"')
    with pytest.raises(UsageError, match="there is no stage 'heads'; the nearest names are head_text, head_level0"):
        check_stages(own, recipe_from_name(own), [], stages)


def test_patterns_and_places_become_names():
    how = StageRecipe("int8", keep=("@first_conv", "*.up", "stem"), weight_only=("@last",))
    found = for_layers(how, "denoiser", LAYERS)
    assert (found.keep, found.weight_only) == (("stem", "blocks.0.mlp.up"), ("out",))
    assert for_layers(StageRecipe("int8", keep=("@last_conv",)), "denoiser", LAYERS).keep == ("tail",)
    assert for_layers(StageRecipe("int8", keep=("@last_conv",)), "decoder", LAYERS[1:2]).keep == ()


def test_a_pattern_that_no_layer_has_names_the_nearest():
    with pytest.raises(UsageError, match=r"denoiser.weight_only: there is no layer 'outt'; the nearest names are out"):
        for_layers(StageRecipe("int8", weight_only=("outt",)), "denoiser", LAYERS)


def test_a_family_without_a_recipe_of_its_own_has_the_default_one():
    assert (default_name("illume"), default_name("other")) == ("illume", "default")
    recipe = recipe_from_name("default")
    assert recipe.stage("head_text").activations == "float32"
    assert recipe.stage("anything").keep == ("@first_conv", "@last_conv")
