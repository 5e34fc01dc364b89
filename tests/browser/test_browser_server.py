"""The server of the browser tests asks for its token and never outlives them; no text of a learner runs in a page."""

import subprocess
import sys
import urllib.error
import urllib.request

import headless
import hostile_page
import psutil
import pytest

pytestmark = [pytest.mark.browser, pytest.mark.timeout(120)]
KILLED = """\
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from headless import running_server
with running_server(Path(sys.argv[2])) as server:
    print(server.url, flush=True)
    sys.stdin.read()
"""


def test_the_server_asks_for_its_token(server):
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(f"{server.url}api/contents")
    urllib.request.urlopen(f"{server.url}api/contents?token={server.token}").close()


def test_the_server_ends_when_its_test_run_is_killed(tmp_path):
    command = [sys.executable, "-c", KILLED, str(headless.ROOT / "tools"), str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as run:
        try:
            assert run.stdout.readline().startswith("http://127.0.0.1:")
            started = psutil.Process(run.pid).children(recursive=True)
        finally:
            run.kill()
    _, alive = psutil.wait_procs(started, timeout=60)
    assert started
    assert alive == []


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
