"""What the machine has, and the advice for what it lacks."""

import importlib.metadata
import tempfile

import pytest
import torch

from course_utils.learner import machine


def named(name):
    return next(point for point in machine.look() if point.name == name)


def pretend(monkeypatch, **versions):
    """Give some packages another version, or None for a package that is not installed."""
    real = importlib.metadata.version

    def version(name):
        found = versions.get(name.replace("-", "_"), "")
        if found is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return found or real(name)

    monkeypatch.setattr(machine.importlib.metadata, "version", version)


def test_this_machine_passes_and_every_package_is_checked():
    points = machine.look()
    assert [point for point in points if not point.ok] == []
    names = [point.name for point in points]
    assert {"Python", "torch", "scikit-learn", "ipywidgets", "tensorboard", "device"} <= set(names)
    assert not {"pytest", "lightning"} & set(names)
    assert len(names) == len(set(names))
    assert named("torch").found == importlib.metadata.version("torch")


def test_a_missing_package_is_reported_with_the_command(monkeypatch):
    pretend(monkeypatch, ipywidgets=None)
    point = named("ipywidgets")
    assert (point.ok, point.found) == (False, "not installed")
    assert "make lab" in point.advice


@pytest.mark.parametrize(("version", "ok"), [("2.10.1", False), ("1.13", False), ("2.11.0+cpu", True), ("3.0", True)])
def test_an_old_package_is_reported_with_its_version(monkeypatch, version, ok):
    pretend(monkeypatch, torch=version)
    point = named("torch")
    assert (point.ok, point.found) == (ok, version)
    assert ("Version 2.11 or newer is needed." in point.advice) is not ok


def test_an_old_python_is_reported(monkeypatch):
    monkeypatch.setattr(machine.sys, "version_info", (3, 10, 4, "final", 0))
    point = named("Python")
    assert not point.ok
    assert "Install Python 3.11 or newer." in point.advice


def test_a_course_that_is_not_installed_is_reported_once(monkeypatch):
    monkeypatch.setattr(machine, "DISTRIBUTION", "no-such-course")
    points = machine.look()
    assert [point.name for point in points if not point.ok] == ["the course's package"]
    assert "make lab" in points[0].advice


def test_folders_that_cannot_be_written_are_reported(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("COURSE_LEARNER_DIR", str(tmp_path / "file" / "learner"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "file" / "tmp"))
    own, temporary = named("your own folder"), named("the folder for temporary files")
    assert not own.ok
    assert "cannot be written" in own.found
    assert "COURSE_LEARNER_DIR" in own.advice
    assert not temporary.ok
    assert "TMPDIR" in temporary.advice


def test_looking_leaves_no_file_behind(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_LEARNER_DIR", str(tmp_path))
    assert named("your own folder").found == str(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("cuda", "mps", "words"), [(True, True, "CUDA, a card"), (False, True, "MPS"), (False, False, "CPU")]
)
def test_the_device_is_named(monkeypatch, cuda, mps, words):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a card")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert named("device").found.startswith(words)
    assert named("device").ok
