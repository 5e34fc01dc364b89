"""JupyterHub for a class on one machine, without root and without an account for each learner.

tools/classroom.py starts it in the class's folder and passes in COURSE_CLASS what differs between classes.

It is for trying things out, and for people who trust each other: all servers run as the same user of the system, so a
learner who looks for another's files finds them, and anyone who knows the password can log in under any learner's name.
docs/class.md describes what a class of strangers needs instead.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import psutil
from jupyterhub.spawner import SimpleLocalProcessSpawner

ROOT = Path(__file__).resolve().parent.parent
FOLDER = Path.cwd()
HERE = "127.0.0.1"
CLASS = json.loads(os.environ["COURSE_CLASS"])

# Processes that compute at the same time must not compete for the cores: each gets its share, and at least one.
THREADS = max(1, (os.cpu_count() or 1) // len(CLASS["learners"]))


def hand_out(lessons, home):
    """Copy the lessons that the learner does not have yet; existing ones are the learner's own work and stay."""
    folder = home / "notebooks"
    folder.mkdir(parents=True, exist_ok=True)
    home.chmod(0o700)
    for lesson in sorted(lessons.glob("*.ipynb")):
        if not (folder / lesson.name).exists():
            # Atomically: a copy that was cut off would count as the learner's work from then on.
            scratch = folder / f".{lesson.name}.part"
            shutil.copy(lesson, scratch)
            os.replace(scratch, folder / lesson.name)


class LearnerSpawner(SimpleLocalProcessSpawner):
    """Starts a learner's server in the learner's own home folder, with its own copy of the lessons and its own log."""

    async def start(self):
        """Hand out the lessons, then start the server; return its address and port."""
        hand_out(ROOT / "notebooks", Path(self.home_dir))
        logs = FOLDER / "logs"
        logs.mkdir(exist_ok=True)
        # Not to the terminal: a server that outlives a killed hub would die when the terminal closes.
        with (logs / f"{self.user.name}.log").open("w") as log:
            self.popen_kwargs = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": subprocess.STDOUT}
            return await super().start()

    def load_state(self, state):
        """Reconnect to a server that outlived the hub, but only if its process ID still belongs to that server.

        After a restart of the machine another program may have this ID, and the hub would end that program.
        """
        super().load_state(state)
        try:
            theirs = self.pid and psutil.Process(self.pid).environ().get("JUPYTERHUB_USER") == self.user.name
        except psutil.Error:
            theirs = False
        if not theirs:
            self.pid = 0


# Only this machine can reach any of it; hub, proxy and servers reach each other here too.
c = get_config()  # noqa: F821  JupyterHub brings it
c.JupyterHub.bind_url = f"http://{HERE}:{CLASS['port']}"
c.ConfigurableHTTPProxy.api_url = f"http://{HERE}:{CLASS['port'] + 1}"
c.JupyterHub.hub_bind_url = f"http://{HERE}:{CLASS['port'] + 2}"
c.Spawner.ip = HERE
c.ConfigurableHTTPProxy.command = CLASS["proxy"]
c.ConfigurableHTTPProxy.log_level = "warn"
c.JupyterHub.log_level = "WARN"
# The class's folder is the working folder: it holds the database, the cookies' secret and these two files.
c.JupyterHub.pid_file = "hub.pid"
c.ConfigurableHTTPProxy.pid_file = "proxy.pid"

# The learners on the list, with the class's one password; nobody has rights over others.
c.JupyterHub.authenticator_class = "shared-password"
c.SharedPasswordAuthenticator.user_password = (FOLDER / "password").read_text(encoding="utf-8").strip()
c.Authenticator.allowed_users = set(CLASS["learners"])
# Learners of an earlier list that are not on this one cannot log in.
c.Authenticator.allow_existing_users = False

c.JupyterHub.spawner_class = LearnerSpawner
# Braces in the folder's own name are not placeholders.
c.SimpleLocalProcessSpawner.home_dir_template = (
    str(FOLDER / "homes").replace("{", "{{").replace("}", "}}") + "/{username}"
)
c.Spawner.notebook_dir = "~"
c.Spawner.default_url = "/lab/tree/notebooks/00_start_here.ipynb"
c.Spawner.cmd = [sys.executable, "-m", "jupyterhub.singleuser"]
c.Spawner.environment = {
    "OMP_NUM_THREADS": str(THREADS),
    "COURSE_LEARNER_DIR": lambda spawner: str(Path(spawner.home_dir) / "learner"),
}
# A class begins with all servers at once, on few cores.
c.Spawner.start_timeout = c.Spawner.http_timeout = 180

c.Spawner.args = [
    # An idle kernel without a viewer ends after this time, and then its server does.
    f"--MappingKernelManager.cull_idle_timeout={CLASS['idle_seconds']}",
    f"--MappingKernelManager.cull_interval={max(1, min(300, CLASS['idle_seconds'] // 4))}",
    f"--ServerApp.shutdown_no_activity_timeout={CLASS['idle_seconds']}",
    # No request leaves the machine, neither for news nor for newer versions.
    "--LabApp.news_url=None",
    "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
    "--ServerApp.log_level=WARN",
    "--LabApp.log_level=WARN",
]
if os.geteuid() == 0:
    # Jupyter asks for this; tools/classroom.py has warned the person who started the class.
    c.Spawner.args.append("--allow-root")
