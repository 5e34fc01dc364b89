"""`make lab`'s last step, tools/lab.py: the real JupyterLab, in the worst place that a learner may have for it."""

import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from venv import EnvBuilder

import lab
import psutil
import pytest
from tornado.httpclient import HTTPClientError, HTTPRequest
from tornado.websocket import websocket_connect

ROOT = Path(__file__).resolve().parents[1]
LESSON = "notebooks/00_start_here.ipynb"
# Runs in every Python that is started: the hook sees each name that is looked up and each connection that is made.
SITE = """\
import sys
def note(event, arguments, log=open({log!r}, "a", buffering=1)):
    if event in ("socket.getaddrinfo", "socket.gethostbyname"):
        log.write(f"looked up {{arguments[0]}}\\n")
    elif event == "socket.connect" and isinstance(arguments[1], tuple):
        log.write(f"connected to {{arguments[1][0]}}\\n")
sys.addaudithook(note)
"""
CELL = """\
import json, os, socket, sys
import course_utils, course_utils.plots, matplotlib
socket.create_connection(("127.0.0.1", {port})).close()
print(json.dumps({{
    "folder": os.getcwd(), "course_utils": course_utils.__file__, "prefix": sys.prefix,
    "ipython": get_ipython().ipython_dir, "matplotlib": matplotlib.get_configdir(),
}}))
"""

pytestmark = [
    pytest.mark.skipif(os.name == "nt", reason="processes, signals and modes of files are those of POSIX"),
    pytest.mark.timeout(300),  # a busy machine takes a minute to start the server and the kernel
]


@dataclass
class Running:
    """A JupyterLab that tools/lab.py started.

    Attributes:
        process: the process, which was tools/lab.py and has become JupyterLab.
        checkout: the folder of the course.
        port, page, token: what the printed address says.
        log: the file with all that was printed.
        asked: the file with what was asked of a network.
    """

    process: psutil.Process
    checkout: Path
    port: int
    page: str
    token: str
    log: Path
    asked: Path

    @property
    def home(self) -> Path:
        """The folder that replaces the home folder."""
        return self.checkout / ".venv" / "jupyter-home"

    def fetch(self, path: str, *, token: str | None = None, host: str | None = None, body: dict | None = None):
        """Ask the server; give the status and what it said."""
        headers = {"Authorization": f"token {token}"} if token else {}
        if host:
            headers["Host"] = host
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", data=data, headers=headers)
        try:
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30) as answer:
                return answer.status, answer.url, answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.url, error.read()

    def family(self) -> list[psutil.Process]:
        return [self.process, *self.process.children(recursive=True)]


def make_environment(checkout: Path) -> Path:
    """Make an environment in a checkout out of the packages that are installed here; give its Python."""
    venv = checkout / ".venv"
    EnvBuilder(symlinks=True, with_pip=False).create(venv)
    (site,) = venv.glob("lib/python3*/site-packages")
    here = [path for path in map(Path, sys.path) if path.name in ("site-packages", "dist-packages")]
    # The checkout comes first, as after an editable installation; paths are relative because Python reads this file in
    # the machine's own encoding.
    lines = [os.path.relpath(path, site) for path in (checkout, *here)]
    (site / "course.pth").write_text("\n".join(lines) + "\n", encoding="utf-8")
    for name in ("share", "etc"):  # JupyterLab's page, and which extensions its server has
        (venv / name).symlink_to(Path(sys.prefix) / name)
    return venv / "bin" / "python"


@pytest.fixture(scope="module")
def running(tmp_path_factory) -> Iterator[Running]:
    """One server for the module: blanks and Chinese in the path, a home that cannot be written in, a port taken."""
    folder = tmp_path_factory.mktemp("lab")
    checkout = folder / "训练 循环" / "course"
    for name in ("tools/lab.py", LESSON):
        (checkout / name).parent.mkdir(parents=True)
        shutil.copy(ROOT / name, checkout / name)
    shutil.copytree(ROOT / "course_utils", checkout / "course_utils", ignore=shutil.ignore_patterns("__pycache__"))
    python = make_environment(checkout)
    (folder / "a file").touch()
    (folder / "site").mkdir()
    asked = folder / "asked"
    (folder / "site" / "sitecustomize.py").write_text(SITE.format(log=str(asked)))
    own = ("JUPYTER", "IPYTHON", "MPL", "XDG_", "LC_", "LANG", "PYTHON")
    env = {name: value for name, value in os.environ.items() if not name.startswith(own)}
    env |= {"HOME": str(folder / "a file" / "home"), "PYTHONPATH": str(folder / "site"), "LC_ALL": "C"}
    log = folder / "log"
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # then another program has taken JupyterLab's first choice
            stack.enter_context(socket.create_server(("127.0.0.1", 8888)))
        output = stack.enter_context(log.open("w"))
        server = subprocess.Popen(
            [python, "tools/lab.py", "--no-browser"],
            cwd=checkout,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        stack.callback(end, server)
        deadline = time.monotonic() + 120
        while not (found := re.search(r"http://127\.0\.0\.1:(\d+)(/lab\S*)\?token=(\w+)", log.read_text("utf-8"))):
            assert server.poll() is None, log.read_text("utf-8")
            assert time.monotonic() < deadline, log.read_text("utf-8")
            time.sleep(0.1)
        yield Running(psutil.Process(server.pid), checkout, int(found[1]), found[2], found[3], log, asked)


def end(server: subprocess.Popen) -> None:
    """End a server and its kernels, and make sure that they are gone."""
    family = psutil.Process(server.pid).children(recursive=True)
    server.send_signal(signal.SIGTERM)
    try:
        server.wait(timeout=20)
    except subprocess.TimeoutExpired:  # a server that reads a file when it should end waits for that reader
        server.kill()
        server.wait()
    assert psutil.wait_procs(family, timeout=15)[1] == []


@pytest.fixture(scope="module")
def kernel(running) -> Iterator[dict[str, str]]:
    """A kernel of the lesson, started as JupyterLab's page starts it; what a cell in it says of its place."""
    body = {"path": LESSON, "name": "", "type": "notebook", "kernel": {"name": "python3"}}
    status, _, said = running.fetch("/api/sessions", token=running.token, body=body)
    assert status == 201, said
    channels = f"ws://127.0.0.1:{running.port}/api/kernels/{json.loads(said)['kernel']['id']}/channels"
    printed = run_cell(channels, running.token, CELL.format(port=running.port))
    return json.loads(printed["stdout"]) | {"complaints": printed["stderr"], "channels": channels}


def run_cell(channels: str, token: str, code: str) -> dict[str, str]:
    """Run code in a kernel through its websocket, and give what it printed."""
    with ThreadPoolExecutor(1) as apart:  # in the first thread Playwright may run a loop of its own
        return apart.submit(asyncio.run, _run_cell(channels, token, code)).result(90)


async def _run_cell(channels: str, token: str, code: str) -> dict[str, str]:
    socket = await websocket_connect(HTTPRequest(channels, headers={"Authorization": f"token {token}"}))
    header = {"msg_id": "the-cell", "msg_type": "execute_request", "session": "", "username": "", "version": "5.3"}
    content = {"code": code, "silent": False, "store_history": False, "allow_stdin": False, "user_expressions": {}}
    message = {"header": header, "parent_header": {}, "metadata": {}, "content": content, "channel": "shell"}
    await socket.write_message(json.dumps(message))
    printed = {"stdout": "", "stderr": ""}
    while True:
        said = json.loads(await socket.read_message())
        if said["parent_header"].get("msg_id") != "the-cell":
            continue
        assert said["msg_type"] != "error", "\n".join(said["content"]["traceback"])
        if said["msg_type"] == "stream":
            printed[said["content"]["name"]] += said["content"]["text"]
        if said["msg_type"] == "status" and said["content"]["execution_state"] == "idle":
            break
    socket.close()
    while await socket.read_message() is not None:  # until the server has closed it too
        pass
    return printed


@pytest.mark.usefixtures("kernel")
def test_the_server_and_its_kernel_listen_on_this_machine_alone(running):
    listening = [
        tuple(connection.laddr)
        for process in running.family()
        for connection in process.net_connections(kind="inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert ("127.0.0.1", running.port) in listening
    assert len(listening) > 1, "the kernel's ports are to be looked at too"
    assert {address for address, _ in listening} == {"127.0.0.1"}


def test_no_other_address_of_this_machine_answers(running):
    others = {("127.0.0.2", socket.AF_INET)} if sys.platform == "linux" else set()
    for addresses in psutil.net_if_addrs().values():
        for address in addresses:
            kept = address.family in (socket.AF_INET, socket.AF_INET6) and "%" not in address.address
            if kept and address.address != "127.0.0.1":
                others.add((address.address, address.family))
    assert others, "this machine has no other address to try"
    for address, family in others:
        with socket.socket(family) as probe:
            probe.settimeout(10)
            assert probe.connect_ex((address, running.port)) != 0, f"{address} answers"


def test_nothing_is_shown_or_done_without_the_token(running):
    assert len(running.token) >= 32
    body = {"path": LESSON, "name": "", "type": "notebook", "kernel": {"name": "python3"}}
    for wrong in (None, running.token[:-1], running.token + "0", running.token.upper()):
        for path in ("/api/contents", f"/api/contents/{LESSON}", "/api/kernels", "/api/sessions", "/api/terminals"):
            assert running.fetch(path, token=wrong)[0] == 403, path
        assert running.fetch("/api/sessions", token=wrong, body=body)[0] == 403
        assert "/login?" in running.fetch(running.page, token=wrong)[1]
    assert running.fetch(f"/files/{LESSON}")[1].partition("?")[0].endswith("/login")
    assert all(running.token not in word for process in running.family() for word in process.cmdline())


def test_nobody_without_the_token_can_talk_to_a_kernel(running, kernel):
    for wrong in ("", running.token[:-1]):
        with pytest.raises(HTTPClientError, match="403"):
            run_cell(kernel["channels"], wrong, "1")


def test_a_page_of_another_name_cannot_ask_even_with_the_token(running):
    # A hostile page may let its own name point at 127.0.0.1; the browser then says that name.
    status, _, said = running.fetch("/api/contents", token=running.token, host="evil.example")
    assert status == 403
    assert running.token.encode() not in said


def test_with_the_token_the_first_lesson_opens(running):
    assert running.page == f"/lab/tree/{LESSON}"
    status, address, page = running.fetch(running.page, token=running.token)
    assert (status, "/login" in address) == (200, False)
    assert b"jupyter-config-data" in page
    status, _, said = running.fetch(f"/api/contents/{LESSON}", token=running.token)
    assert status == 200
    assert json.loads(said)["content"]["cells"]


def test_a_taken_port_gives_way_to_the_next_one(running):
    assert 8888 < running.port < 65536


def test_a_cell_runs_in_a_folder_with_blanks_and_chinese_characters(running, kernel):
    assert kernel["folder"] == str(running.checkout / "notebooks")
    assert kernel["course_utils"] == str(running.checkout / "course_utils" / "__init__.py")
    assert kernel["prefix"] == str(running.checkout / ".venv")


def test_a_home_that_cannot_be_written_in_is_reported_in_one_sentence_and_replaced(running, kernel):
    lines = running.log.read_text(encoding="utf-8").splitlines()
    home = running.log.parent / "a file" / "home"
    assert lines[:2] == [
        f"{home / '.jupyter'} cannot be written in: JupyterLab keeps its settings in {running.home} instead.",
        "JupyterLab is starting; Ctrl-C stops it.",
    ]
    assert kernel["ipython"] == str(running.home / "ipythondir")
    assert kernel["matplotlib"] == str(running.home / "mplconfigdir")
    assert kernel["complaints"] == ""
    before_the_address = "\n".join(lines).partition("To access the server")[0]
    assert not re.search(r"Traceback|Error|Warning|\[[WE] ", before_the_address)
    # JupyterLab's settings are really kept there.
    body = {"raw": "{}"}
    request = urllib.request.Request(
        f"http://127.0.0.1:{running.port}/lab/api/settings/@jupyterlab/apputils-extension:themes",
        data=json.dumps(body).encode(),
        headers={"Authorization": f"token {running.token}"},
        method="PUT",
    )
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30) as answer:
        assert answer.status == 204
    assert list((running.home / "jupyter_config_dir").rglob("themes.jupyterlab-settings"))


@pytest.mark.usefixtures("kernel")
def test_the_secrets_on_the_disk_are_for_this_user_alone(running):
    runtime = running.home / "jupyter_runtime_dir"
    names = {path.name for path in runtime.iterdir()}
    assert f"jpserver-{running.process.pid}.json" in names
    assert any(name.startswith("kernel-") for name in names)
    assert [folder for folder in (running.home, runtime) if folder.stat().st_mode & 0o077] == []


@pytest.mark.usefixtures("kernel")
def test_nothing_is_asked_of_a_network(running):
    asked = set(running.asked.read_text(encoding="utf-8").splitlines())
    assert "connected to 127.0.0.1" in asked, "the hook saw not even the cell's own connection"
    here = {"localhost", "127.0.0.1", "::1", "0.0.0.0", "::", "None", socket.gethostname()}
    assert {line for line in asked if line.split()[-1] not in here} == set()


# What it does before it starts anything.


@pytest.fixture
def homeless(tmp_path, monkeypatch):
    """A home below a file, and an environment's folder that is there."""
    for name in (
        "JUPYTER_CONFIG_DIR",
        "JUPYTER_DATA_DIR",
        "JUPYTER_RUNTIME_DIR",
        "IPYTHONDIR",
        "MPLCONFIGDIR",
        "JUPYTER_PLATFORM_DIRS",
        "JUPYTER_NO_CONFIG",
        "XDG_DATA_HOME",
    ):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "a file").touch()
    monkeypatch.setenv("HOME", str(tmp_path / "a file" / "home"))
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "environment"))
    return tmp_path


def test_where_the_home_can_be_written_in_nothing_moves(homeless, monkeypatch):
    monkeypatch.setenv("HOME", str(homeless / "home"))
    assert lab.replacement_folders() == ({}, "")


def test_only_what_cannot_be_written_moves(homeless, monkeypatch):
    monkeypatch.setenv("HOME", str(homeless / "home"))
    monkeypatch.setenv("IPYTHONDIR", str(homeless / "a file" / "ipython"))
    variables, sentence = lab.replacement_folders()
    assert variables == {"IPYTHONDIR": str(homeless / "environment" / "jupyter-home" / "ipythondir")}
    assert sentence.startswith(f"{homeless / 'a file' / 'ipython'} cannot be written in: ")


def test_a_user_without_any_home_gets_one(homeless, monkeypatch):
    def unknown(user: object) -> None:
        raise KeyError(f"uid not found: {user}")

    pwd = pytest.importorskip("pwd")
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    variables, sentence = lab.replacement_folders()
    home = homeless / "environment" / "jupyter-home"
    assert variables == {"HOME": str(home)}
    assert sentence == f"This user has no home folder: JupyterLab keeps its settings in {home} instead."
    monkeypatch.setenv("HOME", variables["HOME"])
    assert lab.replacement_folders() == ({}, "")
    assert all(home in (folder, *folder.parents) for folder in lab.places().values())


def test_where_the_environment_cannot_be_written_in_either_a_temporary_folder_serves(homeless, monkeypatch):
    monkeypatch.setattr(sys, "prefix", str(homeless / "a file" / "environment"))
    variables, sentence = lab.replacement_folders()
    folders = {Path(folder).parent for folder in variables.values()}
    assert len(folders) == 1
    (own,) = folders
    try:
        assert sentence.endswith(f" keeps its settings in {own} instead.")
        assert set(variables) == lab.places().keys()
        assert [path for path in (own, *own.iterdir()) if path.stat().st_mode & 0o077] == []
    finally:
        shutil.rmtree(own)


def started(monkeypatch, capsys, *arguments: str) -> tuple[list[str], str]:
    """What main would become, and what it says before."""
    became = []
    monkeypatch.setattr(os, "execv", lambda program, command: became.extend(command))
    monkeypatch.setattr(os, "chdir", lambda folder: None)
    monkeypatch.setattr(sys, "argv", ["lab.py", *arguments])
    monkeypatch.setenv("PATH", os.environ["PATH"])
    lab.main()
    return became, capsys.readouterr().out


def test_a_course_that_cannot_be_written_in_starts_and_says_what_that_means(homeless, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(homeless / "home"))
    monkeypatch.setattr(lab, "ROOT", homeless / "a file" / "course")
    became, said = started(monkeypatch, capsys, "--no-browser")
    assert said == (
        f"{lab.ROOT} cannot be written in: lessons run, but neither they nor your answers can be saved.\n"
        "JupyterLab is starting; Ctrl-C stops it.\n"
    )
    assert f"--ServerApp.root_dir={lab.ROOT}" in became


def test_a_python_without_jupyterlab_is_reported(monkeypatch, capsys):
    monkeypatch.setattr(lab.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match=r"has no JupyterLab\. Start with `make lab`, which installs what is missing"):
        started(monkeypatch, capsys)


def test_it_asks_nobody_for_news_or_newer_versions():
    options = lab.command(None)
    assert "--LabApp.news_url=None" in options
    assert "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate" in options
