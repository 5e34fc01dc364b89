"""The device and the precision that a model is trained with, and the seed of the random numbers."""

import contextlib
import warnings

import torch

from course_utils.errors import check_name, quoted, valid_seed

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
PRECISIONS = tuple(DTYPES)
# PyTorch knows others; no test has trained on them.
DEVICES = ("cpu", "cuda", "mps")


def resolve_device(device: str | torch.device = "auto") -> torch.device:
    """Return the device that `"auto"`, `"cpu"`, `"cuda"`, `"cuda:N"` or `"mps"` names on this machine.

    `"auto"` picks CUDA if it is available, else Apple's MPS, else the CPU.

    Raises:
        ValueError: the name is not that of a device, this course does not train on it, or this machine lacks it; the
            message lists those it has.
    """
    num_cuda = torch.cuda.device_count() if torch.cuda.is_available() else 0
    has_mps = torch.backends.mps.is_available()
    if isinstance(device, str) and device == "auto":
        return torch.device("cuda" if num_cuda else "mps" if has_mps else "cpu")
    available = ", ".join(["cpu", *(f"cuda:{index}" for index in range(num_cuda)), *(["mps"] if has_mps else [])])
    way_out = f"(available: {available}); use 'auto' to pick one"
    try:
        if not isinstance(device, str | torch.device):
            raise TypeError("a device is given by its name")  # PyTorch takes None and numbers as well
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the names that PyTorch is giving up: they are refused below
            resolved = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"unknown device {quoted(device)} {way_out}") from error
    if resolved.type not in DEVICES:
        raise ValueError(f"this course does not train on device {str(device)!r} {way_out}")
    # The CPU and MPS are single devices, with or without the number 0.
    count = num_cuda if resolved.type == "cuda" else 1 if resolved.type == "cpu" or has_mps else 0
    if (resolved.index or 0) >= count:
        raise ValueError(f"device {str(device)!r} is not available {way_out}")
    return torch.device("cpu") if resolved.type == "cpu" else resolved


def check_precision(precision: str, device: torch.device) -> None:
    """Check that the device can train in this precision.

    Raises:
        ValueError: the precision is unknown, or the device does not support it.
    """
    check_name("precision", precision, PRECISIONS)
    if precision == "fp16" and device.type != "cuda":
        raise ValueError(f"precision 'fp16' needs a CUDA device, not {device.type!r}: use 'bf16' or 'fp32' here")
    if precision == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise ValueError(f"precision 'bf16' is not supported by {torch.cuda.get_device_name(device)}: use 'fp16'")


def autocast(precision: str, device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Return the context for a forward pass; it can be entered repeatedly, and with "fp32" it does nothing."""
    if precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, DTYPES[precision])


def make_scaler(precision: str, device: torch.device) -> torch.amp.GradScaler:
    """Return a gradient scaler, which is enabled for "fp16" only."""
    return torch.amp.GradScaler(device.type, enabled=precision == "fp16")


def seed_everything(seed: int) -> None:
    """Seed PyTorch on every device, so that the next model always starts from the same weights.

    Raises:
        ValueError: the seed is not a whole number from 0 to 2**63 - 1.
    """
    torch.manual_seed(valid_seed("seed", seed))
