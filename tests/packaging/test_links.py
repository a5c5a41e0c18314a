"""Links and paths in the Markdown files of the repository lead somewhere. `sphinx-build -W` checks the links between
the pages of docs; `sphinx-build -b linkcheck` checks those to other sites (CONTRIBUTING.md)."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
PATH = re.compile(r"`((?:\.ci|_build|benchmarks|cmake|csrc|docs|examples|kernels|mmssl_fast|python|tests)/[\w./-]+)`")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def pages():
    if not (ROOT / ".git").exists():
        return sorted(ROOT.glob("*.md"))
    listed = subprocess.run(["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [ROOT / line for line in listed.splitlines()]


def anchors(page):
    """The anchors of the headings of a page, as GitHub makes them."""
    headings = HEADING.findall(page.read_text(encoding="utf-8"))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(page, root=ROOT):
    text = page.read_text(encoding="utf-8")
    for link in LINK.findall(re.sub(r"```.*?```", "", text, flags=re.DOTALL)):
        target, _, anchor = link.partition("#")
        if "://" in link or target.startswith("mailto:") or (not target and page.is_relative_to(root / "docs")):
            continue
        file = (page.parent / target) if target else page
        if not file.exists() or (
            anchor and file.suffix == ".md" and page.parent == root and anchor not in anchors(file)
        ):
            yield link


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_and_headings(page):
    assert not list(broken_links(page))


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_paths_in_the_text_exist(page):
    if page.is_relative_to(ROOT / "benchmarks" / "results"):
        pytest.skip("a dated measurement names the files of its day")
    text = page.read_text(encoding="utf-8")
    assert not [path for path in PATH.findall(text) if not (ROOT / path).exists()]


def test_a_broken_link_is_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "# A page\n[a](page.md#a-page) [b](page.md#none) [c](gone.md) [d](https://example.org) [e](#other)\n"
    )
    assert list(broken_links(page, tmp_path)) == ["page.md#none", "gone.md", "#other"]
