"""A process of its own that owns a `SummaryWriter`, so that it can really be killed while points are waiting."""

import contextlib
import multiprocessing
import signal
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

TAG = "loss"


class WriterProcess:
    """A real process with a real `SummaryWriter`, told what to do through a pipe and killed at will.

    Each command returns at once; `said` tells later what the process has said. PyTorch is imported once, in a
    process that is forked for each new writer; on Windows each writer imports it again.

    Args:
        folder: the writer's folder.
        max_queue: how many records may wait, as in `SummaryWriter`.
    """

    def __init__(self, folder: str | Path, *, max_queue: int = 10):
        methods = multiprocessing.get_all_start_methods()
        context = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
        if "forkserver" in methods:
            # Once the server of forks runs, this changes nothing.
            context.set_forkserver_preload([__name__, "torch.utils.tensorboard"])
        self._pipe, other = context.Pipe()
        self._sending, self._hearing = threading.Lock(), threading.Lock()
        # A daemon: when the notebook's kernel ends in good order, it ends this process instead of waiting for it.
        self._process = context.Process(target=_own, args=(other, str(folder), max_queue), daemon=True)
        self._process.start()
        other.close()

    def add(self, steps: range) -> None:
        """Have one point added for each step; the process says ("added", step) after each."""
        self._send("add", steps)

    def flush(self) -> None:
        """Have `writer.flush()` called; the process says ("done", "flush") when it has returned."""
        self._send("flush", None)

    def close(self) -> None:
        """Have `writer.close()` called; the process says ("done", "close") when it has returned."""
        self._send("close", None)

    def slow_disk(self, seconds: float) -> None:
        """Let each record take so long to write, as on a slow network drive."""
        self._send("slow_disk", seconds)

    def _send(self, command: str, argument: object) -> None:
        with self._sending:
            try:
                self._pipe.send((command, argument))
            except OSError as error:
                raise RuntimeError(f"the writer's process has ended, so it cannot {command}: start another") from error

    def said(self, timeout: float = 0.0) -> list[tuple[str, object]]:
        """What the process has said since the last call, waiting up to `timeout` seconds for the first word.

        Returns:
            ("ready", None), ("added", step), ("done", command), or ("failed", what it raised).
        """
        words = []
        with self._hearing, contextlib.suppress(EOFError, OSError):  # the process has ended, and this was all
            while self._pipe.poll(0.0 if words else timeout):
                words.append(self._pipe.recv())
        return words

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process.is_alive()

    def kill(self) -> None:
        """End the process at once, without a last word (SIGKILL), and wait until it is gone."""
        self._process.kill()
        self._process.join()


def _own(pipe: Connection, folder: str, max_queue: int) -> None:
    """Own a writer and do what comes through the pipe, until the pipe closes."""
    # JupyterLab's square button signals all processes of the kernel; this one ends by its own button.
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
            return  # whoever gave the commands is gone
        except Exception as error:
            pipe.send(("failed", f"{type(error).__name__}: {error}"))
