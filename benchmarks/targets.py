"""Compares a benchmark run with the targets of the project, as a Markdown page: ``python benchmarks/targets.py
RUN.json``.

RUN.json is the output of `mmssl-fast benchmark --save RUN.json` or `pytest --benchmark-json`. The targets are ratios
against a peer that was measured in turns in the same process on a CPU. Targets that were not measured are listed, too.
"""

import json
import re
import sys
from pathlib import Path

# what, the benchmark's name, times faster than the peer, and of the peer's peak memory at most
TARGETS = [
    ("adversarial step, TikTok, order statistics", r"adversarial_step\[tiktok-order_statistics\]", 4, None),
    ("adversarial step, TikTok, dense noise", r"adversarial_step\[tiktok-dense_noise\]", 4, None),
    (
        "adversarial step, TikTok, bfloat16 products",
        r"adversarial_step\[tiktok-order_statistics_bfloat16\]",
        7,
        None,
    ),
    ("adversarial step, 50 thousand items", r"adversarial_step\[50k-order_statistics\]", 7.5, 0.1),
    ("propagate, d = 64, against COO: {}", r"propagate_forward\[(\w+)-64-coo\]", 10, None),
    ("propagate, d = 64, against CSR: {}", r"propagate_forward\[(\w+)-64-csr\]", 2, None),
    ("gumbel_softmax, dense: {}", r"gumbel_softmax_dense\[(\w+)-torch\.rand.*\]", 6, None),
    ("cosine_topk, shape and k: {}", r"cosine_topk\[(.+)\]", 3, None),
    ("LightGCN step in the sparse drop-in, from 250 nodes: {}", r"dropin_small_step\[((?!125n).+)\]", 0.98, None),
    ("infonce, 100 thousand users", r"infonce_forward_and_backward\[100k_users-eager.*\]", 1.5, None),
]


def main(path: Path) -> None:
    run = json.loads(path.read_text())
    found = {each["name"].removeprefix("test_"): each for each in run["benchmarks"] if "ratio" in each["extra_info"]}
    if not found:
        sys.exit(f"{path}: no benchmark in it compared itself with a peer")
    print("\n".join(page(run["datetime"][:10], found)))


def page(day: str, found: dict[str, dict]):
    """The lines of the page."""
    at = next(iter(found.values()))["extra_info"]
    rounds = {each["stats"]["rounds"] for each in found.values()}
    yield f"# {day}, {at['device'].upper() if at['device'] == 'cpu' else at['device']}"
    yield ""
    yield (
        f"{at.get('processor', at['machine'])}, {at['threads']} threads, instruction set {at['isa']}, torch "
        f"{at['torch']}, Python {at['python']}; medians of {min(rounds)} to {max(rounds)} rounds."
    )
    yield ""
    yield (
        "| target | wanted | times faster: median, best | ours, ms | peak MiB of tensors, ours and the peer's "
        "| resident growth | met |"
    )
    yield "|---|---|---|---|---|---|---|"
    for what, pattern, wanted, memory in TARGETS:
        matches = [(match, found[name]) for name in found if (match := re.fullmatch(pattern, name))]
        asked = f"≥ {wanted}" + ("" if memory is None else f", memory ≤ {memory:g}")
        if not matches:
            yield f"| {what.format('-')} | {asked} | not measured | | | | |"
        for match, each in matches:
            info = each["extra_info"]
            met = info["ratio"] >= wanted and (memory is None or info["peak_bytes"] <= memory * info["peer_peak_bytes"])
            yield (
                f"| {what.format(*match.groups())} | {asked} | {info['ratio']:.2f}, {info['ratio_of_best']:.2f} "
                f"| {each['stats']['median'] * 1e3:.1f} | {peaks(info)} | {peaks(info, 'grown')} "
                f"| {'yes' if met else 'no'} |"
            )
    yield ""
    yield "Every benchmark of the run:"
    yield ""
    yield "| benchmark | median | best | ours, ms | peak MiB of tensors, ours and the peer's | resident growth | peer |"
    yield "|---|---|---|---|---|---|---|"
    for name, each in found.items():
        info = each["extra_info"]
        yield (
            f"| {name} | {info['ratio']:.2f} | {info['ratio_of_best']:.2f} | {each['stats']['median'] * 1e3:.2f} "
            f"| {peaks(info)} "
            f"| {peaks(info, 'grown')} | {info['peer_name']} |"
        )


def peaks(info: dict, what: str = "peak") -> str:
    found = info.get(f"{what}_bytes"), info.get(f"peer_{what}_bytes")
    return "" if None in found else ", ".join(f"{each / 2**20:.1f}" for each in found)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
