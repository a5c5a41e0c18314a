"""mmssl-fast benchmark --plan."""

import pytest
from mmssl_trainer.cli.main import main
from mmssl_trainer.memory import cost
from mmssl_trainer.memory.plan import Sizes, peak, stages
from mmssl_trainer.memory.stage import Stage

SIZES = Sizes(100_000, 50_000, 2_000_000, (128, 64), hidden=(512, 256))


def test_floor_is_the_longer_of_traffic_and_arithmetic():
    device = cost.Device(bandwidth=100.0, rate=10.0, memory=1.0)
    assert cost.floor(Stage("x", moved=1000, operations=10), device) == 10
    assert cost.floor(Stage("x", moved=100, operations=1000), device) == 100


@pytest.mark.parametrize("memory", [2e9, 80e9])
def test_largest_catalogue_fits_and_a_larger_one_does_not(memory):
    fits = cost.largest_catalogue(SIZES, memory)
    assert peak(stages(fits)) <= memory < peak(stages(cost.scaled(fits, 1.01)))
    assert fits.users / fits.items == pytest.approx(2, rel=1e-3)


def test_plan_is_printed(capsys):
    size = ["--users", "1e6", "--items", "2e5", "--memory", "40GiB"]
    assert main(["benchmark", "--plan", *size, "--device", "h200"]) == 0
    printed = capsys.readouterr().out
    for word in ("h200", "gradient", "a step takes at least", "the largest catalogue of this shape in 40.00 GiB"):
        assert word in printed
    assert (
        main(["benchmark", "--plan", "--device", "cpu", "--users", "1000", "--items", "1000", "--interactions", "9000"])
        == 0
    )


@pytest.mark.parametrize(
    "wrong, message",
    [
        (["--device", "v100"], "--device v100: must be one of h100, h200, a100, cpu"),
        (["--users", "0"], "sizes must be positive"),
        (["--widths", "a,b"], "benchmark --plan: invalid literal"),
        (["--users", "nan"], "benchmark --plan: cannot convert float NaN"),
        (["--memory", "lots"], "benchmark --plan: "),
    ],
)
def test_plan_refuses(wrong, message, capsys):
    assert main(["benchmark", "--plan", *wrong]) == 2
    assert message in capsys.readouterr().err
