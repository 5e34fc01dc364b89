"""Data: scikit-learn's handwritten digits, which need no network, and three data sets of torchvision."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from course_utils.devices import resolve_device
from course_utils.errors import check_name, folder_path, non_negative_integer, positive_integer, quoted, valid_seed

# How many batches are gathered from the data at once.
GATHERED = 32
NAMES = ("digits", "mnist", "fashion-mnist", "cifar10")


def check_dense(name: str, value: object) -> None:
    """Check that a value is a tensor that holds a number in each place.

    Raises:
        TypeError: it is not a tensor, or a sparse or nested one, or one on the meta device.
    """
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(value).__name__}: use torch.as_tensor({name})")
    if value.layout != torch.strided or value.is_nested:
        raise TypeError(f"{name} must be a dense tensor, got the layout {value.layout}: use {name}.to_dense()")
    if value.is_meta:
        raise TypeError(f"{name} is on the meta device, which holds no numbers: make it on 'cpu'")


def check_labels(y: Tensor, num_rows: int, num_classes: int | None = None) -> None:
    """Check class labels: one integer per row, from 0 to `num_classes` - 1.

    Raises:
        TypeError: the labels are not a dense tensor of dtype int64.
        ValueError: their number is not `num_rows`, they have more than one dimension, or one is out of range.
    """
    check_dense("y", y)
    if y.dtype != torch.int64:
        raise TypeError(f"labels must be whole numbers of dtype torch.int64, got {y.dtype}: use y.long()")
    if y.ndim != 1:
        raise ValueError(f"labels must have one dimension, one class index per row, got shape {tuple(y.shape)}")
    if len(y) != num_rows:
        raise ValueError(f"x has {num_rows} rows but y has {len(y)} labels: give one label per row")
    if len(y) and int(y.min()) < 0:
        raise ValueError(f"labels must count from 0, got {int(y.min())}: subtract the smallest label from all of them")
    if num_classes is not None and len(y) and int(y.max()) >= num_classes:
        raise ValueError(
            f"label {int(y.max())} is out of range: {num_classes} classes have the labels 0 to {num_classes - 1}"
        )


class Batches:
    """Batches of data in memory, selected by index: without a Python loop over samples, and on any device.

    One iteration is one epoch. The order of epoch `e` depends on `seed` and `e` only, as in
    `torch.utils.data.DistributedSampler`; `set_epoch` chooses the epoch, and without it each pass uses the next one.

    Args:
        x: inputs, shape (rows, …). With `transform`, any dtype.
        y: labels, shape (rows,), int64.
        batch_size: rows per batch; the last batch holds the rest.
        shuffle: whether each epoch has a new order; without it, all have the given one.
        seed: the seed of the orders.
        transform: called on each batch of x (for example to convert bytes to floats).

    Raises:
        ValueError: a bad batch size or seed, no rows, labels that do not fit, or NaN in x.
        TypeError: x or y is not a dense tensor, the labels are not int64, `shuffle` is not True or False, or
            `transform` cannot be called.
    """

    def __init__(
        self,
        x: Tensor,
        y: Tensor,
        *,
        batch_size: int = 64,
        shuffle: bool = True,
        seed: int = 0,
        transform: Callable[[Tensor], Tensor] | None = None,
    ):
        batch_size, seed = positive_integer("batch_size", batch_size), valid_seed("seed", seed)
        if not isinstance(shuffle, bool):
            raise TypeError(f"shuffle must be True or False, got {quoted(shuffle)}")
        if transform is not None and not callable(transform):
            raise TypeError(f"transform must be a function of a batch of x, or None, got {quoted(transform)}")
        check_dense("x", x)
        if x.ndim == 0 or len(x) == 0:
            raise ValueError(f"x has no rows (shape {tuple(x.shape)}): give at least one")
        check_labels(y, len(x))
        if x.device != y.device:
            raise ValueError(f"x is on {x.device} but y is on {y.device}: move them to the same device")
        if batch_size > len(x):
            raise ValueError(f"batch_size {batch_size} is larger than the data ({len(x)} rows): use at most {len(x)}")
        if x.is_floating_point() and not bool(torch.isfinite(x).all()):
            bad = int((~torch.isfinite(x.flatten(1) if x.ndim > 1 else x[:, None])).any(dim=1).sum())
            raise ValueError(f"x has NaN or infinity in {bad} of {len(x)} rows: repair or remove them before training")
        self.dataset = TensorDataset(x, y)
        self.batch_size, self.shuffle, self.seed, self.transform = batch_size, shuffle, seed, transform
        self.epoch = 0

    def __len__(self) -> int:
        """Return the number of batches per epoch, with a short last one."""
        return -(-len(self.dataset) // self.batch_size)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order the next pass uses.

        Raises:
            ValueError: it is not a whole number of at least 0.
        """
        self.epoch = non_negative_integer("epoch", epoch)

    def order(self, epoch: int) -> Tensor:
        """Return the row numbers of epoch `epoch` in their order, shape (rows,), on the device of the data.

        Raises:
            ValueError: the epoch is not a whole number of at least 0.
        """
        x, _ = self.dataset.tensors
        if not self.shuffle:
            return torch.arange(len(x), device=x.device)
        # Drawn on the CPU, so that the order is the same on every device.
        generator = torch.Generator().manual_seed(self.seed + non_negative_integer("epoch", epoch))
        return torch.randperm(len(x), generator=generator).to(x.device)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        x, y = self.dataset.tensors
        rows = self.order(self.epoch)
        self.epoch += 1
        # Rows are gathered for several batches at once and then split: this takes a third of the time of gathering each
        # batch, and unlike gathering all of them it does not double the memory.
        for some in rows.split(self.batch_size * GATHERED):
            cut_x, cut_y = (part.index_select(0, some).split(self.batch_size) for part in (x, y))
            for batch, labels in zip(cut_x, cut_y, strict=True):
                yield (batch if self.transform is None else self.transform(batch)), labels


@dataclass(frozen=True)
class Data:
    """A data set ready for the loop.

    Attributes:
        train, valid: iterables of `(x, y)`; x float32 of shape (batch, *shape), y int64 of shape (batch,).
        num_classes: the number of classes.
        shape: the shape of one input: (channels, height, width).
    """

    train: Batches
    valid: Batches
    num_classes: int
    shape: tuple[int, int, int]


def _digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return 1,797 digits of 8×8 pixels, scaled from 0…16 to 0…1, in one fixed split into 1,437 and 360 rows."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    x = torch.tensor(images, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16
    y = torch.tensor(labels, dtype=torch.int64)
    rows = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    train, valid = rows[:1437], rows[1437:]
    return x[train], y[train], x[valid], y[valid]


def _bytes_to_floats(batch: Tensor) -> Tensor:
    """Convert bytes 0…255 to floats 0…1, a batch at a time, so that the data set stays small in memory."""
    return batch.float().div_(255)


def _torchvision(name: str, root: Path) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return one of torchvision's data sets as uint8 tensors (rows, channels, height, width); it is downloaded once."""
    from torchvision import datasets

    kinds: dict[str, Any] = {
        "mnist": datasets.MNIST,
        "fashion-mnist": datasets.FashionMNIST,
        "cifar10": datasets.CIFAR10,
    }
    kind = kinds[name]
    parts: list[Tensor] = []
    for train in (True, False):
        try:
            root.mkdir(parents=True, exist_ok=True)
            part = kind(str(root), train=train, download=True)
            x, y = torch.as_tensor(part.data), torch.as_tensor(part.targets, dtype=torch.int64)
        # For a failed download or a damaged file torchvision raises RuntimeError, URLError, EOFError, AssertionError,
        # ValueError and others.
        except Exception as error:
            if isinstance(error, OSError) and not isinstance(error, URLError) and error.filename is not None:
                raise OSError(
                    f"cannot write {name} into root={str(root)!r}: {error}; choose another folder with root=…"
                ) from error
            raise RuntimeError(
                f"{name} could not be read from or downloaded into {str(root)!r} ({type(error).__name__}: {error}). "
                f"Check the connection, delete that folder's {kind.__name__} files if a download was cut short, and "
                "try again; load('digits') needs no network"
            ) from error
        x = x.permute(0, 3, 1, 2).contiguous() if x.ndim == 4 else x.unsqueeze(1)
        if x.dtype != torch.uint8 or len(x) != len(y) or len(x) == 0:
            raise RuntimeError(
                f"{name} in {str(root)!r} is damaged: {len(x)} images and {len(y)} labels; "
                "delete the folder and load it again"
            )
        parts += [x, y]
    x, y, x_valid, y_valid = parts
    return x, y, x_valid, y_valid


def load(
    name: str = "digits",
    *,
    batch_size: int = 64,
    seed: int = 0,
    device: str | torch.device = "cpu",
    root: str | Path = "./data",
) -> Data:
    """Return a data set as batches for the training loop.

    Args:
        name: "digits" (embedded, no network), "mnist", "fashion-mnist" or "cifar10" (downloaded into `root` once).
        batch_size: rows per batch.
        seed: the seed of the shuffled orders of `train`; the split into train and valid does not depend on it.
        device: the device of the data, "cpu", "cuda", … or "auto".
        root: the folder of downloaded data sets; `~` is the home folder.

    Raises:
        ValueError: the name or the device is unknown, the batch size does not fit, the seed is out of range, or `root`
            is empty.
        TypeError: `root` is not a path.
        OSError: `root` cannot be written to.
        RuntimeError: the download failed, or the files are damaged; the message names the way out.

    >>> data = load("digits", batch_size=64)
    >>> len(data.train), len(data.train.dataset), data.shape, data.num_classes
    (23, 1437, (1, 8, 8), 10)
    """
    check_name("data set", name, NAMES)
    device, folder = resolve_device(device), folder_path("root", root)
    batch_size, seed = positive_integer("batch_size", batch_size), valid_seed("seed", seed)
    x, y, x_valid, y_valid = _digits() if name == "digits" else _torchvision(name, folder)
    transform = None if name == "digits" else _bytes_to_floats
    train = Batches(x.to(device), y.to(device), batch_size=batch_size, seed=seed, transform=transform)
    # Validation does not change the weights, so its batches may be large and need no shuffling.
    valid_size = min(max(batch_size, 256), len(x_valid))
    valid = Batches(x_valid.to(device), y_valid.to(device), batch_size=valid_size, shuffle=False, transform=transform)
    _, channels, height, width = x.shape
    return Data(train=train, valid=valid, num_classes=10, shape=(channels, height, width))
