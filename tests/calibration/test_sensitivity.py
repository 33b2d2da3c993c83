import pytest

from illume_calibration.recipe import StageRecipe
from illume_calibration.sensitivity import Damage, by_damage_per_byte, relieved

DAMAGES = [
    Damage("decoder", "down", 1e-2, 1e-4, 1000, 0.01),
    Damage("decoder", "up", 3e-3, 2.9e-3, 1000, 0.01),
    Damage("decoder", "out", 1e-4, 1e-5, 1000, 0.01),
]
HOW = StageRecipe("int8", "int8", keep=("norm",))


@pytest.mark.parametrize(
    ("sqnr_db", "weight_only", "keep"),
    [
        (10.0, (), ("norm",)),  # 1.31e-2 is below 1e-1 as it is
        (20.0, ("down",), ("norm",)),  # 3.2e-3 is below 1e-2
        (30.0, ("down",), ("norm", "up")),  # its weights alone would not do
        (60.0, ("down", "out"), ("norm", "up")),
    ],
)
def test_the_worst_layers_are_relieved_as_far_as_it_takes(sqnr_db, weight_only, keep):
    found = relieved(HOW, DAMAGES, sqnr_db)
    assert (found.weight_only, found.keep) == (weight_only, keep)


def test_layers_are_ranked_by_bytes_and_then_by_time():
    """Half the noise for a quarter of the bytes is dearer; of equal ones the one that saves less time."""
    dear = Damage("decoder", "small", 5e-3, 5e-3, 250, 0.01)
    slow = Damage("decoder", "slow", 1e-2, 1e-2, 1000, -0.01)
    assert [damage.layer for damage in by_damage_per_byte([*DAMAGES, dear, slow])] == [
        "small",
        "slow",
        "down",
        "up",
        "out",
    ]


def test_damage_is_told_per_megabyte_and_in_decibels():
    assert DAMAGES[0].noise_per_megabyte == pytest.approx(10.0)
    assert DAMAGES[0].sqnr_db == pytest.approx(20.0)
