"""Batches, seeding, devices, and data sets in the format in which they lie on disk. Nothing here leaves the machine."""

import gc
import gzip
import hashlib
import io
import os
import pickle
import re
import struct
import tarfile
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import pytest
import torch
from torchvision import datasets

from course_utils.data import Batches, check_labels, load
from course_utils.devices import resolve_device, seed_everything


def rows(count=10):
    return torch.arange(count * 2, dtype=torch.float32).reshape(count, 2), torch.arange(count) % 3


# Batches


def test_an_epoch_gives_each_row_once_with_its_label():
    x, y = rows(10)
    batches = list(Batches(x, y, batch_size=4, seed=1))
    assert [len(batch) for batch, _ in batches] == [4, 4, 2]
    seen, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    order = (seen[:, 0] / 2).long()
    assert not torch.equal(order, torch.arange(10))
    assert torch.equal(order.sort().values, torch.arange(10))
    assert torch.equal(labels, y[order])


@pytest.mark.parametrize(("batch_size", "count"), [(1, 10), (3, 4), (5, 2), (9, 2), (10, 1)])
def test_length_counts_the_short_last_batch(batch_size, count):
    batches = Batches(*rows(10), batch_size=batch_size)
    assert len(batches) == count == len(list(batches))


def test_the_order_is_that_of_a_generator_seeded_with_seed_plus_epoch():
    batches = Batches(*rows(10), batch_size=10, seed=7)
    passes = [next(iter(batches))[0][:, 0] / 2 for _ in range(3)]
    for epoch, order in enumerate(passes):
        expected = torch.randperm(10, generator=torch.Generator().manual_seed(7 + epoch))
        assert torch.equal(order.long(), expected)
        assert torch.equal(batches.order(epoch), expected)


def test_set_epoch_brings_an_order_back():
    batches = Batches(*rows(10), batch_size=10, seed=7)
    first, second = (next(iter(batches))[0] for _ in range(2))
    assert batches.epoch == 2
    batches.set_epoch(0)
    assert torch.equal(next(iter(batches))[0], first)
    assert torch.equal(next(iter(batches))[0], second)


def test_batches_leave_the_global_random_numbers_alone():
    before = torch.get_rng_state()
    list(Batches(*rows(), batch_size=3))
    assert torch.equal(torch.get_rng_state(), before)


def test_without_shuffle_rows_keep_their_order_in_every_epoch():
    x, y = rows(10)
    batches = Batches(x, y, batch_size=4, shuffle=False)
    for _ in range(2):
        assert torch.equal(torch.cat([batch for batch, _ in batches]), x)


def test_transform_sees_each_batch_of_x():
    x = torch.tensor([[0], [51], [255]], dtype=torch.uint8)
    batches = Batches(x, torch.zeros(3, dtype=torch.int64), batch_size=2, shuffle=False, transform=lambda b: b / 255)
    torch.testing.assert_close(torch.cat([batch for batch, _ in batches]), torch.tensor([[0.0], [0.2], [1.0]]))


@pytest.mark.parametrize("batch_size", [0, -1, 2.5, "64", True, None])
def test_a_batch_size_that_is_no_count_is_refused(batch_size):
    with pytest.raises(
        ValueError, match=re.escape(f"batch_size must be a whole number of at least 1, got {batch_size!r}")
    ):
        Batches(*rows(), batch_size=batch_size)


def test_a_batch_larger_than_the_data_is_refused():
    with pytest.raises(ValueError, match=r"batch_size 11 is larger than the data \(10 rows\): use at most 10"):
        Batches(*rows(10), batch_size=11)


@pytest.mark.parametrize("x", [torch.zeros(0, 2), torch.tensor(1.0)])
def test_no_rows_are_refused(x):
    with pytest.raises(ValueError, match=re.escape(f"x has no rows (shape {tuple(x.shape)})")):
        Batches(x, torch.zeros(0, dtype=torch.int64), batch_size=1)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("shape", [(10,), (10, 2), (10, 1, 4, 4)])
def test_nan_and_infinity_in_x_are_counted_by_row(bad, shape):
    x = torch.zeros(shape)
    x.reshape(10, -1)[3] = bad
    x.reshape(10, -1)[7, 0] = bad
    with pytest.raises(ValueError, match="x has NaN or infinity in 2 of 10 rows"):
        Batches(x, torch.zeros(10, dtype=torch.int64), batch_size=2)


@pytest.mark.parametrize("seed", ["0", 1.5, None, True, -1, 2**63])
def test_a_seed_that_is_no_whole_number_or_out_of_range_is_refused(seed):
    message = re.escape(f"seed must be a whole number from 0 to 2**63 - 1, got {seed!r}")
    with pytest.raises(ValueError, match=message):
        Batches(*rows(), batch_size=2, seed=seed)
    with pytest.raises(ValueError, match=message):
        load(seed=seed)
    with pytest.raises(ValueError, match=message):
        seed_everything(seed)


def test_numbers_may_be_numpys():
    batches = Batches(*rows(10), batch_size=np.int64(4), seed=np.uint8(250))
    batches.set_epoch(np.int64(9))
    assert [type(number) for number in (batches.batch_size, batches.seed, batches.epoch)] == [int] * 3
    assert torch.equal(batches.order(9), Batches(*rows(10), batch_size=4, seed=259).order(0))
    assert [len(batch) for batch, _ in batches] == [4, 4, 2]
    digits = load(batch_size=np.int16(100), seed=np.int64(1))
    assert (digits.train.batch_size, digits.train.seed) == (100, 1)


def test_the_largest_seed_has_an_order_for_every_epoch():
    batches = Batches(*rows(10), batch_size=10, seed=2**63 - 1)
    assert sorted(batches.order(2**63 - 1).tolist()) == list(range(10))


@pytest.mark.parametrize("epoch", [-1, 1.0, None, "1", 2**63])
def test_an_epoch_that_is_no_count_is_refused(epoch):
    batches = Batches(*rows(10), batch_size=10)
    for call in (batches.set_epoch, batches.order):
        with pytest.raises(ValueError, match=r"epoch must be a whole number (of at least 0|below 2\*\*63), got "):
            call(epoch)
    assert batches.epoch == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shuffle": "no"}, "shuffle must be True or False, got 'no'"),
        ({"shuffle": None}, "shuffle must be True or False, got None"),
        ({"transform": 255}, "transform must be a function of a batch of x, or None, got 255"),
    ],
)
def test_options_of_another_kind_are_refused(options, message):
    with pytest.raises(TypeError, match=message):
        Batches(*rows(), batch_size=2, **options)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda x, y: (x.to_sparse(), y),
            r"x must be a dense tensor, got the layout torch.sparse_coo: use x\.to_dense",
        ),
        (lambda x, y: (x.to("meta"), y), "x is on the meta device, which holds no numbers: make it on 'cpu'"),
        (lambda x, y: (x, y.to("meta")), "y is on the meta device, which holds no numbers: make it on 'cpu'"),
    ],
)
def test_tensors_without_a_number_in_each_place_are_refused(change, message):
    with pytest.raises(TypeError, match=message):
        Batches(*change(*rows()), batch_size=2)


def test_arrays_are_told_to_become_tensors():
    with pytest.raises(TypeError, match=r"x must be a tensor, got ndarray: use torch.as_tensor\(x\)"):
        Batches(np.zeros((3, 2)), torch.zeros(3, dtype=torch.int64), batch_size=1)
    with pytest.raises(TypeError, match=r"y must be a tensor, got list: use torch.as_tensor\(y\)"):
        Batches(torch.zeros(3, 2), [0, 1, 2], batch_size=1)


def test_x_and_y_on_two_devices_are_refused():
    with pytest.raises(ValueError, match="x is on cpu but y is on meta"):
        Batches(torch.zeros(3, 2), _labels_that_say_meta(), batch_size=1)


def _labels_that_say_meta():
    class Elsewhere(torch.Tensor):
        device = torch.device("meta")

    return torch.zeros(3, dtype=torch.int64).as_subclass(Elsewhere)


# Labels


def test_good_labels_pass():
    assert check_labels(torch.tensor([0, 2, 1]), 3, num_classes=3) is None


@pytest.mark.parametrize(
    ("y", "error", "message"),
    [
        (torch.tensor([0.0, 1.0]), TypeError, "dtype torch.int64, got torch.float32: use y.long()"),
        (torch.tensor([0, 1], dtype=torch.int32), TypeError, "dtype torch.int64, got torch.int32"),
        (torch.tensor([True, False]), TypeError, "dtype torch.int64, got torch.bool"),
        (torch.tensor([[0, 1], [1, 0]]), ValueError, "one class index per row, got shape (2, 2)"),
        (torch.tensor([0, 1, 1]), ValueError, "x has 2 rows but y has 3 labels"),
        (torch.tensor([0, -1]), ValueError, "labels must count from 0, got -1"),
        (torch.tensor([0, 3]), ValueError, "label 3 is out of range: 3 classes have the labels 0 to 2"),
    ],
)
def test_labels_that_do_not_fit_are_refused(y, error, message):
    with pytest.raises(error, match=re.escape(message)):
        check_labels(y, 2, num_classes=3)


# Devices and seeds


def test_auto_takes_what_is_there():
    expected = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    assert resolve_device("auto") == torch.device(expected)
    assert resolve_device("cpu") == resolve_device(torch.device("cpu")) == torch.device("cpu")


@pytest.mark.parametrize("device", ["cuda", "cuda:0", torch.device("cuda", 1)])
def test_cuda_where_there_is_none_says_what_is_there(device, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(ValueError, match=rf"device '{device}' is not available \(available: cpu\); use 'auto'"):
        resolve_device(device)


def test_a_cuda_number_that_is_too_high_says_what_is_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert resolve_device("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(ValueError, match=r"device 'cuda:2' is not available \(available: cpu, cuda:0, cuda:1"):
        resolve_device("cuda:2")


def test_mps_where_there_is_none_says_what_is_there(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(ValueError, match=r"device 'mps' is not available \(available: cpu"):
        resolve_device("mps")


@pytest.mark.parametrize("device", ["cpu:3", torch.device("cpu", 1), "cuda:99", "mps:1"])
def test_a_number_that_no_device_here_has_says_what_is_there(device, monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    with pytest.raises(ValueError, match=rf"device '{device}' is not available \(available: cpu"):
        resolve_device(device)


def test_the_cpu_has_one_name():
    assert resolve_device("cpu:0") == resolve_device(torch.device("cpu", 0)) == torch.device("cpu")


@pytest.mark.parametrize("device", ["meta", "xpu", "xpu:1", "mkldnn", torch.device("meta")])
def test_a_device_that_no_test_has_trained_on_is_refused(device):
    with pytest.raises(ValueError, match=rf"this course does not train on device '{device}' \(available: cpu"):
        resolve_device(device)


@pytest.mark.parametrize("device", ["gpu", "cuda:x", "cuda:-1", "", "\0", "CPU", 3.5, 0, None, ["cpu"], b"cpu"])
def test_a_name_that_is_no_device_is_refused(device):
    with pytest.raises(ValueError, match=re.escape(f"unknown device {device!r} (available: cpu")):
        resolve_device(device)


def test_the_same_seed_gives_the_same_numbers():
    seed_everything(5)
    first = torch.rand(3)
    seed_everything(5)
    assert torch.equal(torch.rand(3), first)


# The digits


def test_digits_are_the_embedded_ones_in_one_fixed_split():
    from sklearn.datasets import load_digits

    digits = load("digits", batch_size=64)
    assert (digits.num_classes, digits.shape) == (10, (1, 8, 8))
    assert (len(digits.train), len(digits.train.dataset), len(digits.valid.dataset)) == (23, 1437, 360)
    parts = [digits.train.dataset.tensors, digits.valid.dataset.tensors]
    x, y = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
    images, labels = load_digits(return_X_y=True)

    def as_sorted(pixels, classes):
        return sorted(map(tuple, np.column_stack([pixels, classes]).tolist()))

    assert as_sorted((x * 16).flatten(1).numpy(), y.numpy()) == as_sorted(images, labels)
    assert (x.min(), x.max(), x.dtype, y.dtype) == (0, 1, torch.float32, torch.int64)


def test_the_split_and_the_validation_order_do_not_depend_on_the_seed():
    one, other = load(seed=0), load(seed=9)
    for ours, theirs in zip(one.valid, other.valid, strict=True):
        assert torch.equal(ours[0], theirs[0])
    assert torch.equal(one.train.dataset.tensors[0], other.train.dataset.tensors[0])
    assert not torch.equal(next(iter(one.train))[0], next(iter(other.train))[0])


def test_an_unknown_data_set_names_the_nearest():
    with pytest.raises(ValueError, match="unknown data set 'mnits': did you mean 'mnist'"):
        load("mnits")


@pytest.mark.parametrize(("options", "message"), [({"batch_size": 0}, "got 0"), ({"device": "gpu"}, "device 'gpu'")])
def test_load_checks_before_it_reads(options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        load("mnist", root=tmp_path / "new", **options)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("root", ["", "data\0", "\ud800"])
def test_a_root_that_is_no_path_is_refused(root):
    with pytest.raises(ValueError, match=re.escape(f"root must be the path of a folder, got {root!r}: '.' is")):
        load(root=root)


@pytest.mark.parametrize("root", [None, 3, b"data", ["data"]])
def test_a_root_of_another_kind_is_refused(root):
    with pytest.raises(TypeError, match=re.escape(f"root must be the path of a folder, got {root!r}")):
        load(root=root)


def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch):
    no_network(monkeypatch)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    write_mnist(tmp_path / "data")
    assert len(load("mnist", batch_size=5, root="~/data").train.dataset) == 12
    with pytest.raises(ValueError, match=r"root='~nobody-of-this-name/data' cannot be used: Could not determine home"):
        load("mnist", root="~nobody-of-this-name/data")


# Data sets on disk, written here in their true format.

MNIST_FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def idx_bytes(values: np.ndarray) -> bytes:
    """The idx format: two zeros, 8 for bytes, the number of dimensions, each of them as big-endian int32, the bytes."""
    return struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape) + values.astype(np.uint8).tobytes()


def mnist_files(train=12, valid=5) -> dict[str, bytes]:
    random = np.random.default_rng(0)
    arrays = [
        random.integers(256, size=(n, 28, 28)) if images else np.arange(n) % 10
        for n in (train, valid)
        for images in (True, False)
    ]
    return dict(zip(MNIST_FILES, map(idx_bytes, arrays), strict=True))


def write_mnist(root, kind="MNIST", files=None):
    raw = root / kind / "raw"
    raw.mkdir(parents=True)
    for name, content in (files or mnist_files()).items():
        (raw / name).write_bytes(content)
    return raw


def no_network(monkeypatch):
    """Let every download fail at once: nothing listens on port 9 of this machine."""
    for kind in (datasets.MNIST, datasets.FashionMNIST):
        monkeypatch.setattr(kind, "mirrors", ["http://127.0.0.1:9/"])
    monkeypatch.setattr(datasets.CIFAR10, "url", "http://127.0.0.1:9/cifar-10-python.tar.gz")


@pytest.mark.parametrize(("name", "kind"), [("mnist", "MNIST"), ("fashion-mnist", "FashionMNIST")])
def test_mnist_files_become_images_between_0_and_1(name, kind, tmp_path, monkeypatch):
    no_network(monkeypatch)
    files = mnist_files(train=12, valid=5)
    write_mnist(tmp_path, kind, files)
    found = load(name, batch_size=5, root=tmp_path)
    assert (found.shape, found.num_classes, len(found.train.dataset), len(found.valid.dataset)) == (
        (1, 28, 28),
        10,
        12,
        5,
    )
    assert found.train.dataset.tensors[0].dtype == torch.uint8  # small in memory; a batch is made of floats
    found.train.set_epoch(0)
    x, y = (torch.cat(parts) for parts in zip(*found.train, strict=True))
    order = found.train.order(0)
    pixels = np.frombuffer(files[MNIST_FILES[0]][16:], dtype=np.uint8).reshape(12, 1, 28, 28)
    torch.testing.assert_close(x, torch.tensor(pixels, dtype=torch.float32)[order] / 255)
    assert torch.equal(y, order % 10)


def refused(message: str, name: str, root) -> None:
    """Loading must fail, name the data set and the folder, and say what to do."""
    with pytest.raises(RuntimeError, match=message) as caught:
        load(name, batch_size=2, root=root)
    assert str(caught.value).startswith(name)
    assert repr(str(root)) in str(caught.value)
    assert re.search(
        r"try again; load\('digits'\) needs no network|delete the folder and load it again", str(caught.value)
    )


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "cifar10"])
def test_missing_files_without_a_network(name, tmp_path, monkeypatch):
    no_network(monkeypatch)
    refused("could not be read from or downloaded", name, tmp_path)


@pytest.mark.parametrize("missing", MNIST_FILES)
def test_one_missing_mnist_file_without_a_network(missing, tmp_path, monkeypatch):
    no_network(monkeypatch)
    (write_mnist(tmp_path) / missing).unlink()
    refused("could not be read from or downloaded", "mnist", tmp_path)


@pytest.mark.parametrize("damaged", MNIST_FILES)
@pytest.mark.parametrize(
    "damage",
    [lambda content: content[:-3], lambda content: content[:5], lambda content: b"", lambda content: b"\xff" * 64],
    ids=["truncated", "cut in the header", "empty", "garbage"],
)
def test_a_damaged_mnist_file(damaged, damage, tmp_path, monkeypatch):
    no_network(monkeypatch)
    files = mnist_files()
    write_mnist(tmp_path, files=files | {damaged: damage(files[damaged])})
    refused("could not be read from or downloaded", "mnist", tmp_path)


def test_mnist_images_and_labels_of_different_number(tmp_path, monkeypatch):
    no_network(monkeypatch)
    write_mnist(tmp_path, files=mnist_files() | {MNIST_FILES[1]: idx_bytes(np.arange(11))})
    refused("is damaged: 12 images and 11 labels", "mnist", tmp_path)


def cifar_files() -> dict[str, bytes]:
    """The pickled dictionaries of CIFAR-10: rows of 3072 bytes, red, green and blue planes after each other."""
    random = np.random.default_rng(1)
    files = {}
    for number, name in enumerate([*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"]):
        entry = {
            "batch_label": name,
            "labels": [(number + row) % 10 for row in range(3)],
            "data": random.integers(256, size=(3, 3072)).astype(np.uint8),
            "filenames": [f"{row}.png" for row in range(3)],
        }
        files[name] = pickle.dumps(entry, protocol=2)
    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    files["batches.meta"] = pickle.dumps({"label_names": names, "num_cases_per_batch": 3, "num_vis": 3072}, protocol=2)
    return files


def declare_cifar(monkeypatch, files) -> None:
    """Put the checksums of these files where torchvision keeps those of the true ones."""
    sums = {name: hashlib.md5(content).hexdigest() for name, content in files.items()}
    batches = [[name, sums[name]] for name in files if name.startswith("data_batch")]
    monkeypatch.setattr(datasets.CIFAR10, "train_list", batches)
    monkeypatch.setattr(datasets.CIFAR10, "test_list", [["test_batch", sums["test_batch"]]])
    meta = {"filename": "batches.meta", "key": "label_names", "md5": sums["batches.meta"]}
    monkeypatch.setattr(datasets.CIFAR10, "meta", meta)


def write_cifar(root, files):
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def test_cifar_files_become_color_images(tmp_path, monkeypatch):
    no_network(monkeypatch)
    files = cifar_files()
    declare_cifar(monkeypatch, files)
    write_cifar(tmp_path, files)
    found = load("cifar10", batch_size=15, root=tmp_path)
    assert (found.shape, found.num_classes, len(found.train.dataset), len(found.valid.dataset)) == (
        (3, 32, 32),
        10,
        15,
        3,
    )
    x, y = next(iter(found.valid))
    entry = pickle.loads(files["test_batch"])
    expected = torch.tensor(entry["data"], dtype=torch.float32).reshape(3, 3, 32, 32) / 255
    torch.testing.assert_close(x, expected)
    assert y.tolist() == entry["labels"]
    found.train.set_epoch(0)
    _, y = next(iter(found.train))
    labels = [label for n in range(1, 6) for label in pickle.loads(files[f"data_batch_{n}"])["labels"]]
    assert torch.equal(y, torch.tensor(labels)[found.train.order(0)])


@pytest.mark.parametrize("damaged", ["data_batch_3", "test_batch", "batches.meta"])
@pytest.mark.parametrize(
    "damage",
    [lambda content: content[:-9], lambda content: content[:-1] + b"\0", None],
    ids=["truncated", "corrupted", "missing"],
)
def test_a_damaged_cifar_file(damaged, damage, tmp_path, monkeypatch):
    no_network(monkeypatch)
    files = cifar_files()
    declare_cifar(monkeypatch, files)
    path = write_cifar(tmp_path, files) / damaged
    if damage is None:
        path.unlink()
    else:
        path.write_bytes(damage(files[damaged]))
    refused("could not be read from or downloaded", "cifar10", tmp_path)


def test_a_cifar_file_that_is_no_pickle(tmp_path, monkeypatch):
    no_network(monkeypatch)
    files = cifar_files() | {"test_batch": b"no pickle"}
    declare_cifar(monkeypatch, files)  # the sum is right: the damage is older than the sum
    write_cifar(tmp_path, files)
    refused("could not be read from or downloaded", "cifar10", tmp_path)


# Downloads from a real server on this machine.


@contextmanager
def server(files: dict[str, bytes], cut: dict[str, int]):
    """Serve files over HTTP; of those in `cut` announce all bytes, send only so many, and close."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            name = self.path.removeprefix("/")
            if name not in files:
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(files[name])))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(files[name][: cut.get(name)])
            self.close_connection = True

        do_HEAD = do_GET

        def log_message(self, *args):
            """Keep the test's output clean."""

    running = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{running.server_port}/"
    finally:
        running.shutdown()
        thread.join()
        running.server_close()


def test_mnist_is_downloaded_once_and_a_truncated_download_can_be_tried_again(tmp_path, monkeypatch):
    packed = {f"{name}.gz": gzip.compress(content) for name, content in mnist_files().items()}
    sums = [(name, hashlib.md5(content).hexdigest()) for name, content in packed.items()]
    cut = {"t10k-images-idx3-ubyte.gz": 1000}
    with server(packed, cut) as address:
        monkeypatch.setattr(datasets.MNIST, "mirrors", [address])
        monkeypatch.setattr(datasets.MNIST, "resources", sums)
        refused("could not be read from or downloaded", "mnist", tmp_path)
        cut.clear()
        again = load("mnist", batch_size=5, root=tmp_path)
    assert (len(again.train.dataset), len(again.valid.dataset)) == (12, 5)
    no_network(monkeypatch)
    kept = load("mnist", batch_size=5, root=tmp_path)
    assert torch.equal(kept.train.dataset.tensors[0], again.train.dataset.tensors[0])


@pytest.mark.filterwarnings("ignore:Python 3.14 will, by default, filter extracted tar archives:DeprecationWarning")
def test_cifar_is_downloaded_once_and_a_truncated_download_can_be_tried_again(tmp_path, monkeypatch):
    files = cifar_files()
    declare_cifar(monkeypatch, files)
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    name = datasets.CIFAR10.filename
    monkeypatch.setattr(datasets.CIFAR10, "tgz_md5", hashlib.md5(packed.getvalue()).hexdigest())
    cut = {name: len(packed.getvalue()) // 2}
    with server({name: packed.getvalue()}, cut) as address:
        monkeypatch.setattr(datasets.CIFAR10, "url", address + name)
        refused("could not be read from or downloaded", "cifar10", tmp_path)
        cut.clear()
        again = load("cifar10", batch_size=3, root=tmp_path)
    assert (len(again.train.dataset), len(again.valid.dataset)) == (15, 3)
    no_network(monkeypatch)
    assert len(load("cifar10", batch_size=3, root=tmp_path).train.dataset) == 15


# urllib's HTTPError holds the open answer until it is collected, and torchvision does not close it.
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
def test_a_mirror_that_does_not_have_the_file(tmp_path, monkeypatch):
    with server({}, {}) as address:
        monkeypatch.setattr(datasets.MNIST, "mirrors", [address])
        refused("could not be read from or downloaded", "mnist", tmp_path)
    gc.collect()


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_a_folder_that_cannot_be_made_is_named(name, tmp_path, monkeypatch):
    no_network(monkeypatch)
    (tmp_path / "file").write_text("in the way")
    root = tmp_path / "file" / "data"
    with pytest.raises(OSError, match=re.escape(f"cannot write {name} into root={str(root)!r}")) as caught:
        load(name, root=root)
    assert "choose another folder with root=" in str(caught.value)


def test_a_file_where_a_folder_must_be_made_is_named(tmp_path, monkeypatch):
    no_network(monkeypatch)
    (tmp_path / "MNIST").write_text("in the way")
    with pytest.raises(OSError, match=r"cannot write mnist into root=.*MNIST.*choose another folder with root="):
        load("mnist", root=tmp_path)


def test_a_download_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    declare_cifar(monkeypatch, cifar_files())
    name = datasets.CIFAR10.filename
    (tmp_path / name).mkdir()
    with server({name: b"never written"}, {}) as address:
        monkeypatch.setattr(datasets.CIFAR10, "url", address + name)
        with pytest.raises(OSError, match=rf"cannot write cifar10 into root=.*{name}.*choose another folder"):
            load("cifar10", root=tmp_path)


def test_a_folder_that_may_only_be_read_serves_what_it_holds(tmp_path, monkeypatch):
    no_network(monkeypatch)
    raw = write_mnist(tmp_path)
    for folder in (raw, raw.parent, tmp_path):
        folder.chmod(0o500)
    try:
        if os.access(tmp_path, os.W_OK):
            pytest.skip("this account may write anywhere")
        assert len(load("mnist", batch_size=5, root=tmp_path).train.dataset) == 12
        with pytest.raises(OSError, match="cannot write fashion-mnist into root="):
            load("fashion-mnist", root=tmp_path)
    finally:
        for folder in (tmp_path, raw.parent, raw):
            folder.chmod(0o700)
