"""The memory of a rank against 1/P: the table of tutorials/several_machines.md, which benchmarks/ranks.py prints."""

import re
from pathlib import Path

from style import DENSE, OURS, THIRD, axes

ROW = re.compile(r"\| (LightGCN|NCL|SGL|MMSSL) \| (\d) \|(?: [\d.–]+ \|){4} (\d+) \| (\d+) \|")
page = Path("../tutorials/several_machines.md").read_text(encoding="utf-8")
(graph,) = axes()
for system, color, marker in (("MMSSL", OURS, "o"), ("NCL", DENSE, "s"), ("SGL", THIRD, "^"), ("LightGCN", "0.5", "D")):
    rows = [
        (1 / int(p), int(measured), int(planned)) for name, p, measured, planned in ROW.findall(page) if name == system
    ]
    share, measured, planned = zip(*sorted(rows), strict=True)
    graph.plot(share, planned, color=color)
    graph.plot(share, measured, marker, color=color, markersize=5, label=system)
graph.set(
    xlabel="1 / number of ranks",
    ylabel="memory of a rank, MiB",
    title="Measured (points) and planned (lines)",
    xlim=(0, 1.05),
    ylim=(0, None),
    xticks=(0.25, 0.5, 1),
    xticklabels=("1/4", "1/2", "1"),
)
graph.legend()
