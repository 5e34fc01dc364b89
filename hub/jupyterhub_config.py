"""JupyterHub for a class on one machine, without root and without an account for each learner.

tools/classroom.py starts it, in the class's folder, and hands over in COURSE_CLASS what differs between classes.

It is made for a rehearsal, and for people who trust each other: all servers run as the same user of the system, so a
learner who looks for another one's files finds them, and who knows the password can log in under any learner's name.
docs/class.md says what a class of strangers needs instead.
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

# Processes that compute at the same time must not fight for the cores: each gets its share, and at least one.
THREADS = max(1, (os.cpu_count() or 1) // len(CLASS["learners"]))


def hand_out(lessons, home):
    """Copy the lessons that the learner has not got; what is there, the learner's own work, stays as it is."""
    folder = home / "notebooks"
    folder.mkdir(parents=True, exist_ok=True)
    home.chmod(0o700)
    for lesson in sorted(lessons.glob("*.ipynb")):
        if not (folder / lesson.name).exists():
            # In one move: a copy that was cut off would count as the learner's work for ever.
            scratch = folder / f".{lesson.name}.part"
            shutil.copy(lesson, scratch)
            os.replace(scratch, folder / lesson.name)


class LearnerSpawner(SimpleLocalProcessSpawner):
    """Starts a learner's server in a home folder of its own, with an own copy of the lessons and an own log."""

    async def start(self):
        """Hand out the lessons, then start the server; give its address and port."""
        hand_out(ROOT / "notebooks", Path(self.home_dir))
        logs = FOLDER / "logs"
        logs.mkdir(exist_ok=True)
        # Not to the terminal: a server that outlives a killed hub would die of a closed one.
        with (logs / f"{self.user.name}.log").open("w") as log:
            self.popen_kwargs = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": subprocess.STDOUT}
            return await super().start()

    def load_state(self, state):
        """Take up a server that outlived the hub, but only if its number still belongs to that learner's server.

        After a restart of the machine the number may be another program's, and the hub would end that one.
        """
        super().load_state(state)
        try:
            theirs = self.pid and psutil.Process(self.pid).environ().get("JUPYTERHUB_USER") == self.user.name
        except psutil.Error:
            theirs = False
        if not theirs:
            self.pid = 0


# Only this machine can reach any of it. Hub, proxy and servers speak to each other here too.
c = get_config()  # noqa: F821  JupyterHub brings it
c.JupyterHub.bind_url = f"http://{HERE}:{CLASS['port']}"
c.ConfigurableHTTPProxy.api_url = f"http://{HERE}:{CLASS['port'] + 1}"
c.JupyterHub.hub_bind_url = f"http://{HERE}:{CLASS['port'] + 2}"
c.Spawner.ip = HERE
c.ConfigurableHTTPProxy.command = CLASS["proxy"]
c.ConfigurableHTTPProxy.log_level = "warn"
c.JupyterHub.log_level = "WARN"
# The class's folder is the working folder: the database, the cookies' secret and these two lie there.
c.JupyterHub.pid_file = "hub.pid"
c.ConfigurableHTTPProxy.pid_file = "proxy.pid"

# The learners on the list, with the one password of the class; nobody has rights over others.
c.JupyterHub.authenticator_class = "shared-password"
c.SharedPasswordAuthenticator.user_password = (FOLDER / "password").read_text(encoding="utf-8").strip()
c.Authenticator.allowed_users = set(CLASS["learners"])
# Who was on an earlier list and is not on this one stays outside.
c.Authenticator.allow_existing_users = False

c.JupyterHub.spawner_class = LearnerSpawner
# Braces in the folder's own name are no places to fill in.
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
    # A kernel that nobody looks at and that computes nothing ends after this time, and then its server does.
    f"--MappingKernelManager.cull_idle_timeout={CLASS['idle_seconds']}",
    f"--MappingKernelManager.cull_interval={max(1, min(300, CLASS['idle_seconds'] // 4))}",
    f"--ServerApp.shutdown_no_activity_timeout={CLASS['idle_seconds']}",
    # No request leaves the machine: neither for news nor for newer versions.
    "--LabApp.news_url=None",
    "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
    "--ServerApp.log_level=WARN",
    "--LabApp.log_level=WARN",
]
if os.geteuid() == 0:
    # Jupyter's own question; tools/classroom.py has told the person who started this what it means.
    c.Spawner.args.append("--allow-root")
