"""A learner who is simulated: speaks to JupyterHub as a browser does, through its HTTP and websocket interfaces."""

import asyncio
import contextlib
import json
import math
import time
import uuid
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from http.cookies import SimpleCookie
from typing import Any
from urllib.parse import quote, urlencode

from jupyter_server.services.kernels.connection.base import deserialize_binary_message
from tornado.httpclient import AsyncHTTPClient, HTTPRequest, HTTPResponse
from tornado.websocket import WebSocketClientConnection, websocket_connect

LAB = "learning-rate-lab"
PICTURE = "lab-front"
# Requests at the same time; tornado's own limit of ten would make a large class wait for itself.
MOST_REQUESTS = 1000
PATIENCE = 180.0  # seconds for one request, one start of a server, or one cell, on a machine that is busy


class Refused(RuntimeError):
    """The hub or a server answered with another status than the one that was hoped for.

    Attributes:
        status: the HTTP status.
    """

    def __init__(self, method: str, address: str, response: HTTPResponse):
        self.status = response.code
        words = (response.body or b"").decode("utf-8", "replace")[:300]
        super().__init__(f"{method} {address} answered {response.code} {response.reason}: {words}")


class CellFailed(RuntimeError):
    """A cell raised."""


@dataclass
class Learner:
    """One learner, with a name and the password of the class.

    Attributes:
        hub: the address of the JupyterHub, without a slash at the end.
        token: what the hub gave this learner at the login.
    """

    hub: str
    name: str
    password: str
    token: str = ""
    _cookies: dict[str, str] = field(default_factory=dict)

    async def _fetch(self, method: str, address: str, body: str | None, headers: dict[str, str]) -> HTTPResponse:
        request = HTTPRequest(
            address,
            method=method,
            body=body,
            headers=headers,
            follow_redirects=False,
            allow_nonstandard_methods=True,
            connect_timeout=PATIENCE,
            request_timeout=PATIENCE,
        )
        return await AsyncHTTPClient(max_clients=MOST_REQUESTS).fetch(request, raise_error=False)

    async def _browse(self, method: str, path: str, body: str | None = None, **headers: str) -> HTTPResponse:
        """Ask for a page of the hub as a browser does, with the cookies that it has given so far."""
        if self._cookies:
            headers["Cookie"] = "; ".join(f"{name}={value}" for name, value in self._cookies.items())
        response = await self._fetch(method, self.hub + path, body, headers)
        for line in response.headers.get_list("Set-Cookie"):
            for name, morsel in SimpleCookie(line).items():
                self._cookies[name] = morsel.value
        return response

    async def log_in(self) -> None:
        """Fill in the login form, then ask for a token.

        Raises:
            Refused: the password is wrong, or this learner is not on the list.
        """
        page = await self._browse("GET", "/hub/login")
        form = {"username": self.name, "password": self.password, "_xsrf": self._cookies.get("_xsrf", "")}
        answer = await self._browse("POST", "/hub/login", urlencode(form))
        if page.code != 200 or answer.code != 302:
            raise Refused("POST", "/hub/login", answer)
        await self._browse("GET", "/hub/home")
        forgery_guard = {"X-XSRFToken": self._cookies["_xsrf"], "Content-Type": "application/json"}
        answer = await self._browse("POST", f"/hub/api/users/{self.name}/tokens", "{}", **forgery_guard)
        if answer.code != 201:
            raise Refused("POST", "/hub/api/users/…/tokens", answer)
        self.token = json.loads(answer.body)["token"]

    async def ask(self, method: str, path: str, content: Any = None, *, hoped: tuple[int, ...] = (200, 201)) -> Any:
        """Ask the hub's or a server's interface, with the token; give what it answers, from JSON.

        Raises:
            Refused: the status is none of `hoped`.
        """
        body = None if content is None else json.dumps(content)
        response = await self._fetch(method, self.hub + path, body, {"Authorization": f"token {self.token}"})
        if response.code not in hoped:
            raise Refused(method, path, response)
        text = (response.body or b"").decode("utf-8")
        return json.loads(text) if "json" in response.headers.get("Content-Type", "") and text else text

    async def start_server(self) -> float:
        """Start this learner's server; give the seconds until it answers.

        Raises:
            Refused: the hub did not start it.
            TimeoutError: it did not answer in time.
        """
        began = time.monotonic()
        await self.ask("POST", f"/hub/api/users/{self.name}/server", hoped=(201, 202))
        async with asyncio.timeout(PATIENCE):
            while True:
                server = (await self.ask("GET", f"/hub/api/users/{self.name}"))["servers"].get("")
                if server is None:
                    raise RuntimeError(f"the server of {self.name} ended while it started: see its log")
                if server["ready"]:
                    return time.monotonic() - began
                await asyncio.sleep(0.1)

    def at_server(self, path: str, owner: str = "") -> str:
        """Give the path of something at this learner's server, or at another one's."""
        return f"/user/{owner or self.name}/api/{quote(path)}"

    async def read(self, path: str, owner: str = "") -> Any:
        """Read a file through a server's contents interface, this learner's or another one's.

        Raises:
            Refused: it is not there (404), or not for this learner (403).
        """
        return (await self.ask("GET", self.at_server(f"contents/{path}", owner)))["content"]

    async def write(self, path: str, text: str, owner: str = "") -> None:
        """Write a text file through a server's contents interface, this learner's or another one's.

        Raises:
            Refused: it is not for this learner (403).
        """
        file = {"type": "file", "format": "text", "content": text}
        await self.ask("PUT", self.at_server(f"contents/{path}", owner), file)

    async def open_kernel(self, notebook: str) -> "Kernel":
        """Open a notebook's session and connect to its kernel.

        Raises:
            Refused: the server did not start a kernel.
        """
        wanted = {"path": notebook, "name": notebook, "type": "notebook", "kernel": {"name": "python3"}}
        kernel_id = (await self.ask("POST", self.at_server("sessions"), wanted))["kernel"]["id"]
        return await self.connect(kernel_id)

    async def connect(self, kernel_id: str, owner: str = "") -> "Kernel":
        """Connect to a kernel that runs, this learner's or another one's.

        Raises:
            tornado.httpclient.HTTPClientError: the websocket was refused.
        """
        session = uuid.uuid4().hex
        path = self.at_server(f"kernels/{kernel_id}/channels", owner)
        request = HTTPRequest(
            f"{self.hub.replace('http', 'ws', 1)}{path}?session_id={session}",
            headers={"Authorization": f"token {self.token}"},
            connect_timeout=PATIENCE,
            request_timeout=PATIENCE,
        )
        return Kernel(kernel_id, session, await websocket_connect(request, max_message_size=2**30))


class Kernel:
    """A kernel at the other end of a websocket, and the widgets that live in it.

    Attributes:
        id: its number at the server.
        widgets: the state of each widget, by its number, as the kernel has told it.
    """

    def __init__(self, kernel_id: str, session: str, socket: WebSocketClientConnection):
        self.id = kernel_id
        self.widgets: dict[str, dict[str, Any]] = {}
        self._socket, self._session = socket, session
        self._listeners: list[Callable[[dict[str, Any]], None]] = []
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        while (frame := await self._socket.read_message()) is not None:
            message = deserialize_binary_message(frame) if isinstance(frame, bytes) else json.loads(frame)
            content = message["content"]
            if message["msg_type"] == "comm_open" and content["target_name"] == "jupyter.widget":
                self.widgets[content["comm_id"]] = dict(content["data"]["state"])
            elif message["msg_type"] == "comm_msg" and content["data"].get("method") == "update":
                self.widgets.get(content["comm_id"], {}).update(content["data"]["state"])
            for listener in list(self._listeners):
                listener(message)
        for listener in list(self._listeners):
            listener({"msg_type": "closed"})

    @contextlib.contextmanager
    def _listening(self, listener: Callable[[dict[str, Any]], None]) -> Iterator[None]:
        self._listeners.append(listener)
        try:
            yield
        finally:
            self._listeners.remove(listener)

    async def _send(self, number: str, msg_type: str, content: dict[str, Any]) -> None:
        header = {
            "msg_id": number,
            "msg_type": msg_type,
            "session": self._session,
            "username": "",
            "version": "5.4",
            "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        message = {"header": header, "parent_header": {}, "metadata": {}, "content": content, "channel": "shell"}
        await self._socket.write_message(json.dumps(message))

    async def run(self, code: str) -> str:
        """Run a cell; give what it printed.

        Raises:
            CellFailed: it raised; the message holds the cell's first line and the error.
            ConnectionError: the websocket was closed meanwhile.
            TimeoutError: it took longer than `PATIENCE` seconds.
        """
        printed: list[str] = []
        failed: list[str] = []
        # The reply comes on one channel and the output on another; the cell has ended when both have.
        awaited, ended, number = {"execute_reply", "idle"}, asyncio.Event(), uuid.uuid4().hex

        def listen(message: dict[str, Any]) -> None:
            kind = message["msg_type"]
            if kind == "closed":
                failed.append("closed")
                ended.set()
            elif message["parent_header"].get("msg_id") == number:
                content = message["content"]
                if kind == "stream" and content["name"] == "stdout":
                    printed.append(content["text"])
                elif kind == "error":
                    failed.append(f"{content['ename']}: {content['evalue']}")
                awaited.discard(content["execution_state"] if kind == "status" else kind)
                if not awaited:
                    ended.set()

        with self._listening(listen):
            request = {"code": code, "silent": False, "store_history": True, "allow_stdin": False}
            await self._send(number, "execute_request", {**request, "user_expressions": {}, "stop_on_error": True})
            async with asyncio.timeout(PATIENCE):
                await ended.wait()
        if failed == ["closed"]:
            raise ConnectionError("the kernel's websocket was closed while a cell ran")
        if failed:
            raise CellFailed(f"{code.strip().splitlines()[0]!r} … raised {failed[0]}")
        return "".join(printed)

    def find(self, model: str, css_class: str = "", inside: str | None = None) -> str:
        """Find a widget by its kind, its style and the widget that holds it; give its number.

        Raises:
            LookupError: there is none, or more than one.
        """
        known = self.widgets if inside is None else self._within(inside)
        found = [
            number
            for number, state in self.widgets.items()
            if number in known
            and state.get("_model_name") == model
            and (not css_class or css_class in state.get("_dom_classes", ()))
        ]
        if len(found) != 1:
            raise LookupError(f"{len(found)} widgets of the kind {model} {css_class!r} among {len(known)}")
        return found[0]

    def _within(self, number: str) -> set[str]:
        inside = {number}
        for child in self.widgets[number].get("children", ()):
            inside |= self._within(child.removeprefix("IPY_MODEL_"))
        return inside

    async def move(self, number: str, value: float, shows: Callable[[dict[str, Any]], bool]) -> float:
        """Move a slider as ipywidgets does, with a message; give the seconds until the picture that `shows` it is here.

        Args:
            number: the slider.
            value: where to.
            shows: told each update of any widget (comm_id and state); says whether this is the picture.

        Raises:
            ConnectionError: the websocket was closed meanwhile.
            TimeoutError: no such picture came within `PATIENCE` seconds.
        """
        seen, closed = asyncio.Event(), []

        def listen(message: dict[str, Any]) -> None:
            if message["msg_type"] == "closed":
                closed.append(True)
                seen.set()
            elif message["msg_type"] == "comm_msg" and message["content"]["data"].get("method") == "update":
                content = message["content"]
                if shows({"comm_id": content["comm_id"], "state": content["data"]["state"]}):
                    seen.set()

        with self._listening(listen):
            began = time.perf_counter()
            data = {"method": "update", "state": {"value": value}, "buffer_paths": []}
            await self._send(uuid.uuid4().hex, "comm_msg", {"comm_id": number, "data": data})
            async with asyncio.timeout(PATIENCE):
                await seen.wait()
        if closed:
            raise ConnectionError("the kernel's websocket was closed while the slider moved")
        return time.perf_counter() - began

    async def close(self) -> None:
        """Close the websocket; the kernel goes on, as it does when a browser's tab is closed."""
        self._socket.close()
        await self._reading


class LearningRateSlider:
    """The slider of lesson 02's learning-rate lab in a kernel that has run its cell."""

    def __init__(self, kernel: Kernel):
        self._kernel = kernel
        lab = kernel.find("VBoxModel", LAB)
        self._slider = kernel.find("FloatLogSliderModel", inside=lab)
        self._picture = kernel.find("HTMLModel", PICTURE, inside=lab)

    def elsewhere(self) -> list[float]:
        """Give the places of the handle but for the one where it is: a move to that one would change nothing."""
        state = self._kernel.widgets[self._slider]
        steps = round((state["max"] - state["min"]) / state["step"])
        places = [state["base"] ** (state["min"] + index * state["step"]) for index in range(steps + 1)]
        return [rate for rate in places if not math.isclose(rate, state["value"], rel_tol=0.01)]

    async def move(self, rate: float) -> float:
        """Move the handle to one of `elsewhere`; give the seconds until the picture shows this rate."""
        shown = f'data-shown="{rate:.4g}"'
        seconds = await self._kernel.move(
            self._slider,
            rate,
            lambda update: update["comm_id"] == self._picture and shown in update["state"].get("value", ""),
        )
        self._kernel.widgets[self._slider]["value"] = rate
        return seconds


async def together(jobs: list[Coroutine[Any, Any, Any]]) -> list[Any]:
    """Do jobs at the same time; give their results in order. The first error ends the others and is raised."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(job) for job in jobs]
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return [task.result() for task in tasks]
