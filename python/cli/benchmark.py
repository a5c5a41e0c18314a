"""mmssl-fast benchmark."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from ..errors import InputError, install_command


def benchmark(
    context: typer.Context,
    checkout: Annotated[Path, typer.Option(help="A source checkout of mmssl_fast.")] = Path("."),
    save: Annotated[Path | None, typer.Option(help="Keep what was measured in this JSON file.")] = None,
    against: Annotated[Path | None, typer.Option(help="An earlier --save of this machine, to compare with.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw it into this PNG file.")] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Measure nothing: reckon a catalogue's step.")] = False,
    users: Annotated[float, typer.Option(help="With --plan: users, such as 1e6.")] = 1e6,
    items: Annotated[float, typer.Option(help="With --plan: items.")] = 1e6,
    interactions: Annotated[float, typer.Option(help="With --plan: interactions.")] = 2e7,
    widths: Annotated[str, typer.Option(help="With --plan: widths of the modalities' features.")] = "128,64",
    hidden: Annotated[int, typer.Option(help="With --plan: width of the discriminator's first layer.")] = 512,
    device: Annotated[str, typer.Option(help="With --plan: h100, h200, a100, or cpu for this machine.")] = "h100",
    memory: Annotated[str | None, typer.Option(help="With --plan: memory to fit it in, such as 40GiB.")] = None,
) -> None:
    """Measure the kernels with pytest-benchmark, in a source checkout, and show how they compare with their peers;
    further arguments go to pytest. With --plan, reckon instead."""
    if plan:
        _show_plan(users, items, interactions, widths, hidden, device, memory)
        return
    from ..console.output import OUT
    from ..files import replacing
    from ..study import benchmarks

    earlier = None if against is None else benchmarks.read(against)
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder) / "benchmarks.json"
        code = run_benchmarks(checkout, [f"--benchmark-json={found}", *context.args])
        if not found.exists() or not found.stat().st_size:
            raise typer.Exit(code)
        rows = benchmarks.read(found)
        if save is not None:
            with replacing(save) as temporary:
                temporary.write_bytes(found.read_bytes())
    if earlier is not None:
        benchmarks.check_same_machine(rows, earlier, against)
    if any("ratio" in row for row in rows):
        OUT.print(benchmarks.table(rows, earlier))
    if plot is not None:
        with replacing(plot) as temporary:
            benchmarks.draw(rows, temporary)
    raise typer.Exit(code)


def _show_plan(
    users: float, items: float, interactions: float, widths: str, hidden: int, device: str, memory: str | None
) -> None:
    from ..config.byte_size import parse_bytes
    from ..console.output import OUT
    from ..memory import cost
    from ..memory.plan import Sizes

    try:
        counts = [int(n) for n in (users, items, interactions, hidden)]
        modalities = tuple(int(width) for width in widths.split(",")) if widths else ()
        allowed = None if memory is None else parse_bytes(memory)
    except (ValueError, OverflowError) as error:
        raise InputError(f"benchmark --plan: {error}") from None
    if min(*counts, *modalities) < 1:
        raise InputError(f"benchmark --plan: sizes must be positive, got {counts} and widths {list(modalities)}")
    if counts[2] > counts[0] * counts[1]:
        raise InputError(
            f"benchmark --plan: {counts[2]:,} interactions are more than the {counts[0] * counts[1]:,} pairs of "
            f"{counts[0]:,} users and {counts[1]:,} items; give fewer --interactions"
        )
    sizes = Sizes(*counts[:3], modalities, hidden=(hidden, max(1, hidden // 2)))
    shown, sentences = cost.table(sizes, device, allowed)
    OUT.print(shown)
    for sentence in sentences:
        OUT.print(sentence)


def run_benchmarks(checkout: Path, arguments: list[str]) -> int:
    """Run pytest-benchmark on a checkout's benchmarks/ and return pytest's exit code. Raises InputError where the
    checkout, pytest or pytest-benchmark is missing."""
    if not (checkout / "benchmarks").is_dir() or not (checkout / "pyproject.toml").is_file():
        raise InputError(
            f"{checkout.resolve()}: holds no benchmarks; run this in a source checkout of mmssl_fast, or name one with "
            "--checkout"
        )
    for module, package in (("pytest", "pytest"), ("pytest_benchmark", "pytest-benchmark")):
        if importlib.util.find_spec(module) is None:
            raise InputError(f"{package} is not installed; {install_command('bench')}")
    command = [sys.executable, "-P", "-m", "pytest", "benchmarks", "--benchmark-only", *arguments]
    return subprocess.run(command, cwd=checkout, check=False).returncode
