"""The page in a browser: with the keyboard, for screen readers, in light and dark, narrow and wide.

Needs the package playwright and a Chromium, /usr/bin/chromium or the one that MMSSL_FAST_CHROMIUM names.
"""

import os
import re
import shutil
import signal
import time
from itertools import pairwise
from pathlib import Path

import pytest
from mmssl_trainer import load, recommend, similar
from shop import HOSTILE
from shop_model import COLD, write_model, write_table
from test_process import Process

playwright = pytest.importorskip("playwright.sync_api", reason="the page is tested where playwright is installed")
CHROMIUM = os.environ.get("MMSSL_FAST_CHROMIUM", "/usr/bin/chromium")
pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(not Path(CHROMIUM).exists(), reason=f"{CHROMIUM}: there is no browser"),
]
OPTIONS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()
VIEWS = ("people", "user=3", "items", "item=104", "item=219", "cold", "map")
CONTRAST = (Path(__file__).parent / "contrast.js").read_text()


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    return write_model(folder), write_table(folder, missing=[101])


def serve(shop, log, *options):
    model, table = shop
    page = ["--page", "--items", str(table), "--title", "title", "--image", "picture", "--colour", "kind"]
    return Process(model, log, 0, *page, "--images", str(table.parent / "pictures"), *options)


@pytest.fixture(scope="module")
def process(shop, tmp_path_factory):
    process = serve(shop, tmp_path_factory.mktemp("log") / "log")
    yield process
    process.stop()
    assert not [line for line in process.log() if "traceback" in line]


@pytest.fixture(scope="module")
def browse(tmp_path_factory):
    """browse(scheme, width) is a page of a browser with a new profile. What it loads and complains about is kept."""
    with playwright.sync_playwright() as started:
        open_windows = {}

        def window(scheme="light", width=1280):
            if (scheme, width) not in open_windows:
                context = started.chromium.launch_persistent_context(
                    tmp_path_factory.mktemp("profile"),
                    executable_path=CHROMIUM,
                    args=OPTIONS,
                    color_scheme=scheme,
                    viewport={"width": width, "height": 900},
                    reduced_motion="reduce",
                )
                context.set_default_timeout(20_000)
                page = context.pages[0]
                page.complaints, page.loaded = [], []
                page.on("console", lambda line: page.complaints.append(line.text))
                page.on("pageerror", lambda error: page.complaints.append(str(error)))
                page.on("request", lambda request: page.loaded.append(request.url))
                open_windows[scheme, width] = page
            return open_windows[scheme, width]

        yield window
        for page in open_windows.values():
            page.context.close()


@pytest.fixture
def page(browse):
    page = browse()
    page.complaints.clear()
    yield page
    # A picture that is missing, or a wrong id, is all that the browser may complain about.
    assert [text for text in page.complaints if not re.search("status of 4(04|22)", text)] == []


def visit(page, process, view=""):
    """Open a view in a new document, and wait until it is there."""
    page.goto("about:blank")
    page.goto(f"http://127.0.0.1:{process.port}/#{view}")
    page.wait_for_load_state("networkidle")
    until(page, "document.querySelector('main > section:not([hidden])') !== null")


def until(page, expression, seconds=20):
    """Wait for a condition. Playwright's own function would need eval, which the policy of the page forbids."""
    deadline = time.monotonic() + seconds
    while not page.evaluate(expression):
        assert time.monotonic() < deadline, expression
        time.sleep(0.02)


def focused(page):
    return page.evaluate("document.activeElement.textContent.trim() || document.activeElement.id")


def titles(page, selector):
    return page.locator(f"{selector} .title").all_text_contents()


def ids(page, selector):
    links = page.locator(f"{selector} .title").evaluate_all("links => links.map(link => link.getAttribute('href'))")
    return [link.rpartition("=")[2] for link in links]


def test_a_user_is_found_with_the_keyboard_alone(page, process, shop):
    visit(page, process)
    page.keyboard.press("Tab")
    assert focused(page) == "Skip to the content"
    order = []
    for _ in range(5):
        page.keyboard.press("Tab")
        order.append(focused(page))
    assert order == ["People", "Items", "Cold items", "Map", "find-users"]
    page.keyboard.type("1")
    options = page.get_by_role("listbox", name="Users").get_by_role("option")
    options.first.wait_for()
    field = page.get_by_role("combobox", name="User")
    assert field.get_attribute("aria-expanded") == "true"
    assert page.get_by_role("status").text_content() == "12 found. The arrow keys choose."
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    chosen = page.locator("[role=option][aria-selected=true]")
    assert chosen.count() == 1 and field.get_attribute("aria-activedescendant") == chosen.get_attribute("id")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="User 1", exact=True).wait_for()
    until(page, "document.activeElement.textContent === 'User 1'")
    assert page.get_by_role("status").text_content() == "20 recommendations for user 1."
    assert field.get_attribute("aria-expanded") == "false" and page.title() == "User 1 · shop"
    want = recommend(load(shop[0]), [1], 20)
    assert ids(page, "section[aria-label=Recommended]") == list(map(str, want.item.tolist()))
    page.keyboard.press("Tab")  # from the heading to the first recommendation
    page.keyboard.press("Enter")
    page.wait_for_url("**/#item=*")
    until(page, "document.activeElement.tagName === 'H2'")
    page.go_back()
    page.get_by_role("heading", name="User 1", exact=True).wait_for()


def test_escape_closes_the_suggestions(page, process):
    visit(page, process, "items")
    field = page.get_by_role("combobox", name="Item")
    field.press_sequentially("lamp")
    page.get_by_role("listbox", name="Items").wait_for()
    field.press("Escape")
    assert page.get_by_role("listbox", name="Items").count() == 0 and field.get_attribute("aria-expanded") == "false"


def test_lists_show_titles_parts_and_pictures(page, process, shop):
    visit(page, process, "user=3")
    assert page.locator(".keys li").all_text_contents() == ["interactions", "kind", "price"]
    lists = page.locator("section[aria-label=Recommended] .card")
    assert lists.count() == 20
    for text in lists.locator(".score").all_text_contents():
        total, *parts = [float(one.replace("−", "-")) for one in re.findall(r"[−]?\d+\.\d+", text)]
        assert len(parts) == 3 and abs(total - sum(parts)) <= 2.1 * 10 ** -len(str(total).partition(".")[2])
    assert page.locator("section[aria-label=History] .card").count() > 5
    assert page.locator("section[aria-label='Best among the cold items'] .card").count() == 12
    loaded = page.locator(".cover img").evaluate_all("all => all.filter(one => one.naturalWidth === 24).length")
    assert loaded > 10


def test_an_item_and_what_is_similar(page, process, shop):
    visit(page, process, "item=104")
    model = load(shop[0])
    for by, name in (("all", "Similar by choices and features"), ("features", "Similar by features alone")):
        want = similar(model, [104], 12, by)
        assert ids(page, f"section[aria-label='{name}']") == list(map(str, want.similar.tolist()))
    missing = page.locator("body")
    visit(page, process, "item=101")
    assert missing.locator(".head .cover").count() == 1 and missing.locator(".head .cover img").count() == 0


def test_a_title_is_text_and_never_html(page, process):
    visit(page, process, "item=219")
    assert page.locator("h2:visible").first.text_content() == HOSTILE
    assert page.title() == f"{HOSTILE} · shop" and page.locator("main script").count() == 0
    visit(page, process, "map")
    visit(page, process, "cold")
    page.get_by_role("button", name="Show more").click()
    page.get_by_role("link", name=HOSTILE).wait_for()
    assert page.locator("#cold-items img[src=x]").count() == 0
    visit(page, process, "user=" + "%3Cimg%20src%3Dx%20onerror%3Dalert(1)%3E")
    assert "the model has no user '<img src=x" in page.get_by_role("alert").text_content()


def test_cold_items(page, process):
    visit(page, process, "cold")
    assert page.locator("#cold-items > li").count() == 48
    page.get_by_role("button", name="Show more").click()
    until(page, f"document.querySelectorAll('#cold-items > li').length === {COLD}")
    until(page, "document.activeElement === document.querySelectorAll('#cold-items a')[48]")
    assert page.get_by_role("button", name="Show more").count() == 0
    assert page.get_by_role("status").text_content() == f"{COLD} of {COLD} cold items are shown."


def test_a_new_visitor(page, process, shop):
    chosen = [100, 104, 108]
    for item in chosen:
        visit(page, process, f"item={item}")
        page.get_by_role("button", name="Add to a new visitor").click()
        page.get_by_role("heading", name="A new visitor").wait_for()
    until(page, "document.querySelectorAll('[aria-label=History] .card').length === 3")
    want = recommend(load(shop[0]), None, 20, histories={"x": chosen})
    assert ids(page, "section[aria-label=Recommended]") == list(map(str, want.item.tolist()))
    page.locator("[aria-label=History]").get_by_role("button", name="Remove").first.click()
    until(page, "document.querySelectorAll('[aria-label=History] .card').length === 2")
    page.get_by_role("button", name="Start again").click()
    page.get_by_text("Nothing is chosen yet").wait_for()


def test_the_map_with_the_keyboard_and_the_pointer(page, process):
    visit(page, process, "map")
    until(page, "document.getElementById('canvas').dataset.drawn === '120'")
    coloured = """() => {
        const {width, height} = canvas, data = canvas.getContext('2d').getImageData(0, 0, width, height).data;
        const seen = new Set();
        for (let n = 0; n < data.length; n += 4) if (data[n + 3] > 190) seen.add(data.slice(n, n + 3).join());
        return seen.size;
    }"""
    assert page.evaluate(coloured) >= 4
    page.locator("#canvas").focus()
    heard = set()
    for key in ("ArrowRight", "ArrowRight", "ArrowLeft", "ArrowUp", "ArrowDown"):
        page.keyboard.press(key)
        heard.add(page.get_by_role("status").text_content())
    assert len(heard) > 2 and all(re.search(r"no\. \d+ · \w+$|no item further|script", text) for text in heard)
    page.keyboard.press("+")
    page.keyboard.press("ArrowRight")
    name = page.get_by_role("status").text_content().rpartition(" · ")[0]
    page.keyboard.press("Enter")
    page.get_by_role("heading", name=name, exact=True).wait_for()
    visit(page, process, "map")
    lamps = page.get_by_role("button", name="lamps")
    lamps.click()
    assert lamps.get_attribute("aria-pressed") == "true"
    assert page.get_by_role("status").text_content() == "Only lamps in colour."
    page.locator("#canvas").focus()
    page.keyboard.press("ArrowRight")
    assert page.get_by_role("status").text_content().endswith("· lamps")
    lamps.click()
    tip, box = page.locator("#tip"), page.locator("#canvas").bounding_box()
    for n in range(40 * 30):
        page.mouse.move(box["x"] + 12 + box["width"] * (n % 40) / 41, box["y"] + 12 + box["height"] * (n // 40) / 31)
        if tip.is_visible():
            break
    name = tip.text_content().rpartition(" · ")[0]
    page.mouse.down()
    page.mouse.up()
    page.get_by_role("heading", name=name, exact=True).wait_for()


@pytest.mark.parametrize("view", VIEWS)
def test_structure_for_screen_readers(page, process, view):
    visit(page, process, view)
    for role in ("banner", "main", "contentinfo"):
        assert page.get_by_role(role).count() == 1
    assert page.get_by_role("navigation", name="Views").locator("[aria-current=page]").count() == 1
    assert page.get_by_role("heading", level=1).count() == 1
    levels = page.locator("h1:visible, h2:visible, h3:visible").evaluate_all("all => all.map(one => +one.tagName[1])")
    assert levels[0] == 1 and all(after <= before + 1 for before, after in pairwise(levels))
    found = page.evaluate("[...document.querySelectorAll('[id]')].map(one => one.id)")
    assert len(found) == len(set(found))
    for name in ("aria-controls", "aria-labelledby", "for"):
        named = page.locator(f"[{name}]").evaluate_all(f"all => all.map(one => one.getAttribute('{name}'))")
        assert set(named) <= set(found)
    assert page.locator("img:not([alt])").count() == 0
    for role in ("button", "link", "combobox", "application"):
        snapshot = [
            page.get_by_role(role).nth(n).aria_snapshot() for n in range(min(30, page.get_by_role(role).count()))
        ]
        assert all(re.match(rf"- {role}:? ?\"?[^:]", text) for text in snapshot), snapshot
    assert page.locator("html").get_attribute("lang") == "en"


@pytest.mark.parametrize("width", [400, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast_and_width(browse, process, scheme, width):
    """WCAG 2.2 AA: 4.5 for text, 3 for large text and the borders of fields. Nothing is wider than the window."""
    page, backgrounds = browse(scheme, width), set()
    for view in VIEWS:
        visit(page, process, view)
        poor = page.evaluate(CONTRAST)
        assert poor["texts"] > 8 and poor["poor"] == [], (view, poor)
        backgrounds.add(poor["background"])
        wide = page.evaluate("[document.scrollingElement.scrollWidth, innerWidth]")
        assert wide[0] <= wide[1], view
        targets = page.locator("button:visible, nav a:visible, input:visible").evaluate_all(
            "all => all.map(one => Math.min(one.getBoundingClientRect().width, one.getBoundingClientRect().height))"
        )
        assert min(targets, default=24) >= 24  # WCAG 2.2, target size
    assert backgrounds == {"rgb(246, 245, 251)" if scheme == "light" else "rgb(18, 17, 28)"}


def test_nothing_is_loaded_from_elsewhere(page, process):
    page.loaded.clear()
    for view in VIEWS:
        visit(page, process, view)
    own = f"http://127.0.0.1:{process.port}/"
    assert len(page.loaded) > 30 and {url for url in page.loaded if not url.startswith((own, "about:"))} == set()


def test_inline_scripts_do_not_run(page, process):
    visit(page, process)
    page.evaluate("""() => {
        const script = document.createElement('script');
        script.textContent = "document.title = 'it ran'";
        document.body.append(script);
    }""")
    assert page.title() != "it ran" and any("Content Security Policy" in text for text in page.complaints)
    page.complaints.clear()


def test_below_a_path_of_a_proxy_and_after_a_reload(page, process, shop):
    """All addresses are relative, so that a proxy may serve the page below /shop/."""
    visit(page, process)
    used = page.locator("[src], [href]").evaluate_all(
        "all => all.map(one => one.getAttribute('src') ?? one.getAttribute('href'))"
    )
    assert used and not [one for one in used if one.startswith("/") or "://" in one]
    os.kill(process.pid, signal.SIGHUP)
    process.wait_for("reloaded")
    visit(page, process, "user=3")
    page.get_by_role("heading", name="User 3", exact=True).wait_for()


def test_a_service_that_is_gone_is_reported(browse, shop, tmp_path):
    process = serve(shop, tmp_path / "log")
    page = browse()
    visit(page, process)
    process.stop()
    page.evaluate("location.hash = 'user=5'")
    page.get_by_role("alert").get_by_text("The service does not answer").wait_for()
    page.complaints.clear()


def test_screenshots(browse, process, tmp_path):
    """Pictures for people to look at, in the folder that MMSSL_FAST_SCREENSHOTS names."""
    folder = Path(os.environ.get("MMSSL_FAST_SCREENSHOTS", tmp_path))
    for scheme in ("light", "dark"):
        for width in (400, 1280):
            page = browse(scheme, width)
            for view in ("user=3", "item=104", "map"):
                visit(page, process, view)
                file = folder / f"{view.partition('=')[0]}-{scheme}-{width}.png"
                page.screenshot(path=file)
                assert file.stat().st_size > 10_000
    if folder == tmp_path:
        shutil.rmtree(folder)
