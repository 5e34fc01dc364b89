"""What `make class` and `make rehearsal` say, refuse and write; tests/test_class_running.py runs a class."""

import asyncio
import importlib.util
import json
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import types
import urllib.parse
from pathlib import Path

import psutil
import pytest
import yaml

if importlib.util.find_spec("jupyterhub") is None:
    pytest.skip("jupyterhub is not installed here: a class could not be started", allow_module_level=True)
if os.name == "nt":
    pytest.skip("JupyterHub does not run on Windows", allow_module_level=True)

import classroom
import proxy
import rehearsal
from simulated_learner import Kernel, Refused
from tornado.httpclient import HTTPClientError

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
def test_a_number_that_is_none_is_quoted(text):
    with pytest.raises(ValueError, match=rf"whole number from 1 to 1000, got '{re.escape(text)}'\.$"):
        classroom.read_learners(text)


@pytest.mark.parametrize(("text", "quoted"), [("Ada", "Ada"), ("ada ../b", "../b"), ("", ""), ("2 ada", "2")])
def test_a_name_that_is_none_is_quoted(text, quoted):
    with pytest.raises(ValueError, match=rf"LEARNERS is a number, or names of small letters.*got '{quoted}'\."):
        classroom.read_learners(text)


def test_a_name_that_stands_there_twice_is_told():
    with pytest.raises(ValueError, match="a name of their own; ada stands there twice"):
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


@pytest.mark.parametrize("text", ["eight", "0", "1", "-2", "2.5"])
def test_a_rehearsal_says_what_is_no_number(text, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["rehearsal.py", f"--learners={text}"])
    # What is raised here is what the terminal shows.
    with pytest.raises(SystemExit, match=rf"^A rehearsal needs a whole number of learners, 2 or more, got '{text}'\.$"):
        rehearsal.main()


def test_a_rehearsal_says_where_memory_is_too_small(monkeypatch):
    free = psutil.virtual_memory()._replace(available=3 * rehearsal.NEEDED * rehearsal.MIB)
    monkeypatch.setattr(rehearsal.psutil, "virtual_memory", lambda: free)
    assert len(rehearsal.read_count("3")) == 3
    with pytest.raises(ValueError, match=r"^4 learners need about [\d.]+ GiB of memory, and [\d.]+ GiB are free"):
        rehearsal.read_count("4")


def test_the_password_is_made_once_and_for_this_user_alone(tmp_path):
    password = classroom.password_in(tmp_path)
    assert re.fullmatch(r"[a-z2-9]{4}(-[a-z2-9]{4}){2}", password)
    assert classroom.password_in(tmp_path) == password
    assert (tmp_path / "password").stat().st_mode & 0o777 == 0o600
    (tmp_path / "password").write_text("short\n")
    with pytest.raises(ValueError, match="has 5 characters: write one of 8 or more"):
        classroom.password_in(tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    assert classroom.password_in(other) != password


def test_two_more_ports_must_be_free():
    first = rehearsal.free_port()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", first + 2))
        taken.listen()
        words = (
            rf"port {first} needs ports {first + 1} and {first + 2}, too\. Port {first + 2} is taken.* make class PORT="
        )
        with pytest.raises(ValueError, match=words):
            classroom.free_ports(str(first))
    assert classroom.free_ports(str(first)) == first
    with pytest.raises(ValueError, match="needs ports 65535 and 65536, too"):
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


def test_handout_link():
    link = urllib.parse.urlsplit(classroom.handout_link("https://hub.example", "https://host.example/a/course.git"))
    assert (link.netloc, link.path) == ("hub.example", "/hub/user-redirect/git-pull")
    assert urllib.parse.parse_qs(link.query) == {
        "repo": ["https://host.example/a/course.git"],
        "targetpath": ["course"],
        "urlpath": ["lab/tree/course/notebooks/00_start_here.ipynb"],
    }


def test_the_teacher_is_told_what_is_needed(monkeypatch, tmp_path):
    monkeypatch.setattr(classroom.os, "geteuid", lambda: 0)
    words = classroom.told(9000, ["ada", "grace"], "a password", tmp_path)
    for needed in ("http://127.0.0.1:9000 ", "ada, grace", "a password", str(tmp_path / "homes"), "trust each other"):
        assert needed in words
    assert "You are root, so every learner will be root on this machine" in words
    assert ("git-pull" in words) == bool(classroom.repository())
    monkeypatch.setattr(classroom, "repository", lambda: "https://host.example/a/course")
    monkeypatch.setattr(classroom.os, "geteuid", lambda: 1000)
    words = classroom.told(9000, [f"learner{number}" for number in range(1, 31)], "a password", tmp_path)
    assert "learner1 … learner30 (30)" in words
    assert "You are root" not in words
    assert classroom.handout_link("http://127.0.0.1:9000", "https://host.example/a/course") in words


# Whether a rehearsal would notice that something is shared.


class Neighbour:
    """A learner at a class of two, in which one thing is shared that should not be; it answers as a server would."""

    def __init__(self, name: str, flaw: str, shared: dict):
        self.name, self.flaw, self.shared, self.own = name, flaw, shared, {"kernels": [f"kernel of {name}"]}
        self.id = f"kernel of {name}"

    def at_server(self, path: str, owner: str = "") -> str:
        return f"{owner or self.name}:{path}"

    def _check(self, owner: str, doing: str) -> None:
        if owner not in ("", self.name) and self.flaw != doing:
            status = 404 if self.flaw == f"{doing}: another status" else 403
            raise Refused("GET", owner, types.SimpleNamespace(code=status, reason="", body=b""))

    def _things(self, what: str) -> dict:
        return self.shared if self.flaw == f"shared: {what}" else self.own

    async def read(self, path: str, owner: str = ""):
        self._check(owner, "reading")
        return self._things("lesson" if path == rehearsal.LESSON else path).get(path)

    async def write(self, path: str, text: str, owner: str = "") -> None:
        self._check(owner, "writing")
        self._things(path)[path] = text

    async def ask(self, method: str, path: str, content=None):
        owner, _, what = path.partition(":")
        if what == "kernels":
            self._check(owner, "kernels")
            return [{"id": number} for number in self._things("kernels").setdefault("kernels", [self.id, "another"])]
        self._things("lesson")[rehearsal.LESSON] = content["content"]
        return None

    async def connect(self, kernel: str, owner: str) -> None:
        if self.flaw != "websocket":
            raise HTTPClientError(403)

    async def run(self, code: str) -> str:
        entries = self._things("record").setdefault("record", set())
        entries.add(f"rehearsal-{self.name}")
        home = "ada" if self.flaw == "shared: folder" else self.name
        return json.dumps([f"/class/homes/{home}/learner", sorted(entries)])


def look_for_what_is_shared(monkeypatch, flaw: str) -> list[str]:
    shared: dict = {}
    learners = [Neighbour(name, flaw, shared) for name in ("ada", "grace")]
    servers = {
        name: (types.SimpleNamespace(pid=0 if flaw == "shared: server" else number), [])
        for number, name in enumerate(("ada", "grace"))
    }
    monkeypatch.setattr(rehearsal, "processes_of", lambda running: servers)
    place = types.SimpleNamespace(ip="0.0.0.0" if flaw == "open to other machines" else "127.0.0.1")
    connection = types.SimpleNamespace(laddr=place, status=psutil.CONN_LISTEN)
    process = types.SimpleNamespace(net_connections=lambda kind: [connection])
    running = types.SimpleNamespace(folder=Path("/class"), everything=lambda: [process])
    return asyncio.run(rehearsal.check_nothing_is_shared(running, learners, learners))


def test_a_class_in_which_nothing_is_shared_passes(monkeypatch):
    assert len(look_for_what_is_shared(monkeypatch, "none")) == 3


@pytest.mark.parametrize(
    ("flaw", "words"),
    [
        ("reading", "ada's reading of grace's lesson was allowed"),
        ("reading: another status", "ada's reading of grace's lesson was answered with 404, not with 403"),
        ("writing", "ada's writing there was allowed"),
        ("kernels", "ada's look at grace's kernels was allowed"),
        ("websocket", "ada's way to grace's kernel was allowed"),
        ("shared: kernels", r"ada's server shows the kernels \['kernel of ada', 'another'\], not kernel of ada alone"),
        ("shared: mine.txt", "ada's file holds another one's words"),
        ("shared: lesson", "ada's copy of the lesson is another one's"),
        ("shared: folder", "grace's progress goes to /class/homes/ada/learner"),
        ("shared: record", r"ada's record holds \['rehearsal-ada', 'rehearsal-grace'\]"),
        ("shared: server", "2 learners have 2 servers, and 1 processes"),
        ("open to other machines", r"something listens at \['0\.0\.0\.0'\], where other machines can reach it"),
    ],
)
def test_what_is_shared_ends_a_rehearsal(flaw, words, monkeypatch):
    with pytest.raises(rehearsal.Shared, match=words):
        look_for_what_is_shared(monkeypatch, flaw)


class Wire:
    """A websocket that gives these messages, and is closed when something has been sent."""

    def __init__(self, *messages: dict):
        self._messages, self._sent = list(messages), asyncio.Event()

    async def read_message(self) -> str | None:
        if self._messages:
            return json.dumps(self._messages.pop(0))
        await self._sent.wait()
        return None

    async def write_message(self, text: str) -> None:
        self._sent.set()


def test_a_websocket_that_is_closed_ends_what_waits_for_it():
    async def wait(what):
        kernel = Kernel("1", "session", Wire())
        await (kernel.run("1 + 1") if what == "cell" else kernel.move("slider", 0.1, lambda update: False))

    with pytest.raises(ConnectionError, match="closed while a cell ran"):
        asyncio.run(wait("cell"))
    with pytest.raises(ConnectionError, match="closed while the slider moved"):
        asyncio.run(wait("slider"))


def test_a_widget_is_found_by_its_kind_its_style_and_its_place():
    def opened(number, model, **state):
        data = {"state": {"_model_name": model, **state}}
        content = {"comm_id": number, "target_name": "jupyter.widget", "data": data}
        return {"msg_type": "comm_open", "content": content, "parent_header": {}}

    async def look(*wanted, **where):
        lab = opened("lab", "VBoxModel", children=["IPY_MODEL_row"])
        row = opened("row", "HBoxModel", children=["IPY_MODEL_inner"])
        inner = opened("inner", "HTMLModel", _dom_classes=["lab-front"])
        kernel = Kernel("1", "session", Wire(lab, row, inner, opened("outer", "HTMLModel", _dom_classes=["lab-back"])))
        await asyncio.sleep(0.01)
        return kernel.find(*wanted, **where)

    assert asyncio.run(look("HTMLModel", inside="lab")) == "inner"
    assert asyncio.run(look("HTMLModel", "lab-back")) == "outer"
    with pytest.raises(LookupError, match="2 widgets of the kind HTMLModel '' among 4"):
        asyncio.run(look("HTMLModel"))
    with pytest.raises(LookupError, match="0 widgets of the kind HTMLModel 'lab-back' among 3"):
        asyncio.run(look("HTMLModel", "lab-back", inside="lab"))


# The proxy, and what it is fetched with.


def program(folder: Path, name: str, script: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


def test_missing_or_old_node_is_told_in_one_line(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(proxy.NodeMissing, match=r"needs Node\.js 20 or newer.*no node on PATH: install it from"):
        proxy.find_node()
    program(tmp_path, "node", "echo v18.20.1")
    with pytest.raises(proxy.NodeMissing, match=r"node says 'v18\.20\.1': install it from"):
        proxy.find_node()
    program(tmp_path, "node", "exit 1")
    with pytest.raises(proxy.NodeMissing, match="node says '': install it from"):
        proxy.find_node()
    program(tmp_path, "node", "echo v20.0.0")
    assert proxy.find_node() == str(tmp_path / "node")
    monkeypatch.setattr(proxy, "INSTALLED", tmp_path / "nowhere")
    with pytest.raises(proxy.NodeMissing, match="needs npm, and there is none on PATH beside"):
        proxy.ensure()


def test_make_class_says_that_node_is_missing(tmp_path):
    command = [sys.executable, ROOT / "tools" / "classroom.py"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PATH": str(tmp_path)})
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("A class needs Node.js 20 or newer, for JupyterHub's proxy, and there is no node")
    assert len(done.stderr.splitlines()) == 1


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
        proxy.NpmFailed, match=r"could not fetch JupyterHub's proxy \(exit status \d+\).*call this again"
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


# What a rehearsal writes.


def made_up_figures() -> rehearsal.Figures:
    memory = [rehearsal.Memory(100, 400, 60, 300, 500), rehearsal.Memory(120, 440, 62, 310, 580)]
    moves = [[0.010, 0.020], [0.030, 0.100]]
    return rehearsal.Figures([0.1, 0.3], [2.0, 4.0], [30.0, 31.0], moves, memory, 90, 50, 41, 0.27, "2 cores, Linux")


def test_figures_are_written_as_they_were_measured():
    text = rehearsal.markdown(made_up_figures())
    for row in (
        "| 2 learners at the same time | median | largest |",
        "| start of the server, until it answers | 3.0 s | 4.0 s |",
        "| lesson 02 run whole, 41 cells, with the start of its kernel | 30.5 s | 31.0 s |",
        "| memory of the kernel (RSS) | 420 MiB | 440 MiB |",
        "| both, shared pages divided (PSS) | 366 MiB | 372 MiB |",
        "| both, at the highest moment of the lesson (RSS) | 540 MiB | 580 MiB |",
    ):
        assert row in text.splitlines()
    assert "over 4 moves while all 2 play at once: median 25 ms, 95 % below 90 ms, longest 100 ms." in text
    assert text.endswith("Other programs took 27 % of the cores meanwhile.\n")
    assert "All together: 872 MiB, of which the hub 90 and its proxy 50." in text


def test_what_other_programs_take_is_told_apart(monkeypatch):
    def at(now, user, own):
        monkeypatch.setattr(rehearsal.time, "monotonic", lambda: now)
        times = types.SimpleNamespace(user=user, system=10.0, nice=5.0)
        monkeypatch.setattr(rehearsal.psutil, "cpu_times", lambda: times)
        process.cpu_times = lambda: types.SimpleNamespace(user=own, system=1.0)

    process = types.SimpleNamespace()
    monkeypatch.setattr(rehearsal.psutil, "Process", lambda: process)
    monkeypatch.setattr(rehearsal.os, "cpu_count", lambda: 2)
    at(now=100.0, user=50.0, own=3.0)
    others = rehearsal.OtherPrograms(types.SimpleNamespace(everything=lambda: [process]))
    # Ten seconds of two cores are 20; 12 were busy, 4 and 4 of them with the class and the learners.
    at(now=110.0, user=62.0, own=7.0)
    assert others.share() == pytest.approx(0.2)
    at(now=110.0, user=50.0, own=7.0)
    assert others.share() == 0.0


def test_percentile_is_that_of_the_library():
    values = [float(value * value) for value in range(1, 402)]
    assert rehearsal.percentile(values, 95) == pytest.approx(statistics.quantiles(values, n=20, method="inclusive")[-1])


def test_values_for_kubernetes_follow_from_the_memory():
    values = yaml.safe_load(rehearsal.values_yaml(made_up_figures()))["singleuser"]
    # 580 MiB and a quarter: 725, in steps of 128. Server 120 and three kernels of 460, and a quarter: 1,875.
    assert values["memory"] == {"guarantee": "768M", "limit": "1920M"}
    assert values["extraEnv"] == {"OMP_NUM_THREADS": "1"}
    opened = values["defaultUrl"].removeprefix("/lab/tree/course/")
    assert (ROOT / opened).is_file()


def test_the_document_has_places_for_the_figures():
    document = rehearsal.DOCUMENT.read_text(encoding="utf-8")
    for name in ("class-figures", "class-values"):
        changed = rehearsal.put(document, name, "new\n")
        assert f"<!-- {name}: begin -->\nnew\n<!-- {name}: end -->\n" in changed
        assert rehearsal.put(changed, name, "new\n") == changed
    with pytest.raises(ValueError, match=r"class\.md has no marks <!-- nothing: begin --> and"):
        rehearsal.put(document, "nothing", "new\n")
    fragment = re.search(r"<!-- class-values: begin -->\n```yaml\n(.*?)```", document, re.DOTALL)[1]
    assert yaml.safe_load(fragment)["singleuser"]["memory"].keys() == {"guarantee", "limit"}
