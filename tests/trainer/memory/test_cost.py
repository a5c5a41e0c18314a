"""mmssl-fast benchmark --plan."""

import pytest
from mmssl_trainer.cli.main import main
from mmssl_trainer.memory import cost
from mmssl_trainer.memory.plan import peak, stages
from mmssl_trainer.memory.sizes import Sizes
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


def test_plan_of_ranks_is_printed(capsys):
    size = ["--users", "1e7", "--items", "1e7", "--interactions", "1e9", "--batch", "8192"]
    assert main(["benchmark", "--plan", *size, "--ranks", "8x8"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "64 ranks with h100" in printed and "45 GB/s between machines" in printed and "a rank receives" in printed
    assert main(["benchmark", "--plan", *size, "--ranks", "8x8", "--groups", "4"]) == 0
    assert "64 ranks in 4 groups with h100" in " ".join(capsys.readouterr().out.split())
    assert main(["benchmark", "--plan", *size, "--system", "sgl"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "views" in printed and "discriminator" not in printed


def test_a_system_without_a_plan(capsys):
    assert main(["benchmark", "--plan", "--system", "ease"]) == 2
    assert "--system ease: must be one of mmssl, lightgcn, sgl, ncl, mf with --plan" in capsys.readouterr().err


@pytest.mark.parametrize("ranks", ["4x2", "1"])
def test_groups_that_do_not_divide_the_ranks(ranks, capsys):
    assert main(["benchmark", "--plan", "--ranks", ranks, "--groups", "3"]) == 2
    assert "--groups 3: must be auto, or divide the number of ranks, which is" in capsys.readouterr().err


def test_time_of_a_transfer():
    """One of three ranks is on the same machine, or all are."""
    device = cost.Device(1.0, 1.0, 1.0, link=100.0, network=10.0)
    assert cost.transfer(300, device, cost.Machines(2, 2)) == pytest.approx(200 / 10)
    assert cost.transfer(300, device, cost.Machines(1, 4)) == 3
    assert cost.transfer(300, device, cost.Machines()) == 0
    assert [cost.machines_named(text).ranks for text in ("8", "4x8", "1X2")] == [8, 32, 2]


@pytest.mark.parametrize(
    "wrong, message",
    [
        (["--device", "v100"], "--device v100: must be one of h100, h200, a100, cpu"),
        (["--users", "0"], "sizes must be positive"),
        (["--widths", "a,b"], "benchmark --plan: invalid literal"),
        (["--users", "nan"], "benchmark --plan: cannot convert float NaN"),
        (["--memory", "lots"], "benchmark --plan: "),
        (["--ranks", "0"], "--ranks 0: must be a number of ranks such as 8, or machines x ranks such as 4x8"),
        (["--ranks", "2x"], "--ranks 2x: must be a number of ranks"),
        (["--ranks", "2", "--device", "cpu"], "--device cpu: the rate of its connections is not known"),
    ],
)
def test_plan_refuses(wrong, message, capsys):
    assert main(["benchmark", "--plan", *wrong]) == 2
    assert message in capsys.readouterr().err
