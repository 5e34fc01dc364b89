"""Run JupyterLab until it ends or standard input closes, so that no server outlives the program that started it.

A program that is killed cannot clean up, but the operating system closes its pipes.
"""

import subprocess
import sys
import threading


def main() -> int:
    """Run JupyterLab with the arguments of this program and return its exit status."""
    server = subprocess.Popen([sys.executable, "-m", "jupyterlab", *sys.argv[1:]], stdin=subprocess.DEVNULL)

    def end_with_the_pipe() -> None:
        sys.stdin.buffer.read()
        # After a SIGTERM the server shuts its kernels down before it exits.
        server.terminate()
        try:
            server.wait(timeout=15)
        except subprocess.TimeoutExpired:
            server.kill()

    threading.Thread(target=end_with_the_pipe, daemon=True).start()
    return server.wait()


if __name__ == "__main__":
    sys.exit(main())
