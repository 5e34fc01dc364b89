"""The device and the precision that a model is trained with, and the seed of the random numbers."""

import contextlib

import torch

from course_utils.errors import unknown_name

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
PRECISIONS = tuple(DTYPES)


def resolve_device(device: str | torch.device = "auto") -> torch.device:
    """Return the device that `"auto"`, `"cpu"`, `"cuda"`, `"cuda:N"` or `"mps"` names on this machine.

    `"auto"` picks CUDA if it is available, else Apple's MPS, else the CPU.

    Raises:
        ValueError: the name is not that of a device, or this machine lacks it; the message lists those it has.
    """
    has_cuda, has_mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if str(device) == "auto":
        return torch.device("cuda" if has_cuda else "mps" if has_mps else "cpu")
    available = ", ".join(
        ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count())), *(["mps"] if has_mps else [])]
    )
    try:
        resolved = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"unknown device {device!r} (available: {available}); use 'auto' to pick one") from error
    index = resolved.index or 0
    missing_cuda = resolved.type == "cuda" and (not has_cuda or index >= torch.cuda.device_count())
    if missing_cuda or (resolved.type == "mps" and not has_mps):
        raise ValueError(f"device {str(device)!r} is not available (available: {available}); use 'auto' to pick one")
    return resolved


def check_precision(precision: str, device: torch.device) -> None:
    """Check that the device can train in this precision.

    Raises:
        ValueError: the precision is unknown, or the device does not support it.
    """
    if precision not in PRECISIONS:
        raise unknown_name("precision", precision, PRECISIONS)
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
    """Seed PyTorch on every device, so that the next model always starts from the same weights."""
    torch.manual_seed(seed)
