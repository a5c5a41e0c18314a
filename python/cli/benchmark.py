"""mmssl-fast benchmark: measure the kernels in a source checkout, or estimate the cost of a training step."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from ..errors import InputError, install_command


def benchmark(
    context: typer.Context,
    checkout: Annotated[Path, typer.Option(help="Source checkout of mmssl_fast.")] = Path("."),
    save: Annotated[Path | None, typer.Option(help="JSON file for the results.")] = None,
    against: Annotated[
        Path | None, typer.Option(help="Compare with this file, which --save wrote on the same machine.")
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="PNG file for a plot of the results.")] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Estimate instead of measuring.")] = False,
    users: Annotated[float, typer.Option(help="With --plan: number of users, such as 1e6.")] = 1e6,
    items: Annotated[float, typer.Option(help="With --plan: number of items.")] = 1e6,
    interactions: Annotated[float, typer.Option(help="With --plan: number of interactions.")] = 2e7,
    widths: Annotated[str, typer.Option(help="With --plan: feature columns of each modality.")] = "128,64",
    hidden: Annotated[int, typer.Option(help="With --plan: width of the discriminator's first layer.")] = 512,
    batch: Annotated[int, typer.Option(help="With --plan: triples per step.")] = 1024,
    least_memory: Annotated[
        bool,
        typer.Option(
            "--least-memory",
            help="With --plan: with all settings that save memory, and prepared data with features in float16.",
        ),
    ] = False,
    ranks: Annotated[
        str, typer.Option(help="With --plan: number of ranks, or machines x ranks on each, such as 4x8.")
    ] = "1",
    groups: Annotated[
        str,
        typer.Option(
            help="With --plan: number of groups of ranks that divide the graph (distributed.groups); auto: the "
            "smallest one that fits the memory limit."
        ),
    ] = "1",
    system: Annotated[str, typer.Option(help="With --plan: mmssl, lightgcn, sgl, ncl or mf.")] = "mmssl",
    device: Annotated[str, typer.Option(help="With --plan: h100, h200, a100, or cpu for this machine.")] = "h100",
    memory: Annotated[
        str | None,
        typer.Option(
            help="With --plan: memory limit, such as 40GiB. [default: memory of the device]", show_default=False
        ),
    ] = None,
) -> None:
    """Measure the kernels, or estimate a training step (--plan). The kernels of a source checkout are compared with
    plain PyTorch and other libraries. Further arguments are passed to pytest. With --plan, the memory and time of a
    training step are estimated instead."""
    if plan:
        _show_plan(
            users, items, interactions, widths, hidden, batch, least_memory, ranks, groups, system, device, memory
        )
        return
    from ..console.output import OUT
    from ..files import replacing
    from ..study import benchmarks

    earlier = None if against is None else benchmarks.read(against)
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder) / "benchmarks.json"
        code = run_benchmarks(checkout, [f"--benchmark-json={results}", *context.args])
        if not results.exists() or not results.stat().st_size:
            raise typer.Exit(code)
        rows = benchmarks.read(results)
        if save is not None:
            with replacing(save) as temporary:
                temporary.write_bytes(results.read_bytes())
    if against is not None and earlier is not None:
        benchmarks.check_same_machine(rows, earlier, against)
    if any("ratio" in row for row in rows):
        OUT.print(benchmarks.table(rows, earlier))
    if plot is not None:
        with replacing(plot) as temporary:
            benchmarks.draw(rows, temporary)
    raise typer.Exit(code)


def _show_plan(
    users: float,
    items: float,
    interactions: float,
    widths: str,
    hidden: int,
    batch: int,
    least_memory: bool,
    ranks: str,
    groups: str,
    system: str,
    device: str,
    memory: str | None,
) -> None:
    from mmssl_fast.nn.clustered import search_method

    from ..config.byte_size import parse_bytes
    from ..console.output import OUT
    from ..memory import cost
    from ..memory.sizes import PLANNED, Sizes, divisors, of_system, with_least_memory

    try:
        counts = [int(n) for n in (users, items, interactions, hidden, batch)]
        modalities = tuple(int(width) for width in widths.split(",")) if widths else ()
        limit = None if memory is None else parse_bytes(memory)
    except (ValueError, OverflowError) as error:
        raise InputError(f"benchmark --plan: {error}") from None
    if min(*counts, *modalities) < 1:
        raise InputError(f"benchmark --plan: sizes must be positive, got {counts} and widths {list(modalities)}")
    if counts[2] > counts[0] * counts[1]:
        raise InputError(
            f"benchmark --plan: {counts[2]:,} interactions are more than the {counts[0] * counts[1]:,} possible pairs "
            f"of {counts[0]:,} users and {counts[1]:,} items; reduce --interactions"
        )
    if system not in PLANNED:
        raise InputError(f"--system {system}: must be one of {', '.join(PLANNED)} with --plan")
    n_users, n_items, n_interactions = counts[:3]
    machines = cost.machines_named(ranks)
    if groups != "auto" and groups not in map(str, divisors(machines.ranks)):
        raise InputError(
            f"--groups {groups}: must be auto, or divide the number of ranks, which is {machines.ranks} (--ranks)"
        )
    sizes = Sizes(
        *(n_users, n_items, n_interactions, modalities),
        hidden=(hidden, max(1, hidden // 2)),
        batch=batch,
        clustered=search_method("auto", n_users, n_items, machines.ranks) == "ivf",
        ranks=machines.ranks,
    )
    sizes = of_system(with_least_memory(sizes) if least_memory else sizes, system)
    sizes = replace(sizes, groups=cost.fitting_groups(sizes, device, limit) if groups == "auto" else int(groups))
    stages, sentences = cost.table(sizes, device, limit, machines)
    OUT.print(stages)
    for sentence in sentences:
        OUT.print(sentence)


def run_benchmarks(checkout: Path, arguments: list[str]) -> int:
    """Run the benchmarks of a checkout with pytest-benchmark and return the exit code of pytest.

    Raises InputError if the checkout, pytest or pytest-benchmark is missing.
    """
    if not (checkout / "benchmarks").is_dir() or not (checkout / "pyproject.toml").is_file():
        raise InputError(
            f"{checkout.resolve()}: contains no benchmarks; run this in a source checkout of mmssl_fast, or set "
            "--checkout"
        )
    for module, package in (("pytest", "pytest"), ("pytest_benchmark", "pytest-benchmark")):
        if importlib.util.find_spec(module) is None:
            raise InputError(f"{package} is not installed; {install_command('bench')}")
    command = [sys.executable, "-P", "-m", "pytest", "benchmarks", "--benchmark-only", *arguments]
    return subprocess.run(command, cwd=checkout, check=False).returncode
