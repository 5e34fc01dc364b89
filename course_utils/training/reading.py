"""Reading checkpoint files, which may be damaged, written by someone else, or of an earlier edition."""

import pickle
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch

from course_utils.files import open_regular
from course_utils.training.state import check_state, original_name

# Format 1 had no plan, callbacks and loss_fn, and "random" in place of "passes"; `read_checkpoint` converts it.
FORMAT = 2


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Return the state in a checkpoint file, in the present format.

    Raises:
        ValueError: the file does not hold the whole state of a run; the message says in one line why.
        PermissionError: this user may not read it.
    """
    try:
        state = read_plain(path)
    except PermissionError:
        raise
    except OSError as error:
        raise ValueError(error.strerror or str(error)) from error
    found = state.get("format")
    if type(found) is not int or not 1 <= found <= FORMAT:
        raise ValueError(f"it does not hold a state of format {FORMAT} or earlier")
    if found == 1:
        state = _of_format_2(state)
    check_state(state)
    if "passes" not in state:
        raise ValueError("passes is missing: it is the state of a trainer, not a checkpoint")
    return state


def read_plain(path: Path) -> dict[str, Any]:
    """Return the dict of tensors, on the CPU, and plain values in a file of `torch.save`; compare its checksums first.

    Raises:
        ValueError: the file is damaged or holds anything else; the message says in one line why.
        OSError: it cannot be read.
    """
    with open_regular(path) as file:
        try:
            with zipfile.ZipFile(file) as archive:
                if any(part.compress_type != zipfile.ZIP_STORED for part in archive.infolist()):
                    raise zipfile.BadZipFile("its parts are compressed, which PyTorch never does")
                bad = archive.testzip()  # torch.load ignores the checksums in the file; zipfile compares them
                if bad:
                    raise zipfile.BadZipFile(f"its part {bad} does not match its checksum")
            file.seek(0)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # PyTorch warns of some files before it refuses them
                value = torch.load(file, map_location="cpu", weights_only=True)
        except OSError:
            raise
        except Exception as error:  # a damaged file can make a reader fail in any way
            raise ValueError(_reason(error)) from error
    if not isinstance(value, dict):
        raise ValueError(f"it holds a {type(value).__name__} instead of named parts")
    return value


def _reason(error: Exception) -> str:
    """Return in one line why a file cannot be read.

    PyTorch's own messages explain how to run what such a file asks for, which nobody should do.
    """
    first_line = (str(error).splitlines() or [""])[0]
    if isinstance(error, zipfile.BadZipFile):
        return first_line
    asked = re.search(r"GLOBAL (\S+)", str(error))
    if isinstance(error, pickle.UnpicklingError) and asked:
        return f"it asks for {asked[1]}, which no checkpoint of this course does; none of it was run"
    if isinstance(error, pickle.UnpicklingError) or "weights_only" in str(error):
        return "it holds more than tensors and plain values, unlike every checkpoint of this course; none was run"
    return f"it does not hold a state ({type(error).__name__}: {first_line})"


def _of_format_2(state: dict[str, Any]) -> dict[str, Any]:
    """Return a state of format 1 as one of format 2; what is missing or of the wrong kind is left to `check_state`."""
    new: dict[str, Any] = state | {"format": 2, "plan": None, "callbacks": []}
    if isinstance(state.get("model"), dict):
        new["model"] = {original_name(str(name)): value for name, value in state["model"].items()}
    random, epoch, position = new.pop("random", None), state.get("epoch"), state.get("position")
    if state.get("epoch_trained") is True and isinstance(epoch, int):
        epoch, position = epoch + 1, 0  # the pass over the data is done, though the epoch is not closed
    if isinstance(random, list) and all(isinstance(each, dict) for each in random):
        new["passes"] = [
            {
                "number": epoch,
                "position": position,
                "ended": False,
                "start": {"random": each.get("epoch") if position else None, "order": {}, "workers": False},
                "now": each.get("now"),
                "kept": None,
            }
            for each in random
        ]
    return new
