"""The two models of the course: each has a `base` that computes features and a `classifier` that computes logits."""

import itertools
import math
from collections.abc import Sequence

from torch import Tensor, nn

from course_utils.errors import unknown_name


class MLP(nn.Module):
    """A multilayer perceptron: flatten, then Linear and ReLU for each hidden width, then a Linear classifier.

    Args:
        shape: the shape of one input, for example (1, 8, 8).
        num_classes: the number of logits.
        hidden: the widths of the hidden layers.

    Shapes: input (batch, *shape), logits (batch, num_classes).
    """

    def __init__(self, shape: Sequence[int] = (1, 8, 8), num_classes: int = 10, hidden: Sequence[int] = (64, 64)):
        super().__init__()
        widths = [math.prod(shape), *hidden]
        layers: list[nn.Module] = [nn.Flatten()]
        for width_in, width_out in itertools.pairwise(widths):
            layers += [nn.Linear(width_in, width_out), nn.ReLU()]
        self.base = nn.Sequential(*layers)
        self.classifier = nn.Linear(widths[-1], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.base(x))


class CNN(nn.Module):
    """A small convolutional network: two 3×3 convolutions, each with ReLU and 2×2 pooling, then a Linear classifier.

    Args:
        shape: the shape of one input: (channels, height, width), height and width at least 4.
        num_classes: the number of logits.
        channels: the output channels of the two convolutions.

    Shapes: input (batch, *shape), logits (batch, num_classes).

    Raises:
        ValueError: the shape is not that of an image, or the image is too small.
    """

    def __init__(self, shape: Sequence[int] = (1, 8, 8), num_classes: int = 10, channels: tuple[int, int] = (16, 32)):
        super().__init__()
        if len(shape) != 3:
            raise ValueError(f"the CNN needs images of shape (channels, height, width), got {tuple(shape)}")
        depth, height, width = shape
        if min(height, width) < 4:
            raise ValueError(
                f"the CNN halves its images twice: height and width must be at least 4, got shape {tuple(shape)}"
            )
        first, second = channels
        self.base = nn.Sequential(
            nn.Conv2d(depth, first, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(first, second, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
        )
        self.classifier = nn.Linear(second * (height // 4) * (width // 4), num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.base(x))


MODELS: dict[str, type[MLP] | type[CNN]] = {"mlp": MLP, "cnn": CNN}


def make_model(name: str, shape: Sequence[int] = (1, 8, 8), num_classes: int = 10) -> nn.Module:
    """Return a new model by its name, "mlp" or "cnn", with weights drawn from PyTorch's global generator.

    Raises:
        ValueError: the name is unknown; the nearest one is suggested.
    """
    if name not in MODELS:
        raise unknown_name("model", name, MODELS)
    return MODELS[name](shape, num_classes)
