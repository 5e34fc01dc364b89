"""The published pages in a browser: links, pictures, widths, accessibility, search, light and dark."""

import contextlib
import functools
import http.server
import threading
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

import index
import pages
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

pytestmark = [pytest.mark.browser, pytest.mark.timeout(400)]

WIDTHS = (360, 1280)
WCAG = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]}
COLORS = {"runOnly": {"type": "rule", "values": ["color-contrast", "link-in-text-block"]}}
NO_COLORS = {**WCAG, "rules": {name: {"enabled": False} for name in COLORS["runOnly"]["values"]}}
# A lesson has thousands of colored words of code, and axe-core looks at each. With everything unfolded, one word stays
# colored for each combination of classes and styles, its own and those around it.
LOOK = """
    const look = e => `${e.tagName}.${e.className}.${e.getAttribute('style')} `;
    const around = e => { let found = ''; for (; e; e = e.parentElement) found += look(e); return found };
    const seen = new Set();
    const again = key => seen.has(key) || !seen.add(key);
"""
FEWER_WORDS = f"""() => {{{LOOK}
    document.querySelectorAll('details').forEach(d => {{ d.open = true }});
    for (const word of document.querySelectorAll('.highlight span'))
        if (again(around(word))) word.replaceWith(...word.childNodes);
}}"""
# The same with paragraphs, items and blocks of code, when only colors are looked at. All rows of tables stay, because a
# theme colors every second one.
FEWER_PARTS = f"""() => {{{LOOK}
    for (const part of document.querySelectorAll('article p, article li, article pre'))
        if (again(around(part) + '|' + [...part.querySelectorAll('*')].map(look))) part.remove();
}}"""
READ = """() => ({
    found: performance.getEntriesByType('navigation')[0].responseStatus === 200,
    title: document.title.trim(),
    headings: [...document.querySelectorAll('h1')].map(h => h.textContent.trim()),
    ids: [...document.querySelectorAll('[id]')].map(e => e.id),
    links: [...document.querySelectorAll('a[href]')].map(a => a.href),
    next: document.querySelector('a.right-next')?.href ?? null,
    pictures: [...document.images].map(i => ({source: i.src, alt: i.alt.trim(), width: i.naturalWidth})),
})"""


@contextlib.contextmanager
def served(folder: Path):
    """Serve a folder on this machine alone and yield its address."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextlib.contextmanager
def opened(browser: Browser, address: str, **options):
    """Open a page; yield it, and the list of what goes wrong on it while it is open."""
    page = browser.new_page(**{"reduced_motion": "reduce", "color_scheme": "light", **options})
    faults = []

    def note_console(message):
        if message.type == "error":
            faults.append(f"{urlsplit(page.url).path}: console: {message.text} {message.location['url']}")

    def note_request(request):
        if not request.url.startswith(("http://127.0.0.1:", "data:", "blob:")):
            faults.append(f"{urlsplit(page.url).path}: asks another machine: {request.url}")

    page.on("pageerror", lambda error: faults.append(f"{urlsplit(page.url).path}: error: {error}"))
    page.on("console", note_console)
    page.on("request", note_request)
    try:
        page.goto(address)
        yield page, faults
    finally:
        page.close()


def violations(page: Page, rules: dict = WCAG) -> list[str]:
    """Return what axe-core finds against WCAG 2 A and AA, or against a part of it."""
    # Without preload: it asks for what a style sheet imports at the address of the page.
    found = Axe().run(page, options={"resultTypes": ["violations"], "preload": False, **rules}).response["violations"]
    return [
        f"{rule['id']}: {node['html'][:200]} ({(node['any'] + node['all'] + node['none'])[0]['message']})"
        for rule in found
        for node in rule["nodes"]
    ]


def check_accessibility(page: Page) -> None:
    """Let axe-core look at a page once, and at its colors in both themes; this removes parts of the page."""
    page.evaluate(FEWER_WORDS)
    assert violations(page, NO_COLORS) == []
    page.evaluate(FEWER_PARTS)
    for theme in ("light", "dark"):
        page.emulate_media(color_scheme=theme)
        assert violations(page, COLORS) == [], theme


def crawl(browser: Browser, address: str) -> tuple[dict[str, dict], list[str]]:
    """Open each page to which links lead from the first one.

    Returns:
        What READ and the widths say of each page, by its address, and what went wrong.
    """
    seen: dict[str, dict] = {}
    waiting = [f"{address}index.html"]
    with opened(browser, "about:blank") as (page, faults):
        while waiting:
            here = waiting.pop()
            page.goto(here)
            seen[here] = page.evaluate(READ)
            seen[here]["widths"] = {}
            for width in WIDTHS:
                page.set_viewport_size({"width": width, "height": 800})
                seen[here]["widths"][width] = page.evaluate("document.documentElement.scrollWidth")
            targets = {urldefrag(link)[0] for link in seen[here]["links"]}
            waiting += [t for t in targets if t.startswith(address) and t not in seen and t not in waiting]
    return seen, faults


def lacks(here: str, seen: dict[str, dict], address: str) -> list[str]:
    """Return what a page lacks, and which of its links lead nowhere."""
    read, found = seen[here], []
    if not read["title"]:
        found.append("it has no title")
    if len(read["headings"]) != 1 or not read["headings"][0]:
        found.append(f"it should have one heading of the first level, not {read['headings']}")
    for picture in read["pictures"]:
        if not picture["alt"]:
            found.append(f"no alt text for {picture['source'][-80:]}")
        if not picture["width"]:
            found.append(f"no picture at {picture['source'][-80:]}")
    for link in read["links"]:
        target, part = urldefrag(link)
        if not target.startswith(address):
            continue
        if not seen[target]["found"]:
            found.append(f"nothing at the target of the link {link}")
        elif part and not {part, unquote(part)} & set(seen[target]["ids"]):
            found.append(f"nothing with this id at the target of the link {link}")
    return [f"{urlsplit(here).path}: {fault}" for fault in found]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    assert pages.build(folder) == 0
    with served(folder / "site") as address:
        yield address


@pytest.fixture(scope="module")
def crawled(browser, site):
    return crawl(browser, site)


def test_every_page_can_be_reached_by_links(crawled, site):
    names = {address.removeprefix(site) for address in crawled[0]}
    assert {f"notebooks/{name}.html" for name in index.lessons()} | {"index.html", "docs/questions.html"} <= names


def test_no_page_has_a_broken_link_or_a_picture_without_a_text(crawled, site):
    seen, faults = crawled
    assert [fault for here in seen if seen[here]["found"] for fault in lacks(here, seen, site)] == []
    assert faults == []


def test_no_page_is_wider_than_the_window(crawled):
    too_wide = {
        (here, width) for here, read in crawled[0].items() for width, found in read["widths"].items() if found > width
    }
    assert too_wide == set()


def test_one_reads_from_the_first_lesson_to_the_last_by_the_step_to_the_next(crawled, site):
    here = f"{site}index.html"
    for name in index.lessons():
        here = urldefrag(crawled[0][here]["next"])[0]
        assert here == f"{site}notebooks/{name}.html"


@pytest.mark.parametrize("name", ["index", "notebooks/00_start_here"])
def test_a_page_is_accessible_in_both_themes(browser, site, name):
    with opened(browser, f"{site}{name}.html") as (page, _):
        check_accessibility(page)


@pytest.mark.proof
def test_every_page_is_accessible_in_both_themes(browser, crawled):
    for address, read in crawled[0].items():
        if read["found"]:
            with opened(browser, address) as (page, _):
                check_accessibility(page)


def test_search_finds_a_lesson_for_a_word(browser, site):
    with opened(browser, f"{site}search.html?q=momentum") as (page, faults):
        expect(page.locator("#search-results li a").filter(has_text="01 ·").first).to_be_visible()
        assert page.locator("h1").count() == 1
        assert violations(page) == []
        assert faults == []


def test_search_answers_while_one_types(browser, site):
    with opened(browser, f"{site}index.html") as (page, faults):
        page.keyboard.press("Control+k")
        page.keyboard.type("puddle", delay=20)
        found = page.locator("dialog[open] li", has_text="02 ·")
        expect(found).to_contain_text("a small rate get stuck in a puddle")
        for theme in ("light", "dark"):
            page.emulate_media(color_scheme=theme)
            assert violations(page, COLORS) == []
        found.locator("a").click()
        page.wait_for_url("**/notebooks/02_learning_rate.html**")
        assert faults == []


def test_the_theme_is_switched_by_hand_and_stays(browser, site):
    background = "getComputedStyle(document.body).backgroundColor"
    with opened(browser, f"{site}index.html") as (page, faults):
        light = page.evaluate(background)
        page.get_by_role("button", name="Color mode").first.click()
        page.get_by_role("button", name="Dark").first.click()
        dark = page.evaluate(background)
        assert dark != light
        page.get_by_role("link", name="02 ·").first.click()
        expect(page.get_by_role("heading", level=1)).to_contain_text("Is 0.01 large or small?")
        assert page.evaluate(background) == dark
        assert faults == []


def test_a_solution_is_folded_until_it_is_opened(browser, site):
    with opened(browser, f"{site}notebooks/02_learning_rate.html") as (page, faults):
        solution = page.locator("details", has=page.get_by_text("Solution", exact=True)).first
        expect(solution.locator("pre")).to_be_hidden()
        solution.locator("summary").press("Enter")
        expect(solution.locator("pre")).to_be_visible()
        assert faults == []
