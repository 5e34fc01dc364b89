"""The two models: shapes, parts, and the errors of their maker."""

import numpy as np
import pytest
import torch
from torch import nn

from course_utils.models import CNN, MLP, MODELS, make_model


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    ("shape", "num_classes"), [((1, 8, 8), 10), ((1, 28, 28), 10), ((3, 32, 32), 7), ((2, 5, 9), 3)]
)
def test_logits_have_a_row_for_each_input_and_a_column_for_each_class(name, shape, num_classes):
    model = make_model(name, shape, num_classes)
    assert model(torch.zeros(4, *shape)).shape == (4, num_classes)


@pytest.mark.parametrize("name", MODELS)
def test_the_classifier_reads_what_the_base_found(name):
    model = make_model(name)
    x = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(model(x), model.classifier(model.base(x)))
    parts = {*map(id, model.base.parameters()), *map(id, model.classifier.parameters())}
    assert parts == set(map(id, model.parameters()))


def test_mlp_computes_what_its_weights_say():
    model = MLP((1, 2, 1), num_classes=2, hidden=(2,))
    with torch.no_grad():
        model.base[1].weight.copy_(torch.tensor([[1.0, 1.0], [1.0, -1.0]]))
        model.base[1].bias.copy_(torch.tensor([0.0, 0.5]))
        model.classifier.weight.copy_(torch.tensor([[1.0, 2.0], [0.0, 3.0]]))
        model.classifier.bias.copy_(torch.tensor([0.1, 0.2]))
    # x = (1, 2): hidden = relu(3, -0.5) = (3, 0); logits = (3 + 0.1, 0 + 0.2)
    logits = model(torch.tensor([[[[1.0], [2.0]]]]))
    torch.testing.assert_close(logits, torch.tensor([[3.1, 0.2]]))


@pytest.mark.parametrize(("model", "count"), [(MLP(), 64 * 64 * 2 + 64 * 2 + 650), (CNN(), 160 + 4640 + 1290)])
def test_number_of_weights(model, count):
    assert sum(weight.numel() for weight in model.parameters()) == count


def test_mlp_without_hidden_layers_is_one_linear_layer():
    layers = [layer for layer in MLP(hidden=()).modules() if isinstance(layer, nn.Linear)]
    assert [tuple(layer.weight.shape) for layer in layers] == [(10, 64)]


@pytest.mark.parametrize("name", MODELS)
def test_the_same_seed_gives_the_same_weights(name):
    def weights():
        torch.manual_seed(3)
        return [weight.clone() for weight in make_model(name).parameters()]

    assert all(torch.equal(one, other) for one, other in zip(weights(), weights(), strict=True))


def test_an_unknown_model_names_the_nearest():
    with pytest.raises(ValueError, match=r"unknown model 'cn': did you mean 'cnn'\? known: mlp, cnn"):
        make_model("cn")


def test_images_too_small_for_the_cnn_are_refused_with_their_shape():
    with pytest.raises(ValueError, match=r"height and width must be at least 4, got shape \(1, 3, 8\)"):
        CNN((1, 3, 8))


def test_a_shape_that_is_no_image_is_refused_by_the_cnn():
    with pytest.raises(ValueError, match=r"shape \(channels, height, width\), got \(64,\)"):
        make_model("cnn", (64,))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (64, r"shape must be a tuple of whole numbers, such as \(1, 8, 8\), got 64"),
        (None, r"shape must be a tuple of whole numbers.*got None"),
        ("188", r"shape must be a tuple of whole numbers.*got '188'"),
        ((1, 8, 0), r"shape\[2\] must be a whole number of at least 1, got 0"),
        ((1, 8.0, 8), r"shape\[1\] must be a whole number of at least 1, got 8\.0"),
        ((1, 8, True), r"shape\[2\] must be a whole number of at least 1, got True"),
        ((1, 2**20, 2**20), r"the (MLP|CNN) would have .*e\+1. weights, and 1e\+09 is the most: give a smaller shape"),
    ],
)
def test_a_shape_that_makes_no_model_is_refused(name, shape, message):
    with pytest.raises(ValueError, match=message):
        make_model(name, shape)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("num_classes", [0, -1, 2.5, "10", None, True])
def test_a_number_of_classes_that_makes_no_model_is_refused(name, num_classes):
    with pytest.raises(ValueError, match=f"num_classes must be a whole number of at least 1, got {num_classes!r}"):
        make_model(name, num_classes=num_classes)


def test_bad_widths_and_channels_are_refused():
    with pytest.raises(ValueError, match=r"hidden\[1\] must be a whole number of at least 1, got 0"):
        MLP(hidden=(64, 0))
    with pytest.raises(ValueError, match=r"hidden must be a tuple of whole numbers.*got 64"):
        MLP(hidden=64)
    with pytest.raises(ValueError, match=r"channels must be those of the two convolutions.*got \(16, 32, 64\)"):
        CNN(channels=(16, 32, 64))


def test_sizes_may_be_numpys():
    model = make_model("cnn", [np.int64(1), np.int32(8), 8], np.uint8(7))
    assert model(torch.zeros(2, 1, 8, 8)).shape == (2, 7)
