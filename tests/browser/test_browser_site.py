"""The published pages in a browser: links, pictures, what axe-core says of them, search, light and dark."""

import contextlib
import functools
import http.server
import re
import threading
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

import index
import pages
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

pytestmark = [pytest.mark.browser, pytest.mark.timeout(550)]

WCAG = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]}
COLOURS = {"runOnly": {"type": "rule", "values": ["color-contrast", "link-in-text-block"]}}
NO_COLOURS = {**WCAG, "rules": {name: {"enabled": False} for name in COLOURS["runOnly"]["values"]}}
# A lesson has thousands of coloured words of code, and axe-core looks at each. With everything unfolded, one stays
# coloured of those words that have the same classes and styles in the same surroundings;
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
# and so with paragraphs, items and blocks of code, when only colours are looked at. Rows of tables all stay: a theme
# colours every second one.
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
    pictures: [...document.images].map(i => ({source: i.src, alt: i.alt.trim(), width: i.naturalWidth})),
})"""


@contextlib.contextmanager
def served(folder: Path):
    """Serve a folder on this machine alone; give its address."""

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
    """Open a page; give it, and the list of what goes wrong on it while it is open."""
    page = browser.new_page(**{"reduced_motion": "reduce", "color_scheme": "light", **options})
    faults = []
    page.on("pageerror", lambda error: faults.append(f"error: {error}"))
    page.on(
        "console",
        lambda said: faults.append(f"console: {said.text} {said.location['url']}") if said.type == "error" else None,
    )
    page.on(
        "request",
        lambda asked: (
            None
            if asked.url.startswith(("http://127.0.0.1:", "data:", "blob:"))
            else faults.append(f"asks another machine: {asked.url}")
        ),
    )
    try:
        page.goto(address)
        page.wait_for_load_state("networkidle")
        yield page, faults
    finally:
        page.close()


@dataclass(frozen=True)
class Site:
    """Pages that were opened, by address, as READ gives them, and what was wrong with them."""

    pages: dict[str, dict]
    faults: list[str]


def violations(page: Page, rules: dict = WCAG) -> list[str]:
    """What axe-core finds against WCAG 2 A and AA, or against a part of it."""
    # Without preload: it asks for what a style sheet imports at the address of the page.
    found = Axe().run(page, options={"resultTypes": ["violations"], "preload": False, **rules}).response["violations"]
    return [
        f"{rule['id']}: {node['html'][:200]} ({(node['any'] + node['all'] + node['none'])[0]['message']})"
        for rule in found
        for node in rule["nodes"]
    ]


def crawl(browser: Browser, address: str) -> Site:
    """Open every page to which links lead from the first one, in light and in dark."""
    seen, faults, waiting = {}, [], [f"{address}index.html"]
    while waiting:
        here = waiting.pop()
        with opened(browser, here) as (page, said):
            seen[here] = page.evaluate(READ)
            if not seen[here]["found"]:
                continue  # whoever links to it is told
            page.evaluate(FEWER_WORDS)
            said += violations(page, NO_COLOURS)
            page.evaluate(FEWER_PARTS)
            for theme in ("light", "dark"):
                page.emulate_media(color_scheme=theme)
                said += [f"in {theme}, {violation}" for violation in violations(page, COLOURS)]
        faults += [f"{urlsplit(here).path}: {fault}" for fault in said]
        targets = {urldefrag(link)[0] for link in seen[here]["links"]}
        waiting += [t for t in targets if t.startswith(address) and t not in seen and t not in waiting]
    return Site(seen, faults + [fault for here in seen if seen[here]["found"] for fault in lacks(here, seen, address)])


def lacks(here: str, seen: dict[str, dict], address: str) -> list[str]:
    """What a page lacks, and which of its links lead nowhere."""
    read, name, found = seen[here], urlsplit(here).path, []
    if not read["title"]:
        found.append("it has no title")
    if len(read["headings"]) != 1 or not read["headings"][0]:
        found.append(f"it has not one heading of the first order, but {read['headings']}")
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
            found.append(f"a link to {link}, where nothing is")
        elif part and not {part, unquote(part)} & set(seen[target]["ids"]):
            found.append(f"a link to {link}, where nothing has this name")
    return [f"{name}: {fault}" for fault in found]


# The checks can fail.

BROKEN = """<!doctype html><html lang="en"><title>Broken</title><h1>Broken</h1>
<img src="loop.svg"><img src="none.png" alt="a picture"><img src="http://localhost:1/far.png" alt="far away">
<a href="none.html">a page</a> <a href="#none">a part</a> <a href="bare.html">bare</a>
<style>p, .word { color: #bbb }
@media (prefers-color-scheme: dark) { body { background: black } h1 { color: #333 } }</style>
<p>pale</p><pre class="highlight"><span>dark</span><span class="word">pale</span></pre>
<script>console.error("a word of warning"); throw new Error("a mistake")</script>"""


@pytest.fixture(scope="module")
def broken(browser, tmp_path_factory):
    folder = tmp_path_factory.mktemp("broken")
    (folder / "index.html").write_text(BROKEN, encoding="utf-8")
    (folder / "bare.html").write_text('<!doctype html><html lang="en"><body><h1>A</h1><h1>B</h1>', encoding="utf-8")
    (folder / "loop.svg").write_bytes((pages.SETTINGS / "static" / "loop.svg").read_bytes())
    with served(folder) as address:
        yield crawl(browser, address)


@pytest.mark.parametrize(
    ("page", "said"),
    [
        ("index", "no alt text for .*loop.svg"),
        ("index", "no picture at .*none.png"),
        ("index", "a link to .*/none.html, where nothing is"),
        ("index", "a link to .*/index.html#none, where nothing has this name"),
        ("index", "asks another machine: http://localhost:1/far.png"),
        ("index", "console: a word of warning"),
        ("index", "error: a mistake"),
        ("index", "image-alt: <img src=.loop.svg.>"),
        ("index", "in light, color-contrast: <p>pale</p>"),
        ("index", 'in light, color-contrast: <span class="word">pale</span>'),
        ("index", "in dark, color-contrast: <h1>Broken</h1>"),
        ("bare", "it has no title"),
        ("bare", r"not one heading of the first order, but \['A', 'B'\]"),
    ],
)
def test_each_check_finds_its_fault_on_a_broken_page(page, said, broken):
    assert [fault for fault in broken.faults if re.match(f"/{page}.html: .*{said}", fault)]


# The pages.


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
    names = {address.removeprefix(site) for address in crawled.pages}
    assert {f"notebooks/{name}.html" for name in index.lessons()} | {"index.html", "docs/questions.html"} <= names


def test_no_page_has_a_broken_link_a_bare_picture_or_a_colour_that_cannot_be_read(crawled):
    assert crawled.faults == []


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
            assert violations(page, COLOURS) == []
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


def test_a_solution_is_folded_until_it_is_asked_for(browser, site):
    with opened(browser, f"{site}notebooks/02_learning_rate.html") as (page, faults):
        solution = page.locator("details", has=page.get_by_text("Solution", exact=True)).first
        expect(solution.locator("pre")).to_be_hidden()
        solution.locator("summary").press("Enter")
        expect(solution.locator("pre")).to_be_visible()
        assert faults == []


def test_one_reads_from_the_first_lesson_to_the_last_by_the_step_to_the_next(browser, site):
    with opened(browser, f"{site}index.html") as (page, faults):
        for lesson in index.lessons().values():
            page.locator("a.right-next").click()
            expect(page.get_by_role("heading", level=1)).to_contain_text(lesson.title.replace("`", ""))
        assert faults == []


@pytest.mark.parametrize("width", [360, 1280])
def test_no_page_is_wider_than_the_window(width, browser, site):
    with opened(browser, f"{site}index.html", viewport={"width": width, "height": 800}) as (page, _):
        for name in ("index", "docs/questions", *(f"notebooks/{lesson}" for lesson in index.lessons())):
            page.goto(f"{site}{name}.html")
            assert page.evaluate("document.documentElement.scrollWidth") <= width, name
