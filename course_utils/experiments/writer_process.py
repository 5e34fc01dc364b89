"""A `SummaryWriter` in a separate process, so that it can really be killed while points are waiting."""

import contextlib
import multiprocessing
import signal
import tempfile
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from course_utils.experiments.event_files import EventFile, event_paths, read_file

TAG = "loss"


class WriterProcess:
    """A real process with a real `SummaryWriter`, controlled through a pipe.

    Each command returns at once; `messages` returns later what the process has reported. PyTorch is imported once, in
    a process that is forked for each new writer; on Windows each writer imports it again.

    Args:
        folder: the writer's folder.
        max_queue: how many records may wait, as in `SummaryWriter`.
    """

    def __init__(self, folder: str | Path, *, max_queue: int = 10):
        methods = multiprocessing.get_all_start_methods()
        context: Any = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
        if "forkserver" in methods:
            # Once the fork server is running, this changes nothing.
            context.set_forkserver_preload([__name__, "torch.utils.tensorboard"])
        self._pipe, other = context.Pipe()
        self._send_lock, self._receive_lock = threading.Lock(), threading.Lock()
        # A daemon: when the notebook's kernel ends normally, it ends this process instead of waiting for it.
        self._process = context.Process(target=_serve, args=(other, str(folder), max_queue), daemon=True)
        self._process.start()
        other.close()

    def add(self, steps: range) -> None:
        """Add one point per step; the process reports ("added", step) after each."""
        self._send("add", steps)

    def flush(self) -> None:
        """Call `writer.flush()`; the process reports ("done", "flush") when it has returned."""
        self._send("flush", None)

    def close(self) -> None:
        """Call `writer.close()`; the process reports ("done", "close") when it has returned."""
        self._send("close", None)

    def slow_disk(self, seconds: float) -> None:
        """Make the writing of each record take so long, as on a slow network drive."""
        self._send("slow_disk", seconds)

    def _send(self, command: str, argument: object) -> None:
        with self._send_lock:
            try:
                self._pipe.send((command, argument))
            except OSError as error:
                raise RuntimeError(f"the writer's process has ended, so it cannot {command}: start another") from error

    def messages(self, timeout: float = 0.0) -> list[tuple[str, Any]]:
        """Return what the process has reported since the last call; wait up to `timeout` seconds for the first message.

        Returns:
            ("ready", None), ("added", step), ("done", command), or ("failed", the error that it raised).
        """
        received: list[tuple[str, Any]] = []
        with self._receive_lock, contextlib.suppress(EOFError, OSError):  # the process has ended: this was all
            while self._pipe.poll(0.0 if received else timeout):
                received.append(self._pipe.recv())
        return received

    @property
    def alive(self) -> bool:
        """Whether the process is running."""
        return self._process.is_alive()

    def kill(self) -> None:
        """Kill the process (SIGKILL), and wait until it is gone."""
        self._process.kill()
        self._process.join()


class WriterSession:
    """A temporary folder, the process whose writer fills it, and what became of each point.

    Attributes:
        process: the process of the present writer.
        folder: the folder of the event files.
        files: the event files as TensorBoard's reader found them at the last `poll`.
        added: how many points `add_scalar` has taken; their steps count from 0.
        lost: the steps of the points that a crash lost.
        pending: the commands that the process has not answered yet.
        failed: whether the writer's own thread has died, so that waiting points will wait forever.
    """

    def __init__(self, *, max_queue: int = 10):
        self._temporary = tempfile.TemporaryDirectory(prefix="writer-lab-", ignore_cleanup_errors=True)
        self._max_queue = max_queue
        self.folder = Path(self._temporary.name)
        self.files: list[EventFile] = []
        self.added, self.lost = 0, set[int]()
        self._next_step = 0
        self._start()

    def _start(self) -> None:
        self.process = WriterProcess(self.folder, max_queue=self._max_queue)
        self.pending, self.failed = ["ready"], False

    @property
    def on_disk(self) -> set[int]:
        """The steps that TensorBoard's reader finds."""
        return {step for file in self.files for step, _ in file.scalars.get(TAG, [])}

    @property
    def waiting(self) -> int:
        """The number of points that were added and are neither on disk nor lost."""
        return self.added - len(self.on_disk) - len(self.lost)

    @property
    def settled(self) -> bool:
        """Whether nothing more will happen without a new command."""
        return self.failed or (not self.pending and self.waiting == 0)

    def add(self, count: int) -> None:
        """Add so many points."""
        self.process.add(range(self._next_step, self._next_step + count))
        self.pending.append("add")
        self._next_step += count

    def flush(self) -> None:
        """Call `writer.flush()`."""
        self.process.flush()
        self.pending.append("flush")

    def close_writer(self) -> None:
        """Call `writer.close()`; the next point opens another file."""
        self.process.close()
        self.pending.append("close")

    def slow_disk(self, seconds: float) -> None:
        """Make the writing of each record take so long."""
        self.process.slow_disk(seconds)
        self.pending.append("slow_disk")

    def poll(self) -> list[str]:
        """Read the process's messages and the files, and return the commands that were answered.

        Raises:
            RuntimeError: the writer raised an error.
        """
        answered = []
        for kind, detail in self.process.messages():
            if kind == "added":
                self.added = detail + 1
            elif kind == "failed":
                self.pending.pop(0)
                self.failed = True
                raise RuntimeError(f"the writer's process raised {detail}: press 'start over'")
            else:
                answered.append("ready" if kind == "ready" else detail)
                self.pending.remove(answered[-1])
        known = {file.path: file for file in self.files}
        self.files = []
        for path in event_paths(self.folder):
            before = known.get(path)
            unchanged = before is not None and before.size == path.stat().st_size and not before.trouble
            self.files.append(before if before is not None and unchanged else read_file(path))
        return answered

    def crash(self) -> set[int]:
        """Kill the process, start another one in the same folder, and return the steps of the points that were lost."""
        self.process.kill()
        self.poll()
        lost = set(range(self.added)) - self.on_disk - self.lost
        self.lost |= lost
        self._next_step = self.added  # calls that the killed process had not made yet were never made
        self._start()
        return lost

    def end(self) -> None:
        """Kill the process and delete the folder."""
        self.process.kill()
        self._temporary.cleanup()


def _serve(pipe: Connection, folder: str, max_queue: int) -> None:
    """Own a writer and execute the commands from the pipe until it closes."""
    # JupyterLab's "interrupt the kernel" signals all processes of the kernel; this one is ended by the lab's button.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    from tensorboard.summary.writer.record_writer import RecordWriter
    from torch.utils.tensorboard import SummaryWriter

    delay, write = 0.0, RecordWriter.write

    def write_slowly(records: RecordWriter, record: bytes) -> None:
        time.sleep(delay)
        write(records, record)

    RecordWriter.write = write_slowly
    writer = SummaryWriter(folder, max_queue=max_queue)
    commands: dict[str, Callable[[], None]] = {"flush": writer.flush, "close": writer.close}
    pipe.send(("ready", None))
    while True:
        try:
            command, argument = pipe.recv()
            if command == "add":
                for step in argument:
                    writer.add_scalar(TAG, 1.0 / (step + 1), step)
                    pipe.send(("added", step))
            elif command == "slow_disk":
                delay = argument
            else:
                commands[command]()
            pipe.send(("done", command))
        except (EOFError, BrokenPipeError, ConnectionResetError):
            return  # the controlling process is gone
        except Exception as error:
            pipe.send(("failed", f"{type(error).__name__}: {error}"))
