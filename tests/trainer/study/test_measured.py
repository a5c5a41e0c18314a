"""mmssl-fast benchmark's table, comparison and pictures, from files as pytest-benchmark writes them."""

import json

import pytest
from mmssl_trainer.cli.main import main
from mmssl_trainer.errors import InputError
from mmssl_trainer.study import benchmarks as measured
from rich.console import Console

MACHINE = {"device": "cpu", "machine": "x86_64", "isa": "avx2", "threads": 2, "torch": "2.13.0"}


def written(path, ratio=2.0, **machine):
    compared = {"ratio": ratio, "peak_bytes": 2**20, "peer_peak_bytes": 2**24, "peer_name": "plain PyTorch"}
    rows = [
        {"name": "test_spmm[baby]", "extra_info": compared | MACHINE | machine, "stats": {"median": 0.004}},
        {"name": "test_alone", "extra_info": {}, "stats": {"median": 1.0}},
    ]
    path.write_text(json.dumps({"benchmarks": rows}))
    return path


def printed(table):
    console = Console(width=200)
    with console.capture() as captured:
        console.print(table)
    return captured.get()


def test_table_shows_ratio_memory_and_what_changed(tmp_path):
    now, before = (measured.read(written(tmp_path / f"{r}.json", r)) for r in (2.0, 3.0))
    text = printed(measured.table(now, before))
    assert [row["name"] for row in now] == ["test_spmm[baby]"]
    for word in ("test_spmm[baby]", "4.00", "2.00", "1.0", "16.0", "plain PyTorch", "3.00 slower"):
        assert word in text
    assert "before" not in printed(measured.table(now))
    assert "slower" not in printed(measured.table(now, measured.read(written(tmp_path / "same.json", 2.1))))


@pytest.mark.parametrize("key, other", [("threads", 8), ("torch", "2.12.0"), ("device", "NVIDIA H100")])
def test_runs_of_two_machines_are_not_compared(tmp_path, key, other):
    here = measured.read(written(tmp_path / "a.json"))
    there = measured.read(written(tmp_path / "b.json", **{key: other}))
    with pytest.raises(InputError, match=rf"b.json: was measured with {key} {other}, this run with"):
        measured.check_same_machine(here, there, tmp_path / "b.json")


def test_files_that_are_no_measurements_are_refused(tmp_path):
    for content in ("", "[]", '{"benchmarks": [{}]}'):
        (tmp_path / "x.json").write_text(content)
        with pytest.raises(InputError, match=r"x\.json: is not a file written by pytest --benchmark-json"):
            measured.read(tmp_path / "x.json")
    with pytest.raises(InputError, match="cannot be read"):
        measured.read(tmp_path / "nothing.json")


@pytest.mark.parametrize("kind", ["ratios", "sizes"])
def test_picture(tmp_path, kind):
    rows = measured.read(written(tmp_path / "a.json"))
    if kind == "sizes":
        at = {"seconds": 0.5, "bytes": 10**7}
        rows = [{"scale": {"items": n, "ours": at, "dense": at if n < 1e5 else None}} for n in (10**4, 10**6)]
    measured.draw(rows, tmp_path / "x.png")
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(InputError, match="nothing was measured"):
        measured.draw([], tmp_path / "x.png")


@pytest.mark.processes
def test_benchmark_saves_and_compares(tmp_path, capfd, alone):
    checkout = tmp_path / "checkout"
    (checkout / "benchmarks").mkdir(parents=True)
    (checkout / "pyproject.toml").write_text("[tool.pytest.ini_options]\npython_files = ['bench_*.py']\n")
    info = {"ratio": 2.0, "peak_bytes": 1, "peer_peak_bytes": 1, "peer_name": "a loop"} | MACHINE
    (checkout / "benchmarks" / "bench_one.py").write_text(
        f"def test_one(benchmark):\n    benchmark(sum, [1, 2])\n    benchmark.extra_info |= {info}\n"
    )
    command = ["benchmark", "--checkout", str(checkout)]
    saved, picture = tmp_path / "saved.json", tmp_path / "plot.png"
    assert main([*command, "--save", str(saved), "--plot", str(picture)]) == 0
    assert picture.exists() and measured.read(saved)[0]["name"] == "test_one"
    assert main([*command, "--against", str(saved)]) == 0
    assert "before" in capfd.readouterr().out
    assert main([*command, "--against", str(tmp_path / "none.json")]) == 2
