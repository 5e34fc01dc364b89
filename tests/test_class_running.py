"""A class of two, started as `make class` starts it: they go through its real interfaces, and it is killed and ended.

The tests follow one another in one class.
"""

import asyncio
import contextlib
import importlib.util
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import urllib.parse
from pathlib import Path

import psutil
import pytest

if importlib.util.find_spec("jupyterhub") is None:
    pytest.skip("jupyterhub is not installed here: a class could not be started", allow_module_level=True)
if os.name == "nt":
    pytest.skip("JupyterHub does not run on Windows", allow_module_level=True)

import classroom
import proxy
import rehearsal
from simulated_learner import CellFailed, Learner, Refused

ROOT = Path(__file__).resolve().parents[1]
LESSONS = sorted((ROOT / "notebooks").glob("*.ipynb"))

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def needs_proxy() -> None:
    """Fetch the proxy; skip where that cannot be done here, and fail where it could be done and was not."""
    try:
        proxy.ensure()
    except proxy.NodeMissing as error:
        pytest.skip(str(error))
    except proxy.NpmFailed as error:
        if subprocess.run([shutil.which("npm"), "ping"], capture_output=True).returncode != 0:
            pytest.skip(f"no registry answers npm from here: {error}")
        raise


def start_by_hand(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "tools" / "classroom.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def left_of(folder: Path) -> list[psutil.Process]:
    """Find all processes of this machine that work for the class in a folder, whoever started them."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if any(value.startswith(str(folder)) for value in (*process.environ().values(), process.cwd())):
                found.append(process)
    return found


@pytest.fixture(scope="module")
def loop():
    """One event loop for the module."""
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """A running class of ada and grace, in a folder with an unusual name; ada has begun a lesson before."""
    needs_proxy()
    folder = tmp_path_factory.mktemp("a class") / "课程 {x} %41"
    begun = folder / "homes" / "ada" / "notebooks" / LESSONS[0].name
    begun.parent.mkdir(parents=True)
    begun.write_text('{"cells": [], "metadata": {"ada": true}, "nbformat": 4, "nbformat_minor": 5}')
    try:
        with rehearsal.running_class(folder, ["ada", "grace"]) as running:
            yield running
    finally:
        for process in left_of(folder):
            process.kill()


@pytest.fixture(scope="module")
def rehearsed(two, loop):
    """What a short rehearsal in it measured and saw: the first cells of lesson 02, its lab, and the slider."""
    before = (ROOT / rehearsal.LESSON).read_bytes()

    def choose(cells):
        return cells[:3] + [cell for cell in cells if "LearningRateLab()" in cell]

    figures, seen = loop.run(rehearsal.rehearse(two, moves=5, choose=choose, quiet=True))
    assert (ROOT / rehearsal.LESSON).read_bytes() == before, "a learner has changed the checkout's lesson"
    return figures, seen


def test_a_folder_that_cannot_be_used_is_told_in_one_line(tmp_path):
    needs_proxy()
    (tmp_path / "file").touch()
    done = start_by_hand("--folder", str(tmp_path / "file" / "class"))
    assert done.returncode == 1
    assert done.stderr.startswith(f"The class's folder {tmp_path}/file/class cannot be used (Not a directory)")
    assert len(done.stderr.splitlines()) == 1


def test_a_class_that_does_not_start_says_why_and_leaves_nothing(tmp_path):
    needs_proxy()
    (tmp_path / "password").write_text("short")
    with pytest.raises(RuntimeError, match=r"the class did not start \(exit status 1\):\n.*has 5 characters"):
        rehearsal.start_class(tmp_path, ["ada"], rehearsal.free_port())
    assert left_of(tmp_path) == []


async def back(two: rehearsal.Class, name: str) -> Learner:
    learner = Learner(two.url, name, two.password)
    await learner.log_in()
    return learner


async def in_kernel(learner: Learner, code: str) -> str:
    (there,) = await learner.ask("GET", learner.at_server("kernels"))
    kernel = await learner.connect(there["id"])
    try:
        return await kernel.run(code)
    finally:
        await kernel.close()


def test_two_learners_run_the_lesson_and_move_its_slider(rehearsed):
    figures, seen = rehearsed
    assert len(figures.logins) == len(figures.starts) == len(figures.lessons) == len(figures.memory) == 2
    assert [len(moves) for moves in figures.moves] == [5, 5]
    assert figures.cells == 4
    for move in figures.moves[0] + figures.moves[1]:
        assert 0 < move < 5
    for held in figures.memory:
        # torch alone takes more than this.
        assert 150 < held.kernel <= held.peak
        assert 30 < held.server < held.kernel
    assert 0 < figures.proxy < 500
    assert 0 < figures.hub < 500
    assert len(seen) == 3
    assert 0 <= figures.others <= 1


def test_each_learner_has_what_is_theirs_in_their_own_home(two, rehearsed):
    for name in two.learners:
        home = two.folder / "homes" / name
        assert home.stat().st_mode & 0o077 == 0
        assert sorted(path.name for path in (home / "notebooks").glob("[!.]*.ipynb")) == [p.name for p in LESSONS]
        assert not list(home.rglob("*.part"))
        entries = json.loads((home / "learner" / "progress.json").read_text(encoding="utf-8"))["predictions"]
        assert [entry for entry in entries if entry.startswith("rehearsal-")] == [f"rehearsal-{name}"]
    # What was there before is the learner's own work.
    assert '"ada": true' in (two.folder / "homes" / "ada" / "notebooks" / LESSONS[0].name).read_text()
    grace = two.folder / "homes" / "grace" / "notebooks" / LESSONS[0].name
    assert grace.read_bytes() == LESSONS[0].read_bytes()
    # Another test of this process may have written here; a learner of the class must not have.
    beside = Path(os.environ["COURSE_LEARNER_DIR"]) / "progress.json"
    assert not beside.exists() or "rehearsal-" not in beside.read_text(encoding="utf-8")


def test_who_is_not_on_the_list_or_has_another_password_stays_outside(two, loop):
    for name, password in (("mallory", two.password), ("ada", "another password")):
        with pytest.raises(Refused, match="POST /hub/login answered 403"):
            loop.run(Learner(two.url, name, password).log_in())


def test_servers_are_started_with_the_limits_of_the_class(two, rehearsed, loop):
    threads = max(1, os.cpu_count() // 2)
    for name, (server, kernels) in rehearsal.processes_of(two).items():
        command = server.cmdline()
        assert "--MappingKernelManager.cull_idle_timeout=3600" in command
        assert "--MappingKernelManager.cull_interval=300" in command
        assert "--ServerApp.shutdown_no_activity_timeout=3600" in command
        assert [process.environ()["OMP_NUM_THREADS"] for process in (server, *kernels)] == [str(threads)] * 2
        log = (two.folder / "logs" / f"{name}.log").read_text()
        assert "not recognized" not in log, "an option has another name now"
        assert "Traceback" not in log
    ada = loop.run(back(two, "ada"))
    page = loop.run(ada.ask("GET", "/user/ada/lab"))
    config = json.loads(re.search(r'id="jupyter-config-data"[^>]*>(.*?)</script>', page, re.DOTALL)[1])
    assert config["news"] == {"disabled": True}
    assert int(loop.run(in_kernel(ada, "import torch; print(torch.get_num_threads())"))) == threads


def test_the_system_does_not_keep_learners_apart(two, rehearsed, loop):
    """docs/class.md warns of this; should it fail one day, the warning is wrong."""
    neighbours = two.folder / "homes" / "grace" / "mine.txt"
    ada = loop.run(back(two, "ada"))
    assert loop.run(in_kernel(ada, f"print(open({str(neighbours)!r}).read())")) == "grace\n"


def test_a_cell_that_raises_ends_the_rehearsal_with_its_words(two, rehearsed, loop):
    ada = loop.run(back(two, "ada"))
    with pytest.raises(CellFailed, match="'1 / 0' … raised ZeroDivisionError: division by zero"):
        loop.run(in_kernel(ada, "1 / 0"))


def test_a_handout_link_brings_lessons_and_later_corrections_and_keeps_the_learners_work(
    two, rehearsed, loop, tmp_path
):
    if not shutil.which("git"):
        pytest.skip("git is not here, and nbgitpuller works with it")
    teacher = tmp_path / "course"
    teacher.mkdir()

    def git(*words):
        identity = ["-c", "user.name=ada", "-c", "user.email=ada@example.org"]
        subprocess.run(["git", *identity, *words], cwd=teacher, check=True, capture_output=True)

    def hand_in(**files):
        for name, text in files.items():
            (teacher / f"{name}.txt").write_text(text)
        git("add", ".")
        git("commit", "-m", "lessons")

    git("init", "-b", "main")
    hand_in(first="one\ntwo\nthree\n", second="as handed out\n")
    link = urllib.parse.urlsplit(classroom.handout_link(two.url, str(teacher)))
    query = urllib.parse.parse_qs(link.query)
    asked = urllib.parse.urlencode({"repo": query["repo"][0], "targetpath": query["targetpath"][0]})

    async def follow():
        ada = await back(two, "ada")
        # The page behind the link is there, and it asks for this.
        await ada.ask("GET", f"/user/ada/git-pull?{link.query}")
        told = await ada.ask("GET", f"/user/ada/git-pull/api?{asked}")
        assert '"phase": "finished"' in told, told
        assert '"phase": "error"' not in told
        return ada

    ada = loop.run(follow())
    assert loop.run(ada.read("course/first.txt")) == "one\ntwo\nthree\n"
    loop.run(ada.write("course/second.txt", "ada's own words\n"))
    hand_in(first="one\ntwo, corrected\nthree\n", third="new\n")
    ada = loop.run(follow())
    assert loop.run(ada.read("course/first.txt")) == "one\ntwo, corrected\nthree\n"
    assert loop.run(ada.read("course/third.txt")) == "new\n"
    assert loop.run(ada.read("course/second.txt")) == "ada's own words\n"


def test_a_class_is_not_started_twice(two):
    port = two.url.rsplit(":", 1)[1]
    done = start_by_hand("--folder", str(two.folder), "--port", str(rehearsal.free_port()))
    assert done.returncode == 1
    assert done.stderr.startswith(f"The class in {two.folder} is running already, as process {two.process.pid}: end it")
    done = start_by_hand("--folder", str(two.folder.parent / "another"), "--port", port)
    assert done.returncode == 1
    assert done.stderr == f"Port {port} is taken: name another one, as in  make class PORT={int(port) % 65535 + 1}\n"


def number_in(folder: Path, name: str) -> int:
    return int((folder / name).read_text())


def test_a_killed_class_goes_on_at_the_next_start_and_ends_whole_with_ctrl_c(two, rehearsed, loop):
    family, servers = two.everything(), rehearsal.processes_of(two)
    assert set(family) <= set(left_of(two.folder))
    old_proxy = psutil.Process(number_in(two.folder, "proxy.pid"))
    loop.run(in_kernel(loop.run(back(two, "ada")), "kept = 41"))

    # The hub is killed. Grace's server dies as well, and its number goes to somebody else's program.
    two.process.kill()
    two.process.wait()
    assert old_proxy.is_running()
    lost = [servers["grace"][0], *servers["grace"][1]]
    lost[0].kill()
    innocent = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        with sqlite3.connect(two.folder / "jupyterhub.sqlite") as database:
            changed = database.execute(
                "UPDATE spawners SET state = ? WHERE user_id = (SELECT id FROM users WHERE name = 'grace')",
                (json.dumps({"pid": innocent.pid}),),
            )
            assert changed.rowcount == 1
        database.close()
        assert psutil.wait_procs(lost, timeout=60)[1] == [], "a kernel has outlived its server"

        again = rehearsal.start_class(two.folder, two.learners, int(two.url.rsplit(":", 1)[1]))
        try:
            assert f"Its proxy, process {old_proxy.pid}, ends now." in (two.folder / "class.log").read_text()
            assert not old_proxy.is_running()
            ada = loop.run(back(two, "ada"))
            assert loop.run(in_kernel(ada, "print(kept + 1)")) == "42\n"
            grace = loop.run(back(two, "grace"))
            assert loop.run(grace.ask("GET", "/hub/api/users/grace"))["servers"] == {}
            family += again.everything()
        finally:
            # Ctrl-C reaches the hub, and nothing of the class is left, whoever started it.
            os.killpg(again.process.pid, signal.SIGINT)
            again.process.wait(timeout=60)
        assert psutil.wait_procs([*family, *left_of(two.folder)], timeout=60)[1] == []
        assert not (two.folder / "hub.pid").exists()
        assert not (two.folder / "proxy.pid").exists()
        assert innocent.poll() is None, "somebody else's program was ended"
    finally:
        innocent.communicate(timeout=60)
