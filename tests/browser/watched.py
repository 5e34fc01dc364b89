"""Run JupyterLab until it ends, or until whoever started this closes the pipe: then nothing is left behind.

A test run that is killed cannot clean up, but the system closes its pipes.
"""

import subprocess
import sys
import threading


def main() -> int:
    server = subprocess.Popen([sys.executable, "-m", "jupyterlab", *sys.argv[1:]], stdin=subprocess.DEVNULL)

    def end_with_the_pipe() -> None:
        sys.stdin.buffer.read()
        # Asked kindly, the server ends its kernels first.
        server.terminate()
        try:
            server.wait(timeout=15)
        except subprocess.TimeoutExpired:
            server.kill()

    threading.Thread(target=end_with_the_pipe, daemon=True).start()
    return server.wait()


if __name__ == "__main__":
    sys.exit(main())
