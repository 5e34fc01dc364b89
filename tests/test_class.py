"""`make class`: what it prints and refuses before it starts, how JupyterHub is configured, and one real class."""

import contextlib
import importlib.util
import json
import os
import re
import runpy
import shutil
import socket
import subprocess
import sys
import types
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
import requests
from class_client import Learner, running_class
from traitlets.config import Config

ROOT = Path(__file__).resolve().parents[1]


# What is said, and what is refused, before anything starts.


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("1", ["learner1"]),
        ("3", ["learner1", "learner2", "learner3"]),
        ("ada", ["ada"]),
        ("ada grace", ["ada", "grace"]),
        (" ada,grace , alan_t-2\n", ["ada", "grace", "alan_t-2"]),
    ],
)
def test_learners_are_counted_or_named(text, names):
    assert classroom.read_learners(text) == names


@pytest.mark.parametrize("text", ["0", "-3", "2.5", "1001", "+4"])
def test_a_number_that_is_invalid_is_quoted(text):
    with pytest.raises(ValueError, match=rf"whole number from 1 to 1000, got '{re.escape(text)}'\.$"):
        classroom.read_learners(text)


@pytest.mark.parametrize(("text", "quoted"), [("Ada", "Ada"), ("ada ../b", "../b"), ("", ""), ("2 ada", "2")])
def test_a_name_that_is_invalid_is_quoted(text, quoted):
    with pytest.raises(ValueError, match=rf"LEARNERS is a number, or names of lower-case letters.*got '{quoted}'\."):
        classroom.read_learners(text)


def test_a_repeated_name_is_reported():
    with pytest.raises(ValueError, match="a name of their own; the list repeats ada"):
        classroom.read_learners("ada grace ada")


def test_there_is_no_class_on_windows(monkeypatch):
    monkeypatch.setattr(classroom, "os", types.SimpleNamespace(name="nt"))
    with pytest.raises(ValueError, match="JupyterHub does not run on Windows: start the class in WSL"):
        classroom.refuse_windows()


def test_idle_minutes():
    assert [classroom.read_minutes(text) for text in ("60", "0.5")] == [3600, 30]
    for text in ("0", "-1", "soon", "0.01"):
        with pytest.raises(ValueError, match=f"number of minutes above 0, got '{text}'"):
            classroom.read_minutes(text)


def test_the_password_is_made_once_and_for_this_user_alone(tmp_path):
    password = classroom.password_in(tmp_path)
    assert re.fullmatch(r"[a-z2-9]{4}(-[a-z2-9]{4}){2}", password)
    assert classroom.password_in(tmp_path) == password
    assert (tmp_path / "password").stat().st_mode & 0o777 == 0o600
    (tmp_path / "password").write_text("short\n")
    with pytest.raises(ValueError, match=r"has 5 characters\. Write one of 8 or more"):
        classroom.password_in(tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    assert classroom.password_in(other) != password


def mode(folder: Path) -> int:
    return folder.stat().st_mode & 0o7777


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_a_class_has_its_folder_to_itself(tmp_path, umask):
    before = os.umask(umask)
    try:
        classroom.close_to_others(tmp_path / "new")
        (tmp_path / "empty").mkdir()
        (tmp_path / "older").mkdir()
    finally:
        os.umask(before)
    classroom.password_in(tmp_path / "older")
    (tmp_path / "older").chmod(0o755)
    for name in ("new", "empty", "older"):
        classroom.close_to_others(tmp_path / name)
        assert mode(tmp_path / name) == 0o700


def test_a_folder_that_others_use_is_neither_closed_to_them_nor_used(tmp_path):
    folder = tmp_path / "shared by all"
    folder.mkdir()
    (folder / "of another").touch()
    for open_mode in (0o1777, 0o755, 0o710):
        folder.chmod(open_mode)
        with pytest.raises(ValueError, match=r"holds other files, and other users.* chmod 700 '.*shared by all'$"):
            classroom.close_to_others(folder)
        assert mode(folder) == open_mode
    folder.chmod(0o700)
    classroom.close_to_others(folder)


def free_port() -> int:
    """Return a port that is free, and so are the two after it."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        with contextlib.suppress(ValueError):
            return classroom.free_ports(str(port))


def test_two_more_ports_must_be_free():
    first = free_port()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", first + 2))
        taken.listen()
        words = (
            rf"port {first} also needs ports {first + 1} and {first + 2}\. Port {first + 2} is taken.* make class PORT="
        )
        with pytest.raises(ValueError, match=words):
            classroom.free_ports(str(first))
    assert classroom.free_ports(str(first)) == first
    with pytest.raises(ValueError, match="also needs ports 65535 and 65536"):
        classroom.free_ports("65534")


def test_files_of_a_class_that_is_gone_harm_nobody(tmp_path):
    # The numbers that a class left may belong to other programs by now.
    innocent = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        for name in ("hub.pid", "proxy.pid"):
            (tmp_path / name).write_text(str(innocent.pid))
        classroom.clear_away(tmp_path)
        assert innocent.poll() is None
        assert list(tmp_path.iterdir()) == []
        (tmp_path / "hub.pid").write_text("no number")
        classroom.clear_away(tmp_path)
        assert list(tmp_path.iterdir()) == []
    finally:
        innocent.communicate(timeout=60)


def test_the_proxy_of_a_killed_class_is_ended_because_it_holds_the_port(tmp_path, capsys):
    code = "import sys; sys.stdin.read()"
    orphan = subprocess.Popen([sys.executable, "-c", code, "configurable-http-proxy"], stdin=subprocess.PIPE)
    try:
        (tmp_path / "proxy.pid").write_text(str(orphan.pid))
        classroom.clear_away(tmp_path)
        assert not psutil.pid_exists(orphan.pid)
        assert f"its proxy, process {orphan.pid}, is running: ending it." in capsys.readouterr().out
    finally:
        orphan.kill()
        orphan.communicate()


def test_a_class_that_runs_is_not_started_twice(tmp_path):
    code = "import sys; sys.stdin.read()"
    hub = subprocess.Popen([sys.executable, "-c", code, str(classroom.CONFIG)], stdin=subprocess.PIPE)
    try:
        (tmp_path / "hub.pid").write_text(str(hub.pid))
        with pytest.raises(ValueError, match=rf"is already running, as process {hub.pid}\. End it with Ctrl-C"):
            classroom.clear_away(tmp_path)
        assert hub.poll() is None
    finally:
        hub.communicate(timeout=10)


def test_handout_link():
    link = urllib.parse.urlsplit(classroom.handout_link("https://hub.example", "https://host.example/a/course.git"))
    assert (link.netloc, link.path) == ("hub.example", "/hub/user-redirect/git-pull")
    assert urllib.parse.parse_qs(link.query) == {
        "repo": ["https://host.example/a/course.git"],
        "targetpath": ["course"],
        "urlpath": ["lab/tree/course/notebooks/00_start_here.ipynb"],
    }


def test_the_announcement_holds_what_the_teacher_needs(monkeypatch, tmp_path):
    monkeypatch.setattr(classroom.os, "geteuid", lambda: 0)
    words = classroom.announcement(9000, ["ada", "grace"], "a password", tmp_path)
    for needed in ("http://127.0.0.1:9000 ", "ada, grace", "a password", str(tmp_path / "homes"), "trust each other"):
        assert needed in words
    assert "You are root, so every learner will be root on this machine" in words
    assert ("git-pull" in words) == bool(classroom.repository())
    monkeypatch.setattr(classroom, "repository", lambda: "https://host.example/a/course")
    monkeypatch.setattr(classroom.os, "geteuid", lambda: 1000)
    words = classroom.announcement(9000, [f"learner{number}" for number in range(1, 31)], "a password", tmp_path)
    assert "learner1 … learner30 (30)" in words
    assert "You are root" not in words
    assert classroom.handout_link("http://127.0.0.1:9000", "https://host.example/a/course") in words


# The proxy, and what it is fetched with.


def program(folder: Path, name: str, script: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


def test_missing_or_old_node_is_reported_in_one_line(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(proxy.NodeMissing, match=r"needs Node\.js 20 or newer.*no node on PATH\. Install it from"):
        proxy.find_node()
    program(tmp_path, "node", "echo v18.20.1")
    with pytest.raises(proxy.NodeMissing, match=r"node reports 'v18\.20\.1'\. Install it from"):
        proxy.find_node()
    program(tmp_path, "node", "exit 1")
    with pytest.raises(proxy.NodeMissing, match=r"node reports ''\. Install it from"):
        proxy.find_node()
    program(tmp_path, "node", "echo v20.0.0")
    assert proxy.find_node() == str(tmp_path / "node")
    monkeypatch.setattr(proxy, "INSTALLED", tmp_path / "nowhere")
    with pytest.raises(proxy.NodeMissing, match="needs npm, but there is none on PATH, only"):
        proxy.ensure()


def test_make_class_says_in_one_line_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["classroom.py", "--folder", str(tmp_path / "file" / "class")])
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        SystemExit, match=r"^A class needs Node\.js 20 or newer for JupyterHub's proxy, but there is .*$"
    ):
        classroom.main()
    monkeypatch.setattr(proxy, "ensure", list)
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit, match=r"^The class's folder .*/file/class cannot be used \(Not a directory\).*$"):
        classroom.main()


def test_a_proxy_that_cannot_be_fetched_leaves_nothing_behind(monkeypatch, tmp_path, capfd):
    if not (shutil.which("node") and shutil.which("npm")):
        pytest.skip("Node.js and npm are not here: the proxy cannot be fetched")
    installed = tmp_path / "build" / "class-proxy"
    monkeypatch.setattr(proxy, "INSTALLED", installed)
    # Nothing listens at port 9, and an empty cache holds no package.
    for name, value in {
        "registry": "http://127.0.0.1:9/",
        "fetch_retries": "0",
        "cache": str(tmp_path / "cache"),
    }.items():
        monkeypatch.setenv(f"npm_config_{name}", value)
    # What an older release and an interruption left.
    (installed / "node_modules").mkdir(parents=True)
    (installed / "package-lock.json").write_text("{}")
    (tmp_path / "build" / "class-proxy.new" / "half").mkdir(parents=True)
    with pytest.raises(
        proxy.NpmFailed, match=r"could not fetch JupyterHub's proxy \(exit status \d+\).*run this again"
    ):
        proxy.ensure()
    assert not proxy.is_there()
    assert not installed.exists()
    assert not (tmp_path / "build" / "class-proxy.new" / "half").exists()
    assert "ECONNREFUSED" in capfd.readouterr().err


def test_every_package_of_the_proxy_is_pinned_with_its_checksum_and_no_address():
    lock = json.loads((ROOT / "hub" / "package-lock.json").read_text(encoding="utf-8"))
    wanted = json.loads((ROOT / "hub" / "package.json").read_text(encoding="utf-8"))["dependencies"]
    assert lock["packages"][""]["dependencies"] == wanted
    packages = {name: entry for name, entry in lock["packages"].items() if name}
    assert packages[proxy.PROGRAM]["version"] == wanted["configurable-http-proxy"]
    for name, entry in packages.items():
        assert re.fullmatch(r"sha512-[A-Za-z0-9+/=]+", entry["integrity"]), name
        assert re.fullmatch(r"[\d.]+", entry["version"]), name
        assert not {"resolved", "funding", "hasInstallScript"} & entry.keys(), name


# How JupyterHub is configured.

LESSONS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.fixture
def configured(tmp_path, monkeypatch):
    """The names and the settings of hub/jupyterhub_config.py for a class of ada and grace."""
    folder = tmp_path / "课程 {x} %41"
    folder.mkdir()
    classroom.password_in(folder)
    monkeypatch.chdir(folder)
    settings = {"port": 8000, "learners": ["ada", "grace"], "idle_seconds": 3600, "proxy": ["node", "proxy"]}
    monkeypatch.setenv("COURSE_CLASS", json.dumps(settings))
    config = Config()
    names = runpy.run_path(str(classroom.CONFIG), init_globals={"get_config": lambda: config})
    return types.SimpleNamespace(**names), config


def test_only_this_machine_and_the_learners_on_the_list_get_in(configured):
    _, config = configured
    hub, proxied = config.JupyterHub, config.ConfigurableHTTPProxy
    for address in (hub.bind_url, hub.hub_bind_url, proxied.api_url, f"http://{config.Spawner.ip}:0"):
        assert urllib.parse.urlsplit(address).hostname == "127.0.0.1"
    assert config.Authenticator.allowed_users == {"ada", "grace"}
    assert config.Authenticator.allow_existing_users is False
    password = Path("password").read_text(encoding="utf-8").strip()
    assert config.SharedPasswordAuthenticator.user_password == password


def test_each_learner_has_a_home_a_record_and_a_share_of_the_cores(configured):
    _, config = configured
    home = config.SimpleLocalProcessSpawner.home_dir_template.format(username="ada")
    assert Path(home) == Path.cwd() / "homes" / "ada"
    environment = config.Spawner.environment
    assert environment["COURSE_LEARNER_DIR"](types.SimpleNamespace(home_dir=home)) == f"{home}/learner"
    assert environment["OMP_NUM_THREADS"] == str(max(1, os.cpu_count() // 2))
    assert "--MappingKernelManager.cull_idle_timeout=3600" in config.Spawner.args
    assert "--LabApp.news_url=None" in config.Spawner.args


def test_lessons_are_handed_out_once_and_work_is_never_overwritten(configured, tmp_path):
    hub, _ = configured
    begun = tmp_path / "home" / "notebooks" / LESSONS[0].name
    begun.parent.mkdir(parents=True)
    begun.write_text("the learner's work")
    hub.hand_out(ROOT / "notebooks", tmp_path / "home")
    assert (tmp_path / "home").stat().st_mode & 0o077 == 0
    assert sorted(path.name for path in begun.parent.iterdir()) == [path.name for path in LESSONS]
    assert begun.read_text() == "the learner's work"
    assert (begun.parent / LESSONS[1].name).read_bytes() == LESSONS[1].read_bytes()


@pytest.mark.parametrize(("name", "taken_up"), [("ada", True), ("grace", False)])
def test_a_server_that_outlived_the_hub_is_taken_up_only_by_its_learner(configured, name, taken_up):
    hub, _ = configured
    # It is ada's server; grace's number belongs to another program by now.
    code, env = "import sys; sys.stdin.read()", {**os.environ, "JUPYTERHUB_USER": "ada"}
    server = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, env=env)
    try:
        spawner = hub.LearnerSpawner(user=types.SimpleNamespace(name=name, url="/"))
        spawner.load_state({"pid": server.pid})
        assert spawner.pid == (server.pid if taken_up else 0)
    finally:
        server.communicate(timeout=10)


# A real class.


def needs_proxy() -> None:
    """Fetch the proxy; skip if that cannot be done here, and fail if it could be done and was not."""
    try:
        proxy.ensure()
    except proxy.NodeMissing as error:
        pytest.skip(str(error))
    except proxy.NpmFailed as error:
        if subprocess.run([shutil.which("npm"), "ping"], capture_output=True).returncode != 0:
            pytest.skip(f"no registry answers npm from here: {error}")
        raise


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_learner_logs_in_and_gets_a_lab_of_their_own_and_ctrl_c_ends_it_all(tmp_path):
    needs_proxy()
    folder = tmp_path / "课程 {x} %41"
    with running_class(folder, ["ada", "grace"]) as (process, url):
        password = (folder / "password").read_text(encoding="utf-8").strip()
        for name, word in (("mallory", password), ("ada", "another password")):
            with pytest.raises(requests.HTTPError, match="403"):
                Learner(url, name, word).log_in()
        ada, grace = (Learner(url, name, password) for name in ("ada", "grace"))
        ada.log_in()
        ada.start_server()
        page = ada.ask("GET", "/user/ada/lab")
        config = json.loads(re.search(r'id="jupyter-config-data"[^>]*>(.*?)</script>', page.text, re.DOTALL)[1])
        assert config["news"] == {"disabled": True}
        lessons = ada.ask("GET", "/user/ada/api/contents/notebooks").json()["content"]
        assert sorted(entry["name"] for entry in lessons) == [path.name for path in LESSONS]
        log = (folder / "logs" / "ada.log").read_text()
        assert "not recognized" not in log, "an option has another name now"
        assert "Traceback" not in log
        # Grace is refused at ada's server, and other machines at everything.
        grace.log_in()
        assert grace.ask("GET", "/user/ada/api/contents/notebooks").status_code == 403
        hub = psutil.Process(process.pid)
        for each in (hub, *hub.children(recursive=True)):
            listening = [c.laddr.ip for c in each.net_connections(kind="tcp") if c.status == psutil.CONN_LISTEN]
            assert set(listening) <= {"127.0.0.1"}
    assert not (folder / "hub.pid").exists()
