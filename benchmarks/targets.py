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
STEP, RARE = "adversarial_step", "order_statistics"
TARGETS = [
    ("adversarial step, TikTok, order statistics", rf"{STEP}\[tiktok-{RARE}\]", 5.6, 1 / 6),
    ("adversarial step, TikTok, dense noise", rf"{STEP}\[tiktok-dense_noise\]", 4, None),
    ("adversarial step, TikTok, bfloat16 products", rf"{STEP}\[tiktok-{RARE}_bfloat16\]", 11, 1 / 6),
    ("adversarial step, 50 thousand items", rf"{STEP}\[50k-{RARE}\]", 9, 1 / 12),
    ("adversarial step, 50 thousand items, bfloat16 products", rf"{STEP}\[50k-{RARE}_bfloat16\]", 16, 1 / 12),
    ("infonce, users: {}", r"infonce_forward_and_backward\[(\w+)-eager.*\]", 3, None),
    ("infonce, bfloat16 products, users: {}", r"infonce_bfloat16\[(\w+)-float32\]", 6, None),
    ("the same against bfloat16 products in PyTorch, users: {}", r"infonce_bfloat16\[(\w+)-bfloat16\]", None, None),
    ("modality_attention, modalities: {}", r"modality_attention_forward_and_backward\[(\d)\]", 4, None),
    ("cosine_block: {}", r"cosine_block_forward_and_backward\[(.+)\]", 4, None),
    ("act_norm_dropout: {}", r"act_norm_dropout\[(.+)\]", 4, None),
    ("bpr_loss, batch {}", r"bpr_loss_forward_and_backward\[(\d+)\]", 4, None),
    ("sample_bpr: {}", r"sample_bpr\[(.+)\]", 4, None),
    ("relation_row_norm: {}", r"relation_row_norm_forward_and_backward\[(.+)\]", 4, None),
    ("propagate, d = 64, against COO: {}", r"propagate_forward\[(\w+)-64-coo\]", 10, None),
    ("propagate, d = 64, against CSR: {}", r"propagate_forward\[(\w+)-64-csr\]", 2, None),
    ("gumbel_softmax, dense: {}", r"gumbel_softmax_dense\[(\w+)-torch\.rand.*\]", 6, None),
    ("cosine_topk, shape and k: {}", r"cosine_topk\[(.+)\]", 3, None),
    ("LightGCN step in the sparse drop-in, from 250 nodes: {}", r"dropin_small_step\[((?!125n).+)\]", 0.98, None),
]

NEAR = 1.3  # of its floor: such an op has reached its target, whatever its peer takes

# Targets that are no benchmark of this suite, and what measures them.
ELSEWHERE = [
    ("MMSSL epoch, TikTok, against an older build: 1.4, in bfloat16 2.5", "benchmarks/compare_builds.py"),
    ("the step within 1.2 of its floor, in bfloat16 within 1.5", "benchmarks/step_profile.py"),
    ("LightGCN to 95% of its best validation recall: 10 times", "benchmarks/clients/convergence.py"),
    ("data check and loading: no slower than polars, at most twice the table's memory", "benchmarks/loading.py"),
    ("a million users and items: at most 16 GiB, stages within 1.5 of their floors", "benchmarks/large_catalogue.py"),
    ("step against the number of items: slope 1", "benchmarks/bench_scale.py"),
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
        "| target | wanted | times faster: median, best | ours, ms | best, of its floor "
        "| peak MiB of tensors, ours and the peer's | resident growth | met |"
    )
    yield "|---|---|---|---|---|---|---|---|"
    for what, pattern, wanted, memory in TARGETS:
        matches = [(match, found[name]) for name in found if (match := re.fullmatch(pattern, name))]
        asked = "" if wanted is None else f"≥ {wanted}" + ("" if memory is None else f", memory ≤ 1/{1 / memory:.0f}")
        if not matches:
            yield f"| {what.format('-')} | {asked} | not measured | | | | | |"
        for match, each in matches:
            info = each["extra_info"]
            small = memory is None or info["peak_bytes"] <= memory * info["peer_peak_bytes"]
            near = 1 / info.get("roofline", 0.1) <= NEAR and memory is None
            met = "" if wanted is None else "yes" if (info["ratio"] >= wanted and small) or near else "no"
            yield (
                f"| {what.format(*match.groups())} | {asked} | {info['ratio']:.2f}, {info['ratio_of_best']:.2f} "
                f"| {each['stats']['median'] * 1e3:.1f} | {of_floor(info)} | {peaks(info)} | {peaks(info, 'grown')} "
                f"| {met} |"
            )
    yield ""
    yield "Measured by other scripts:"
    yield ""
    yield from (f"- {what}: `{script}`" for what, script in ELSEWHERE)
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


def of_floor(info: dict) -> str:
    """The least time as a multiple of that at the measured rates of a product and a copy."""
    return f"{1 / info['roofline']:.2f}" if info.get("roofline") else ""


def peaks(info: dict, what: str = "peak") -> str:
    found = info.get(f"{what}_bytes"), info.get(f"peer_{what}_bytes")
    return "" if None in found else ", ".join(f"{each / 2**20:.1f}" for each in found)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
