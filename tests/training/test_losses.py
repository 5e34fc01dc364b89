"""What a loss divides by, against PyTorch's loss of the joined batch; and what it refuses."""

import random
import warnings
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from course_utils.training.losses import BatchLoss

WEIGHT = torch.tensor([1.0, 5.0, 0.5], dtype=torch.float64)


def random_numbers(*shape):
    generator = torch.Generator().manual_seed(len(shape))
    return torch.rand(*shape, generator=generator, dtype=torch.float64)


def labels(*shape, ignore=None, classes=3):
    y = torch.randint(0, classes, shape, generator=torch.Generator().manual_seed(1))
    if ignore is not None:
        y[:2] = ignore
    return y


@torch.no_grad()
def joined(loss, output, y, sizes=(1, 4, 3)):
    """Join the losses of micro-batches by their counts."""
    parts = list(zip(output.split(sizes), y.split(sizes), strict=True))
    losses, counts = [loss(*part) for part in parts], [loss.count(y, len(y)) for _, y in parts]
    if loss.reduction == "sum":
        return sum(losses)
    return sum(each * count for each, count in zip(losses, counts, strict=True) if count) / sum(counts)


def named(loss_fn):
    if isinstance(loss_fn, partial):
        return f"partial of {named(loss_fn.func)} {' '.join(loss_fn.keywords)}"
    return getattr(loss_fn, "__name__", str(loss_fn))


def distributions():
    return random_numbers(8, 3).softmax(1)


class Quiet(nn.CrossEntropyLoss):
    """A loss of PyTorch's by another name."""


class Focal(nn.CrossEntropyLoss):
    """A mean over all rows by the user's own forward, with a per-row loss of PyTorch's inside."""

    def __init__(self):
        super().__init__(reduction="none")

    def forward(self, input, target):
        each = super().forward(input, target)
        return ((1 - torch.exp(-each)) ** 2 * each).mean()


class Smooth(nn.CrossEntropyLoss):
    """Another forward that ends as PyTorch's own."""

    def forward(self, input, target):
        return super().forward(0.5 * input, target)


class Sequence(nn.CrossEntropyLoss):
    """Takes logits of shape (N, T, C)."""

    def forward(self, input, target):
        return super().forward(input.movedim(-1, 1), target)


INNER = partial(F.cross_entropy, reduction="mean")
INNER.note = "keeps Python from joining the two partials"
CLASSES = [
    partial(INNER, reduction="sum"),
    nn.CrossEntropyLoss(),
    nn.CrossEntropyLoss(reduction="sum"),
    nn.CrossEntropyLoss(WEIGHT),
    nn.CrossEntropyLoss(WEIGHT, label_smoothing=0.2),
    nn.CrossEntropyLoss(label_smoothing=0.2),
    nn.NLLLoss(),
    nn.NLLLoss(WEIGHT),
    F.cross_entropy,
    F.nll_loss,
    partial(F.cross_entropy, weight=WEIGHT),
    partial(partial(F.cross_entropy, weight=WEIGHT), label_smoothing=0.1),
    partial(partial(F.cross_entropy, reduction="mean"), reduction="sum"),
    partial(F.nll_loss, weight=WEIGHT),
    partial(nn.CrossEntropyLoss(WEIGHT)),
    Quiet(WEIGHT),
    Smooth(WEIGHT),
]


@pytest.mark.parametrize("loss_fn", CLASSES, ids=named)
@pytest.mark.parametrize("shape", [(8,), (8, 2), (8, 2, 5)], ids=str)
def test_micro_batches_of_class_indices_join_into_the_loss_of_the_whole(loss_fn, shape):
    output = random_numbers(shape[0], 3, *shape[1:]).log_softmax(1)
    # The first micro-batch has ignored labels only, where its loss is NaN.
    for y in (labels(*shape), labels(*shape, ignore=-100)):
        torch.testing.assert_close(joined(BatchLoss(loss_fn), output, y), loss_fn(output, y))


def test_an_ignored_class_of_ones_own_counts_in_modules_and_functions():
    output, y = random_numbers(8, 3), labels(8, ignore=1)
    for loss_fn in (nn.CrossEntropyLoss(ignore_index=1), partial(F.cross_entropy, ignore_index=1)):
        loss = BatchLoss(loss_fn)
        assert loss.ignore_index == 1
        assert loss.count(y, 8) == int((y != 1).sum())
        torch.testing.assert_close(joined(loss, output, y), loss_fn(output, y))


@pytest.mark.parametrize("loss_fn", [nn.CrossEntropyLoss(), nn.CrossEntropyLoss(WEIGHT, label_smoothing=0.1)], ids=str)
def test_micro_batches_of_class_probabilities_join(loss_fn):
    output, y = random_numbers(8, 3), distributions()
    torch.testing.assert_close(joined(BatchLoss(loss_fn), output, y), loss_fn(output, y))
    output, y = random_numbers(8, 3, 5), random_numbers(8, 3, 5).softmax(1)
    assert BatchLoss(loss_fn).count(y, 8) == 8 * 5
    torch.testing.assert_close(joined(BatchLoss(loss_fn), output, y), loss_fn(output, y))


@pytest.mark.parametrize(
    "loss_fn",
    [
        nn.MSELoss(),
        nn.MSELoss(reduction="sum"),
        nn.L1Loss(),
        nn.SmoothL1Loss(),
        nn.HuberLoss(),
        nn.BCELoss(),
        nn.BCELoss(torch.tensor([2.0])),
        nn.BCEWithLogitsLoss(pos_weight=torch.tensor([2.0])),
        nn.KLDivLoss(reduction="batchmean"),
        nn.KLDivLoss(reduction="sum"),
        nn.PoissonNLLLoss(),
        nn.HingeEmbeddingLoss(),
        nn.SoftMarginLoss(),
        nn.MultiLabelSoftMarginLoss(),
        F.mse_loss,
        F.huber_loss,
        partial(F.l1_loss, reduction="sum"),
        partial(F.kl_div, reduction="batchmean"),
        partial(F.smooth_l1_loss, beta=0.1),
    ],
    ids=named,
)
@pytest.mark.parametrize("shape", [(8,), (8, 3), (8, 2, 3)], ids=str)
def test_micro_batches_of_elementwise_losses_join(loss_fn, shape):
    output, y = random_numbers(*shape), 1 - random_numbers(*shape).flip(0)
    torch.testing.assert_close(joined(BatchLoss(loss_fn), output, y), loss_fn(output, y))


def test_margin_losses_and_the_mean_of_kl_div_join():
    output = random_numbers(8, 3)
    for loss_fn, y in [(nn.MultiMarginLoss(weight=WEIGHT), labels(8)), (nn.MultiLabelMarginLoss(), labels(8, 3))]:
        torch.testing.assert_close(joined(BatchLoss(loss_fn), output, y), loss_fn(output, y))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch would rather have "batchmean"
        loss_fn = nn.KLDivLoss()
        torch.testing.assert_close(
            joined(BatchLoss(loss_fn), output, distributions()), loss_fn(output, distributions())
        )


def test_batches_of_different_lengths_join_by_their_elements():
    loss = BatchLoss(nn.MSELoss())
    parts = [(random_numbers(2, n), random_numbers(2, n).square()) for n in (3, 7)]
    together = torch.cat([(output - y).square().flatten() for output, y in parts]).mean()
    with torch.no_grad():
        total = sum(loss(*part) * loss.count(part[1], 2) for part in parts)
    torch.testing.assert_close(total / sum(loss.count(y, 2) for _, y in parts), together)


def test_a_loss_under_autocast_joins():
    loss = BatchLoss(nn.CrossEntropyLoss(WEIGHT.float()))
    model, x, y = nn.Linear(6, 3), random_numbers(8, 6).float(), labels(8)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        output = model(x)
        assert output.dtype == torch.bfloat16
        torch.testing.assert_close(joined(loss, output, y), loss.loss_fn(output, y))


def test_counts_are_numbers_on_a_cpu_and_a_sum_counts_rows():
    y = labels(8, 5, ignore=-100)
    assert BatchLoss(nn.CrossEntropyLoss()).count(y, 8) == 30
    assert BatchLoss(nn.CrossEntropyLoss()).count(y.to(torch.uint8), 8) == 40
    byte = torch.tensor([256 - 100, 0], dtype=torch.uint8)  # -100 is the label that is ignored
    assert BatchLoss(nn.CrossEntropyLoss(torch.ones(200))).count(byte, 2) == 2
    assert BatchLoss(nn.CrossEntropyLoss(reduction="sum")).count(y, 8) == 8
    assert type(BatchLoss(nn.CrossEntropyLoss(WEIGHT)).count(y, 8)) is float
    assert BatchLoss(lambda output, y: output.mean()).count(y, 8) == 8
    assert BatchLoss(nn.CrossEntropyLoss()).count({"y": y}, 8) == 8
    assert BatchLoss(nn.KLDivLoss(reduction="batchmean")).count(random_numbers(8, 5), 8) == 8
    assert BatchLoss(nn.KLDivLoss()).count(random_numbers(8, 5), 8) == 40


def test_class_weights_on_another_device_are_copied_once_and_again_when_they_change():
    weight = torch.tensor([1.0, 2.0, 4.0])
    loss = BatchLoss(nn.CrossEntropyLoss(weight))
    loss.to(torch.device("meta"))
    loss.module.weight = weight  # as on another device
    y = torch.tensor([0, 1, 2, -100])
    assert loss.count(y, 4) == 7.0
    assert loss.count(y.to("meta"), 4).device.type == "meta"
    copied = loss._weight_on(weight, torch.device("meta"))
    assert loss._weight_on(weight, torch.device("meta")) is copied
    weight.mul_(2)
    assert loss._weight_on(weight, torch.device("meta")) is not copied
    assert loss.count(y, 4) == 14.0


def test_a_loss_of_ones_own_may_say_what_its_mean_divides_by():
    def loss_fn(output, y):
        return F.cross_entropy(output, y, ignore_index=0)

    output, y = random_numbers(8, 3), labels(8)
    for count in (lambda y: (y != 0).sum(), lambda y: float((y != 0).sum()), lambda y: (y != 0).sum()[None]):
        loss = BatchLoss(loss_fn, count=count, joins=True)
        loss(output.requires_grad_(), y)
        torch.testing.assert_close(joined(loss, output, y), loss_fn(output, y))
    assert BatchLoss(loss_fn, count=lambda y: np.int64(3)).count(y, 8) == 3.0


# The first batch of a loss of the user's own.


def contrastive(output, y):
    return F.cross_entropy(output @ output.T, torch.arange(len(output)))


def weighted(output, y):
    return F.cross_entropy(output, y, weight=WEIGHT)


def test_a_sum_that_does_not_say_so_is_refused_with_the_numbers():
    loss = BatchLoss(lambda output, y: F.mse_loss(output, y, reduction="sum"))
    output, y = torch.zeros(3, 1, requires_grad=True), torch.tensor([[1.0], [2.0], [3.0]])
    with pytest.raises(
        ValueError, match=r"adds up the rows .*\(1 rows give 1, the other 2 give 13, and all give 14\).*= 'sum'"
    ):
        loss(output, y)


def test_a_sum_that_says_so_is_a_sum_and_a_mean_must_not():
    def loss_fn(output, y):
        return (output - y).square().sum()

    loss_fn.reduction = "sum"
    output, y = random_numbers(8, 3).requires_grad_(), distributions()
    loss = BatchLoss(loss_fn, joins=True)
    assert loss.reduction == "sum"
    torch.testing.assert_close(joined(loss, output, y), loss_fn(output, y))
    assert BatchLoss(partial(lambda output, y, reduction: loss_fn(output, y), reduction="sum")).reduction == "sum"
    with pytest.raises(ValueError, match=r"reduction='sum', but it is a mean \(2 rows give .*its reduction to 'mean'"):
        BatchLoss(partial(lambda output, y, reduction: (output - y).square().mean(), reduction="sum"))(output, y)


@pytest.mark.parametrize("loss_fn", [contrastive, weighted])
def test_a_loss_that_does_not_join_is_refused_or_warned_of(loss_fn):
    output, y = random_numbers(8, 3).requires_grad_(), torch.tensor([0, 0, 1, 2, 1, 0, 2, 1])
    with pytest.raises(ValueError, match=r"neither the mean nor the sum.*give loss_count.*accumulation_steps=1"):
        BatchLoss(loss_fn, joins=True)(output, y)
    loss = BatchLoss(loss_fn)
    with pytest.warns(UserWarning, match=r"neither the mean nor the sum.*loss of an epoch is approximate"):
        loss(output, y)
    loss(output, y)  # once
    assert loss.takes_classes is False


@pytest.mark.parametrize(
    "loss_fn",
    [
        lambda output, y: F.cross_entropy(output, y),
        lambda output, y: 8 * F.cross_entropy(output, y),
        lambda output, y: F.cross_entropy(output, y) + 3,
        Focal(),
        Smooth(WEIGHT),
    ],
)
def test_a_mean_over_the_rows_is_accepted(loss_fn):
    output, y = random_numbers(8, 3).requires_grad_(), labels(8)
    joined_losses = joined(BatchLoss(loss_fn, joins=True), output, y)
    torch.testing.assert_close(joined_losses, loss_fn(output, y))


def test_a_forward_of_ones_own_is_not_taken_for_pytorchs():
    output, y = random_numbers(8, 3).requires_grad_(), labels(8, ignore=-100)
    loss = BatchLoss(Focal(), joins=True)
    loss(output, y)
    assert loss.count(y, 8) == 8
    output, y = random_numbers(8, 5, 3).requires_grad_(), labels(8, 5, ignore=-100)
    loss = BatchLoss(Sequence(), joins=True)
    torch.testing.assert_close(joined(loss, output, y), loss(output, y))


def test_a_loss_warns_as_often_as_it_is_called():
    def loss_fn(output, y):
        warnings.warn("look out", stacklevel=1)
        return output.sum()

    loss = BatchLoss(loss_fn)
    with pytest.warns(UserWarning, match=r"look out") as seen, pytest.raises(ValueError, match=r"adds up the rows"):
        loss(random_numbers(8, 3).requires_grad_(), labels(8))
    assert len(seen) == 1


def test_a_mean_in_half_precision_is_judged_in_single():
    output, y = random_numbers(64, 3).bfloat16().requires_grad_(), random_numbers(64, 3).square().bfloat16()
    BatchLoss(lambda output, y: (output - y).square().mean(), joins=True)(output, y)


def test_nested_outputs_and_targets_are_split_by_rows():
    def loss_fn(output, y):
        return F.mse_loss(output["a"], y[0]) + F.l1_loss(output["b"][0], y[1])

    output = {"a": random_numbers(8, 3).requires_grad_(), "b": [random_numbers(8)]}
    y = random_numbers(8, 3).square(), random_numbers(8).square()
    BatchLoss(loss_fn, joins=True)(output, y)
    with pytest.raises(ValueError, match=r"adds up the rows"):
        BatchLoss(lambda output, y: 5 * len(y[0]) * loss_fn(output, y))(output, y)


@pytest.mark.parametrize(
    "loss_fn",
    [
        lambda output, y: (output * torch.rand(3)).sum(),  # never twice the same
        lambda output, y: (output.reshape(8, 3) ** 2).sum(),  # no parts of a batch
        lambda output, y: (output * float("inf")).sum(),
    ],
)
def test_what_cannot_be_judged_is_accepted(loss_fn):
    output = random_numbers(8, 3).requires_grad_()
    BatchLoss(loss_fn, joins=True)(output, labels(8))


def test_batches_that_cannot_be_split_are_accepted():
    loss = BatchLoss(lambda output, y: output[0].sum(), joins=True)
    output = random_numbers(8, 3).requires_grad_()
    loss((output, torch.tensor(1.0)), labels(8))
    loss = BatchLoss(lambda output, y: output.sum(), joins=True)
    loss(output, "no tensor")
    loss = BatchLoss(lambda output, y: output.sum(), joins=True)
    loss(output, torch.tensor(1.0))


def test_the_first_batch_of_three_rows_is_judged():
    loss = BatchLoss(lambda output, y: output.sum())
    for rows in (1, 2):
        loss(torch.ones(rows, 1, requires_grad=True), torch.ones(rows, 1))
    with pytest.raises(ValueError, match=r"adds up the rows"):
        loss(torch.ones(3, 1, requires_grad=True), torch.ones(3, 1))


def test_judging_changes_neither_random_numbers_nor_the_loss():
    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))
            self.register_buffer("mean", torch.zeros(()))
            self.calls = 0

        def forward(self, output, y):
            self.calls += 1
            self.mean += output.detach().mean()
            return self.scale * (output * (random.random() + np.random.rand() + torch.rand(()))).mean()

    output, y = torch.ones(8, 3, requires_grad=True), labels(8)
    judged, plain = BatchLoss(Noisy(), joins=True), Noisy()
    drawn = []
    for call in (judged, plain):
        torch.manual_seed(0), np.random.seed(0), random.seed(0)
        loss = call(output, y)
        loss.backward()
        drawn.append((loss.item(), torch.rand(()).item(), np.random.rand(), random.random()))
    assert drawn[0] == drawn[1]
    assert judged.module.calls == plain.calls == 1
    assert torch.equal(judged.module.mean, plain.mean)
    assert torch.equal(judged.module.scale.grad, plain.scale.grad)


def test_judging_leaves_an_output_alone_that_the_loss_changes():
    def loss_fn(output, y):
        return output.mul_(2).square().mean()

    output = torch.ones(8, 3, requires_grad=True)
    loss = BatchLoss(loss_fn, joins=True)(output * 1.0, torch.ones(8, 3))
    loss.backward()
    assert loss == 4.0
    torch.testing.assert_close(output.grad, torch.full((8, 3), 8.0 / 24))


def test_a_count_that_a_loss_of_pytorchs_does_not_divide_by_is_found():
    output, y = random_numbers(8, 3).requires_grad_(), torch.tensor([0, 0, 1, 2, 1, 0, 2, 1])
    with pytest.raises(ValueError, match=r"neither the mean nor the sum"):
        BatchLoss(nn.CrossEntropyLoss(), count=lambda y: (y != 0).sum(), joins=True)(output, y)


def test_broadcasting_in_a_loss_of_ones_own_is_found():
    output, y = random_numbers(8, 1).requires_grad_(), random_numbers(8, 2)[:, 0]
    with pytest.raises(
        ValueError, match=r"output of shape \(8, 1\) and y of shape \(8,\), and broadcasting.*output.reshape"
    ):
        BatchLoss(lambda output, y: (output - y).square().mean())(output, y)
    BatchLoss(lambda output, y: (output.squeeze(1) - y).square().mean(), joins=True)(output, y)
    with pytest.warns(UserWarning, match=r"neither"):  # pairs of rows on purpose
        BatchLoss(lambda output, y: (output.flatten()[:, None] - y).square().mean())(output, y)


def test_accuracy_is_known_to_mean_something_for_losses_of_classes():
    assert BatchLoss(nn.CrossEntropyLoss()).takes_classes is True
    assert BatchLoss(Focal()).takes_classes is True
    assert BatchLoss(nn.MSELoss()).takes_classes is False
    assert BatchLoss(lambda output, y: output.mean()).takes_classes is None

    class Head(nn.Linear):
        """Makes logits of features in the loss."""

        def forward(self, output, y):
            return F.cross_entropy(super().forward(output), y)

    loss = BatchLoss(Head(4, 3))
    assert loss.takes_classes is False
    assert isinstance(loss.module, Head)


# What is refused.


@pytest.mark.parametrize(
    ("loss_fn", "error", "match"),
    [
        (nn.CrossEntropyLoss, TypeError, r"is the class CrossEntropyLoss.*add \(\), as in CrossEntropyLoss\(\)"),
        (partial(nn.MSELoss, reduction="sum"), TypeError, r"is the class MSELoss, not an instance"),
        ("mse", TypeError, r"loss_fn must be a function of \(logits, y\), got str"),
        (nn.CrossEntropyLoss(reduction="none"), ValueError, r"reduction='none'.*use 'mean' or 'sum'"),
        (nn.MSELoss(reduction="batchmean"), ValueError, r"reduction='batchmean'.*use 'mean' or 'sum'"),
        (partial(F.mse_loss, reduction="none"), ValueError, r"reduction='none'.*use 'mean' or 'sum'"),
        (partial(F.mse_loss, size_average=False), ValueError, r"size_average.*deprecated: use reduction='mean'"),
        (nn.TripletMarginLoss(), TypeError, r"TripletMarginLoss takes \(anchor, positive, negative\).*give a function"),
        (nn.CTCLoss(), TypeError, r"CTCLoss takes \(log_probs, targets, .*give a function of \(output, y\)"),
    ],
    ids=named,
)
def test_losses_that_cannot_be_trained_with_are_refused(loss_fn, error, match):
    with pytest.raises(error, match=match):
        BatchLoss(loss_fn)


def test_a_count_that_is_not_a_number_is_refused():
    with pytest.raises(TypeError, match=r"loss_count must be a function of y that returns a number, got 'rows'"):
        BatchLoss(nn.MSELoss(), count="rows")
    with pytest.raises(TypeError, match=r"loss_count must return one number.* got tensor\(\[1, 2\]\)"):
        BatchLoss(nn.MSELoss(), count=lambda y: y).count(torch.tensor([1, 2]), 2)


LOGITS = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
INDICES = torch.tensor([0, 1, 2, 1])
CE, MSE, BCE = nn.CrossEntropyLoss(), nn.MSELoss(), nn.BCEWithLogitsLoss()


@pytest.mark.parametrize(
    ("loss_fn", "output", "y", "match"),
    [
        (
            CE,
            LOGITS,
            INDICES[:, None],
            r"\(4, 3\), torch.float32, and y of shape \(4, 1\), torch.int64.*y.reshape\(-1\)",
        ),
        (CE, LOGITS, INDICES.float(), r"y of shape \(4,\), torch.float32: labels .* int64: use y.long\(\)"),
        (CE, torch.zeros(2, 3, 4), torch.zeros(2, 4).byte(), r"uint8: labels must be .* int64: use y.long\(\)"),
        (CE, LOGITS, INDICES.int(), r"torch.int32: labels must be .* int64: use y.long\(\)"),
        (CE, LOGITS, INDICES.bool(), r"torch.bool: labels must be .* int64: use y.long\(\)"),
        (CE, LOGITS, F.one_hot(INDICES), r"use y.argmax\(1\) for one-hot targets, or y.float\(\)"),
        (CE, LOGITS, torch.zeros(4, 2).long(), r"shape \(4,\), one for each place of the output"),
        (CE, LOGITS, torch.tensor([0, 1, 2, 3]), r"labels are 0 to 3, but with 3 classes they go from 0 to 2"),
        (CE, LOGITS, torch.tensor([1, -1, 2, 1]), r"labels are -1 to 2, but with 3 classes"),
        (CE, LOGITS[:, 0], INDICES.float(), r"shape \(4,\), torch.float32.*needs a dimension of classes"),
        (CE, LOGITS[:, :1], torch.ones(4, 1), r"with 1 class nothing can be learned: use BCEWithLogitsLoss"),
        (CE, torch.randn(4, 5, 3), torch.zeros(4, 5).long(), r"classes are dimension 1.*output.movedim\(-1, 1\)"),
        (nn.NLLLoss(), LOGITS, LOGITS.softmax(1), r"labels must be class indices of dtype int64: use y.argmax\(1\)"),
        (F.cross_entropy, LOGITS, INDICES.float(), r"^cross_entropy got an output of shape \(4, 3\)"),
        (nn.MultiMarginLoss(), LOGITS, torch.tensor([0, 1, 2, 3]), r"labels are 0 to 3"),
        (nn.MultiLabelMarginLoss(), LOGITS, LOGITS, r"labels must be class indices of dtype int64"),
        (MSE, LOGITS[:, :1], LOGITS[:, 0], r"\(4, 1\).* \(4,\).*same shape.*y.unsqueeze\(-1\)"),
        (MSE, LOGITS[:, 0], LOGITS[:, :1], r"\(4,\).* \(4, 1\).*same shape.*y.squeeze\(-1\)"),
        (MSE, LOGITS, LOGITS[:, :1], r"same shape, or each row would be compared with every other"),
        (nn.L1Loss(), LOGITS[:, :1], LOGITS[:, 0], r"same shape"),
        (nn.HuberLoss(), LOGITS[:, :1], LOGITS[:, 0], r"same shape"),
        (nn.SmoothL1Loss(), LOGITS[:, :1], LOGITS[:, 0], r"same shape"),
        (nn.PoissonNLLLoss(), LOGITS[:, :1], LOGITS[:, 0], r"same shape"),
        (nn.SoftMarginLoss(), LOGITS[:, :1], LOGITS[:, 0], r"same shape"),
        (partial(F.mse_loss, reduction="sum"), LOGITS[:, :1], LOGITS[:, 0], r"same shape"),
        (BCE, LOGITS[:, :1], torch.ones(4), r"same shape"),
        (MSE, LOGITS, INDICES, r"same shape.*For class indices, use CrossEntropyLoss"),
        (BCE, LOGITS, F.one_hot(INDICES), r"targets must be floats: use y.float\(\)"),
        (BCE, LOGITS[:, 0], INDICES.bool(), r"targets must be floats: use y.float\(\)"),
        (MSE, LOGITS[:, 0], INDICES.bool(), r"targets must be floats: use y.float\(\)"),
        (BCE, LOGITS[:, 0], INDICES.float(), r"targets are 0 to 2, but they must be from 0 to 1"),
        (
            nn.HuberLoss(),
            LOGITS,
            LOGITS.double(),
            r"torch.float64: both must have one dtype: use y.to\(torch.float32\)",
        ),
        (nn.BCELoss(), LOGITS.sigmoid(), LOGITS.sigmoid().double(), r"both must have one dtype"),
    ],
)
def test_batches_that_do_not_fit_are_refused_with_shapes_and_dtypes(loss_fn, output, y, match):
    with pytest.raises(ValueError, match=match):
        BatchLoss(loss_fn)(output.clone().requires_grad_(), y)


def test_a_later_batch_is_refused_too():
    for loss in (BatchLoss(MSE), BatchLoss(nn.KLDivLoss(reduction="batchmean"))):
        loss(LOGITS.clone().requires_grad_(), LOGITS)
        with pytest.raises(ValueError, match=r"y of shape \(4, 1\).*same shape"):
            loss(LOGITS, LOGITS[:, :1])
    loss = BatchLoss(CE)
    loss(LOGITS.clone().requires_grad_(), INDICES)
    with pytest.raises(ValueError, match=r"labels are 0 to 9"):
        loss(LOGITS, torch.tensor([0, 1, 2, 9]))
    with pytest.raises(RuntimeError, match=r"weight"):  # what is not known better is PyTorch's error
        BatchLoss(nn.CrossEntropyLoss(torch.ones(7)))(LOGITS, INDICES)


@pytest.mark.parametrize("output", [(LOGITS, LOGITS), {"logits": LOGITS}], ids=["tuple", "dict"])
def test_an_output_of_several_parts_needs_a_function_that_chooses(output):
    with pytest.raises(TypeError, match=r"takes a tensor, but the model returned a (tuple|dict): choose the part"):
        BatchLoss(CE)(output, INDICES)
    with pytest.raises(TypeError, match=r"takes a tensor, but y is a (tuple|dict): choose the part"):
        BatchLoss(CE)(LOGITS, output)


@pytest.mark.parametrize(
    ("value", "error", "match"),
    [
        (1.0, TypeError, r"must return a tensor, got float"),
        ((LOGITS.sum(), LOGITS), TypeError, r"must return a tensor, got tuple.*return the one that is to become small"),
        (LOGITS, ValueError, r"tensor of shape \(4, 3\).*use reduction='mean'"),
        (LOGITS.sum()[None], ValueError, r"tensor of shape \(1,\).*backward\(\) needs one number"),
        (LOGITS.sum(), ValueError, r"a loss without a graph.*\.detach\(\).*frozen weights"),
    ],
    ids=["float", "tuple", "rows", "list of one", "no graph"],
)
def test_what_is_not_a_loss_is_refused(value, error, match):
    with pytest.raises(error, match=match):
        BatchLoss(lambda output, y: value)(LOGITS, INDICES)


def test_a_loss_needs_a_graph_in_training_only():
    with torch.no_grad():
        assert torch.equal(BatchLoss(CE)(LOGITS, INDICES), CE(LOGITS, INDICES))


def test_a_compiled_loss_is_the_loss_inside():
    loss = BatchLoss(torch.compile(nn.CrossEntropyLoss(WEIGHT), backend="eager"))
    assert type(loss.module) is nn.CrossEntropyLoss
    assert loss.count(torch.tensor([0, 1]), 2) == 6.0
