"""Collects the results of gpu.sh in a JSON file and a table: ``python benchmarks/gpu_report.py FOLDER``."""

import json
import platform
import sys
from pathlib import Path

import torch

import mmssl_fast


def main(folder: Path) -> None:
    found = {"machine": machine(), "benchmarks": benchmarks(folder / "benchmarks.json"), "training": training(folder)}
    (folder / "results.json").write_text(json.dumps(found, indent=1) + "\n")
    (folder / "results.md").write_text("\n".join(table(found)) + "\n")


def machine() -> dict:
    cuda = torch.cuda.is_available()
    return {
        "gpu": torch.cuda.get_device_name() if cuda else "none",
        "driver_cuda": torch.version.cuda,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "mmssl_fast": mmssl_fast.__version__,
        "archs": mmssl_fast.build_info()["cuda_archs"],
    }


def benchmarks(path: Path) -> list[dict]:
    """The name, times, peer, memory and share of the roofline of every benchmark."""
    if not path.exists():
        return []
    rows = []
    for each in json.loads(path.read_text())["benchmarks"]:
        info = each["extra_info"]
        keys = (
            "shape",
            "peer_name",
            "device_s",
            "peer_device_s",
            "device_ratio",
            "ratio",
            "work",
            "floor_s",
            "roofline",
            "tf32",
            "peak_bytes",
            "peer_peak_bytes",
        )
        rows.append({"name": each["name"]} | {key: info[key] for key in keys if key in info})
    return rows


def training(folder: Path) -> dict[str, dict]:
    """The result.json and the seconds of every epoch of the runs."""
    runs = {}
    for run in sorted(folder.glob("run-*/result.json")):
        lines = (run.parent / "metrics.jsonl").read_text().splitlines()
        runs[run.parent.name] = json.loads(run.read_text()) | {"seconds": [json.loads(x)["seconds"] for x in lines]}
    return runs


def table(found: dict):
    """Lines of Markdown."""
    at = found["machine"]
    yield f"{at['gpu']}, CUDA {at['driver_cuda']}, torch {at['torch']}, Python {at['python']}, built for {at['archs']}"
    yield ""
    yield "| benchmark | ms | floor ms | of the roofline | peer | times faster | peak MiB | peer's |"
    yield "|---|---|---|---|---|---|---|---|"
    for row in found["benchmarks"]:
        floor = f"{row['floor_s'] * 1e3:.4f} | {row['roofline']:.0%}" if "roofline" in row else "- | -"
        yield (
            f"| {row['name']} | {row.get('device_s', float('nan')) * 1e3:.4f} | {floor} | {row['peer_name']} "
            f"| {row.get('device_ratio', float('nan')):.1f} | {row['peak_bytes'] / 2**20:.1f} "
            f"| {row['peer_peak_bytes'] / 2**20:.1f} |"
        )
    for name, run in found["training"].items():
        yield ""
        yield f"{name}: seconds an epoch {', '.join(f'{s:.3f}' for s in run['seconds'])}; test {run['test']}"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
