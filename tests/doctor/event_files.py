"""What event files hold."""

from pathlib import Path

from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader


def scalars(folder: Path) -> tuple[int, list[tuple[int, str, float]]]:
    """Return the number of event files in a folder, and the step, the tag and the value of each scalar in them."""
    files = sorted(folder.rglob("events.*"))
    events = [event for file in files for event in LegacyEventFileLoader(str(file)).Load()]
    return len(files), [
        (event.step, value.tag, value.simple_value) for event in events for value in event.summary.value
    ]
