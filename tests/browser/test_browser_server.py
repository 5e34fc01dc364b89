"""The server of the browser tests answers, tells why it does not, and is never left behind."""

import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import hostile_page
import pytest
import running

pytestmark = [pytest.mark.browser, pytest.mark.timeout(120)]
KILLED = """\
import sys, time
from pathlib import Path
sys.path.insert(0, {here!r})
from running import running_server
with running_server(Path({folder!r})) as server:
    print(server.url, flush=True)
    time.sleep(100)
"""


def answers(url: str) -> bool:
    try:
        urllib.request.urlopen(f"{url}api", timeout=30).close()
    except urllib.error.HTTPError:
        return True
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False
    return True


def gone(url: str) -> bool:
    end = time.monotonic() + 90
    while time.monotonic() < end:
        if not answers(url):
            return True
        time.sleep(0.2)
    return False


def test_server_asks_for_its_token_and_is_gone_afterwards(tmp_path):
    with running.running_server(tmp_path) as server:
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(f"{server.url}api/contents")
        urllib.request.urlopen(f"{server.url}api/contents?token={server.token}").close()
    assert gone(server.url)


def test_server_ends_when_its_test_run_is_killed(tmp_path):
    code = KILLED.format(here=str(Path(__file__).parent), folder=str(tmp_path))
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as run:
        try:
            url = run.stdout.readline().strip()
            assert answers(url)
        finally:
            run.kill()
    assert gone(url)


def test_server_that_does_not_start_tells_what_it_wrote(tmp_path):
    with (
        pytest.raises(RuntimeError, match=r"JupyterLab did not answer(.|\n)*nowhere"),
        running.running_server(tmp_path / "nowhere"),
    ):
        pass


def test_machine_without_a_browser_has_none(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert running.find_browser() is None


# What a real browser makes of the HTML that tests/test_security.py reads.
LISTENS = "element => [...element.attributes].some(attribute => attribute.name.startsWith('on'))"


def test_no_string_of_the_learner_runs_in_a_browser(browser, tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_LEARNER_DIR", str(tmp_path / "a file" / hostile_page.QUOTES.replace("/", "")))
    monkeypatch.chdir(tmp_path)
    page = browser.new_page()
    try:
        for harm in hostile_page.HARM:
            page.set_content(f'<p title="{harm}">{harm}</p>')
            assert page.evaluate(f"[...document.body.querySelectorAll('*')].some({LISTENS}) || 'harmed' in window")
        for name, made in hostile_page.pages(tmp_path).items():
            page.goto("about:blank")
            page.set_content(made)
            page.wait_for_load_state("domcontentloaded")
            assert page.evaluate("'harmed' in window") is False, name
            assert page.evaluate(f"[...document.querySelectorAll('*')].filter({LISTENS}).length") == 0, name
            assert page.evaluate("document.querySelectorAll('body script, body img').length") == 0, name
            assert "harmed" in page.content(), name
    finally:
        page.close()
