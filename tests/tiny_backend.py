"""A build backend of a few lines, and the wheels it makes: installing them with the real pip takes a second.

The tests of `make setup` copy this file beside a small pyproject.toml. A file named `pause` makes the build wait, so
that a test can interrupt pip in the middle; `builds.log` gets a line for every build.
"""

import hashlib
import time
import tomllib
import zipfile
from base64 import urlsafe_b64encode
from pathlib import Path


def write_wheel(folder, name, version="1.0", requires=(), extras=None):
    """Write a wheel with one module in it; give its file name."""
    module = name.replace("-", "_")
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    lines += [f"Requires-Dist: {requirement}" for requirement in requires]
    for extra, wanted in (extras or {}).items():
        lines.append(f"Provides-Extra: {extra}")
        lines += [f'Requires-Dist: {requirement}; extra == "{extra}"' for requirement in wanted]
    info = f"{module}-{version}.dist-info"
    files = {
        f"{module}/__init__.py": f"version = {version!r}\n",
        f"{info}/METADATA": "\n".join(lines) + "\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: tiny\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = []
    for path, text in files.items():
        digest = urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        record.append(f"{path},sha256={digest},{len(text.encode())}")
    files[f"{info}/RECORD"] = "\n".join([*record, f"{info}/RECORD,,"]) + "\n"
    wheel = f"{module}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(Path(folder) / wheel, "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)
    return wheel


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    with open("builds.log", "a", encoding="utf-8") as log:
        log.write("build\n")
    while Path("pause").exists():
        time.sleep(0.05)
    project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
    requires, extras = project["dependencies"], project["optional-dependencies"]
    return write_wheel(wheel_directory, project["name"], project["version"], requires, extras)


build_editable = build_wheel
