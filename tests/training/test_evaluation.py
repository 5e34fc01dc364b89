"""Loss and accuracy over batches against PyTorch on all of the data at once."""

import math
from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from course_utils.training.evaluation import Evaluation, evaluate, modes_kept
from course_utils.training.loaders import Batch
from course_utils.training.losses import BatchLoss

CPU = torch.device("cpu")


class Logits(nn.Module):
    """Returns its inputs: the logits are the data."""

    def forward(self, x):
        return x


def numbers(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def labels(*shape, classes=3):
    return torch.randint(0, classes, shape, generator=torch.Generator().manual_seed(3))


def batches(output, y, sizes=(5, 2, 1)):
    """Batches of unequal size."""
    return [Batch(x, t, len(t)) for x, t in zip(output.split(sizes), y.split(sizes), strict=True)]


def evaluated(loss_fn, data, model=None, **options):
    loss = loss_fn if isinstance(loss_fn, BatchLoss) else BatchLoss(loss_fn)
    return evaluate(model or Logits(), loss, data, device=CPU, autocast=nullcontext(), **options)


@pytest.mark.parametrize("ignored", [0, 3, 8])
@pytest.mark.parametrize("shape", [(8,), (8, 4), (8, 4, 2)], ids=str)
def test_weights_and_ignored_labels_count_as_in_one_batch(shape, ignored):
    loss_fn = nn.CrossEntropyLoss(torch.tensor([1.0, 7.0, 0.5], dtype=torch.float64), ignore_index=2)
    output, y = numbers(shape[0], 3, *shape[1:]), labels(*shape)
    y[8 - ignored :] = 2  # the last batches have no labels that count
    result = evaluated(loss_fn, batches(output, y))
    expected, kept = loss_fn(output, y).item(), y != 2
    assert result.loss == pytest.approx(expected, nan_ok=True)
    assert math.isnan(result.loss) == (ignored == 8)
    if ignored == 8:
        assert result.accuracy is None
        assert result.figures().keys() == {"valid_loss"}
    else:
        assert result.accuracy == (output.argmax(1) == y)[kept].double().mean().item()
        assert result.figures() == {"valid_loss": result.loss, "valid_accuracy": result.accuracy}


@pytest.mark.parametrize(
    "loss_fn", [nn.MSELoss(), nn.KLDivLoss(reduction="batchmean"), nn.BCEWithLogitsLoss()], ids=str
)
def test_a_mean_over_batches_is_that_of_one_batch(loss_fn):
    output, y = numbers(8, 3), numbers(8, 3).softmax(1).flip(0)
    assert evaluated(loss_fn, batches(output, y)) == (pytest.approx(loss_fn(output, y).item()), None)


def test_a_sum_is_reported_per_row():
    output, y = numbers(8, 3), labels(8)
    result = evaluated(nn.CrossEntropyLoss(reduction="sum"), batches(output, y))
    assert result.loss == pytest.approx(F.cross_entropy(output, y).item())


def test_processes_join_as_one_batch():
    """The other process has the second half; a process may have none."""
    loss = BatchLoss(nn.CrossEntropyLoss(torch.tensor([1.0, 7.0, 0.5], dtype=torch.float64)))
    output, y = numbers(8, 3), labels(8)
    rows = []
    with pytest.raises(ValueError, match=r"no batches"):
        evaluated(loss, [], all_reduce_sum=lambda sums: rows.append(sums[0]) or sums)
    evaluated(loss, batches(output[:4], y[:4], [3, 1]), all_reduce_sum=lambda sums: rows.append(sums[0]) or sums)
    result = evaluated(
        loss,
        batches(output[4:], y[4:], [4]),
        all_reduce_sum=lambda sums: [[sum(each) for each in zip(*rows, sums[0], strict=True)]],
    )
    assert result.loss == pytest.approx(loss.loss_fn(output, y).item())
    assert result.accuracy == (output.argmax(1) == y).double().mean().item()


@pytest.mark.parametrize(
    ("output", "y"),
    [
        pytest.param(numbers(8, 3), labels(8, 1), id="labels (N, 1)"),
        pytest.param(numbers(8, 3), labels(8, 3, classes=2), id="multi-label"),
        pytest.param(numbers(8, 3), numbers(8, 3), id="regression"),
        pytest.param(numbers(8, 3), labels(8, classes=2).bool(), id="bool"),
        pytest.param(numbers(8, 3), labels(8, classes=9), id="labels above the classes"),
        pytest.param(numbers(8, 3), -labels(8), id="negative labels"),
        pytest.param(numbers(8, 1), labels(8, classes=1), id="one class"),
        pytest.param(numbers(8), labels(8), id="no classes"),
        pytest.param(numbers(8, 5, 3), labels(8, 5), id="sequence"),
        pytest.param(numbers(8, 5, 5), labels(8, 5), id="square sequence"),
        pytest.param(numbers(8, 3).long(), labels(8), id="integers"),
        pytest.param(numbers(8, 3), labels(8).to_sparse(), id="sparse labels"),
        pytest.param(numbers(8, 3).to_sparse(), labels(8), id="sparse"),
        pytest.param(torch.nested.nested_tensor([numbers(8, 3)], layout=torch.jagged), labels(8), id="nested"),
        pytest.param((numbers(8, 3), numbers(8, 3)), labels(8), id="tuple"),
        pytest.param({"logits": numbers(8, 3)}, labels(8), id="dict"),
        pytest.param(numbers(8, 3), {"a": labels(8), "b": labels(8)}, id="dict of labels"),
        pytest.param(numbers(8, 3), (labels(8), labels(8)), id="tuple of labels"),
    ],
)
def test_accuracy_is_none_where_it_has_no_meaning(output, y):
    class Constant(nn.Module):
        def forward(self, x):
            return output

    data = [Batch(numbers(8, 3), y, 8)]
    assert evaluated(lambda output, y: torch.ones(()), data, Constant()) == Evaluation(1.0, None)


def test_one_batch_without_classes_leaves_no_accuracy():
    data = [Batch(numbers(8, 3), labels(8), 8), Batch(numbers(8, 3), numbers(8, 3).softmax(1), 8)]
    assert evaluated(nn.CrossEntropyLoss(), data[:1]).accuracy is not None
    assert evaluated(nn.CrossEntropyLoss(), data).accuracy is None


def test_features_that_the_loss_turns_into_logits_have_no_accuracy():
    class Head(nn.Linear):
        def forward(self, output, y):
            return F.cross_entropy(super().forward(output), y)

    assert evaluated(Head(3, 3, dtype=torch.float64), [Batch(numbers(8, 3), labels(8), 8)]).accuracy is None


def test_labels_of_every_integer_dtype_have_an_accuracy():
    output, y = numbers(8, 3), labels(8)
    expected = (output.argmax(1) == y).double().mean().item()
    for dtype in (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64):
        result = evaluated(lambda output, y: F.cross_entropy(output, y.long()), [Batch(output, y.to(dtype), 8)])
        assert result.accuracy == expected


def test_a_class_whose_number_as_a_byte_is_that_of_an_ignored_label_counts():
    output, y = numbers(8, 200), torch.full((8,), 256 - 100, dtype=torch.uint8)
    output[:6, 156] = 9.0
    assert evaluated(nn.CrossEntropyLoss(), [Batch(output, y, 8)]).accuracy == 0.75


def test_no_graph_evaluation_mode_and_all_modes_back():
    model = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5), nn.BatchNorm1d(3)).double()
    model[2].eval()

    class Penalty(nn.Module):
        def __init__(self):
            super().__init__()
            self.drop = nn.Dropout(0.5)

        def forward(self, output, y):
            seen.append((self.training, self.drop.training, torch.is_grad_enabled(), torch.is_inference_mode_enabled()))
            return F.cross_entropy(output, y)

    seen, loss = [], BatchLoss(Penalty())
    loss.module.drop.eval()
    data = [Batch(numbers(8, 3), labels(8), 8)]
    assert evaluated(loss, data, model).loss == evaluated(loss, data, model).loss
    assert set(seen) == {(False, False, False, False)}
    assert [module.training for module in model.modules()] == [True, True, True, False]
    assert [module.training for module in loss.module.modules()] == [True, False]
    with pytest.raises(RuntimeError, match=r"size mismatch|shapes cannot be multiplied"):
        evaluated(loss, [Batch(numbers(8, 2), labels(8), 8)], model)
    assert model.training
    assert loss.module.training


def test_what_a_layer_keeps_from_evaluation_can_be_trained_with():
    class Cached(nn.Linear):
        scale = None

        def forward(self, x):
            if self.scale is None:
                self.scale = torch.full((3,), 2.0)
            return super().forward(x) * self.scale

    model = Cached(3, 3)
    data = [Batch(numbers(8, 3).float(), labels(8), 8)]
    evaluated(nn.CrossEntropyLoss(), data, model)
    model(data[0].inputs).sum().backward()
    assert model.weight.grad is not None


def test_a_training_mode_that_is_on_keeps_its_frozen_layers():
    model, loss = nn.Sequential(nn.BatchNorm1d(3), nn.Dropout()), nn.Sequential(nn.Dropout()).eval()
    model[0].eval()
    with modes_kept(model, None, loss, training=True):
        assert [module.training for module in (model, model[0], model[1], loss, loss[0])] == [
            True,
            False,
            True,
            True,
            True,
        ]
    assert [module.training for module in (model, model[0], loss, loss[0])] == [True, False, False, False]


def test_batches_reach_the_model_by_position_and_by_name_and_the_callback():
    class Two(nn.Module):
        def forward(self, a, b):
            return a + b

    a, b, y, seen = numbers(8, 3), numbers(8, 3).flip(0), labels(8), []
    data = [Batch((a, b), y, 8), Batch({"b": b, "a": a}, y, 8)]
    result = evaluated(nn.CrossEntropyLoss(), data, Two(), on_batch=lambda *each: seen.append(each))
    assert result.loss == pytest.approx(F.cross_entropy(a + b, y).item())
    assert len(seen) == 2
    assert torch.equal(seen[1][0], a + b)
    assert torch.equal(seen[1][1], y)


def test_the_loss_is_computed_in_the_autocast_context():
    model, dtypes = nn.Linear(3, 3), []
    data = [Batch(numbers(8, 3).float(), labels(8), 8)] * 2
    evaluate(
        model,
        BatchLoss(nn.CrossEntropyLoss()),
        data,
        device=CPU,
        autocast=torch.autocast("cpu", torch.bfloat16),
        on_batch=lambda output, y: dtypes.append(output.dtype),
    )
    assert dtypes == [torch.bfloat16] * 2
