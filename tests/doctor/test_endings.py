"""A block that ended with an error says so first, and explains PyTorch's message where it is known."""

import gc
import re
import weakref

import pytest
import torch
import torch.nn.functional as F
from case_parts import CLASSES, SIZE, batches, network, rows, sgd
from loop_doctor import LoopDoctor
from torch import nn


def ended(function):
    """Run a function that fails, and return the doctor and what the block ended with."""
    with pytest.raises(Exception), LoopDoctor() as doctor:  # noqa: B017, PT011  whatever it is
        function()
    return doctor, doctor._seen().ending


def two_steps_through_one_graph():
    model, other = network(), nn.Linear(CLASSES, 1)
    first, second = sgd(model), sgd(other)
    output = model(rows()[0])
    output.sum().backward(retain_graph=True)
    first.step()
    other(output).sum().backward()  # <- error
    second.step()


def one_tensor_in_place():
    hidden = network()(rows()[0]).sigmoid()
    hidden += 1
    hidden.sum().backward()


def backward_twice():
    loss = network()(rows()[0]).square().mean()
    loss.backward()
    loss.backward()


def scaler(*calls):
    def run():
        model = nn.Linear(2, 1)
        optimizer, scaler = sgd(model), torch.amp.GradScaler("cpu")
        scaler.scale(model(torch.ones(1, 2)).sum()).backward()
        for call in calls:
            getattr(scaler, call)(optimizer)

    return run


def one_cycle():
    optimizer = sgd(network())
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=4)
    for _ in range(6):
        optimizer.step()
        scheduler.step()


def says(text):
    def run():
        raise RuntimeError(text)

    return run


X, Y = rows(16)
ERRORS = {
    "second backward": (backward_twice, "went through the same graph"),
    "stepped before backward": (two_steps_through_one_graph, "SGD.step() changed the weight `2.weight`"),
    "in place": (one_tensor_in_place, "A tensor of shape (88, 3) was changed in place"),
    "leaf in place": (lambda: torch.ones(2, requires_grad=True).add_(1), "A weight was changed in place"),
    "mat1 and mat2": (lambda: nn.Linear(4, 3)(X), "its input has 8 features, and the layer was built for 4"),
    "batch size": (lambda: F.cross_entropy(torch.zeros(16, 3), Y[:8]), "16 predictions and 8 targets"),
    "target size": (lambda: F.binary_cross_entropy(torch.rand(16, 1), torch.rand(16)), "shape (16, 1) and the target"),
    "target size, logits": (
        lambda: F.binary_cross_entropy_with_logits(torch.rand(16, 1), torch.rand(16)),
        "shape (16, 1) and the target (16)",
    ),
    "broadcast": (lambda: torch.ones(3, 4) + torch.ones(3, 5), "4 and 5 entries in dimension 1"),
    "channels": (lambda: nn.Conv2d(3, 4, 3)(torch.ones(2, 1, 8, 8)), "built for 3 channels"),
    "view": (lambda: X.view(-1, 10), "A tensor of 128 numbers cannot be given the shape (-1, 10)"),
    "stack": (lambda: torch.stack([X[0], X[0, :3]]), "(8) and (3), cannot be stacked"),
    "cat": (lambda: torch.cat([X, X[:, :3]]), "one has size 3 where the first has 8"),
    "recurrent": (lambda: nn.LSTM(5, 4)(torch.ones(2, 3, 6)), "built for 5 features at each time step"),
    "batch norm channels": (lambda: nn.BatchNorm1d(4)(X), "built for 4 channels, and its input has 8"),
    "multi-target": (lambda: F.cross_entropy(torch.zeros(16, 3), Y[:, None]), "one class index for each row"),
    "no graph": (lambda: X.sum().backward(), "a tensor without a graph"),
    "not a scalar": (lambda: (X * nn.Parameter(torch.ones(8))).backward(), "needs a single number"),
    "dtype": (lambda: nn.Linear(SIZE, 3)(X.double()), "types Double and Float"),
    "dtype of a convolution": (lambda: nn.Conv1d(8, 3, 1)(X.double()[..., None]), "types double and float"),
    "dtype of a target": (lambda: F.cross_entropy(torch.zeros(16, 3), Y.float()), "whole numbers of type long"),
    "dtype of a loss": (
        lambda: F.binary_cross_entropy_with_logits(torch.rand(16), torch.ones(16).long()),
        "types: Float and Long",
    ),
    "class": (lambda: F.cross_entropy(torch.zeros(16, 3), Y + 7), "is not an index of a class"),
    "embedding": (lambda: nn.Embedding(4, 3)(torch.tensor([5])), "a row that it does not have"),
    "embedding of floats": (lambda: nn.Embedding(4, 3)(torch.ones(3)), "looks rows up by their index"),
    "one row": (lambda: nn.BatchNorm1d(8)(X[:1]), "from a single row"),
    "not a probability": (lambda: F.binary_cross_entropy(X, X), "takes probabilities from 0 to 1"),
    "no parameters": (lambda: torch.optim.SGD([], 0.1), "received no weights"),
    "not a leaf": (lambda: torch.optim.SGD([nn.Parameter(torch.ones(2)) * 2], 0.1), "that no operation computed"),
    "missing keys": (lambda: nn.Linear(2, 2).load_state_dict(network().state_dict()), "do not match"),
    "module.": (
        lambda: nn.Linear(2, 1).load_state_dict({"module.weight": torch.ones(1, 2), "module.bias": torch.ones(1)}),
        "differ by the prefix `module.`",
    ),
    "size mismatch": (
        lambda: nn.Linear(2, 2).load_state_dict(nn.Linear(3, 2).state_dict()),
        "`weight` has shape (2, 3) in the checkpoint and (2, 2) in Linear",
    ),
    "one cycle": (one_cycle, "made for 4 steps, and this was step 5"),
    "unscaled twice": (scaler("unscale_", "unscale_"), "only once before each update()"),
    "stepped twice": (scaler("step", "step"), "asked for another step()"),
    "numpy": (lambda: torch.ones(2, requires_grad=True).numpy(), "cannot hold a graph"),
    "NaN": (
        lambda: torch.distributions.Categorical(logits=torch.full((3,), float("nan")), validate_args=True),
        "A distribution received NaN",
    ),
    "memory of the CPU": (lambda: torch.empty(10**15), "The memory was not enough"),
    # The words of other versions and of devices that a test cannot count on.
    "older one cycle": (says("Tried to step 12 times. The total number of steps is 10"), "made for 10 steps"),
    "memory": (says("CUDA out of memory. Tried to allocate 2.00 GiB. GPU"), "The memory was not enough"),
    "devices": (
        says("Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu!"),
        "must be on the same device",
    ),
    "device of a weight": (
        says("Input type (torch.cuda.FloatTensor) and weight type (torch.FloatTensor) should be the same"),
        "must be on the same device",
    ),
    "older dtype": (says("expected scalar type Long but found Float"), "whole numbers of type long"),
    "older dtype of a product": (says("expected scalar type Float but found Double"), "types Double and Float"),
    "assert": (says("CUDA error: device-side assert triggered"), "A check on the GPU failed"),
}


@pytest.mark.parametrize("name", ERRORS)
@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
def test_a_known_error_is_explained_in_plain_words(name):
    function, explanation = ERRORS[name]
    doctor, ending = ended(function)
    assert explanation in ending.explanation
    assert ending.fix
    compile(ending.fix.replace("…", "..."), "fix", "exec")
    assert ending.location.file == __file__
    card = str(doctor)
    assert card.startswith(f"Loop doctor: the block ended with {ending.kind}")
    assert ending.message in card
    assert ending.explanation in card
    assert len(ending.message) <= 160
    assert explanation in re.sub("</?code>", "`", doctor._repr_html_())


def test_an_unknown_error_is_named_with_its_line_and_not_explained():
    class Odd(Exception):
        def __str__(self):
            raise ValueError("no text")

    def run():
        for x, y in batches():
            F.cross_entropy(network()(x), y).backward()
            raise Odd

    doctor, ending = ended(run)
    assert (ending.kind, ending.explanation, ending.location.function) == ("Odd", "", "run")
    assert "nothing wrong" not in str(doctor)
    assert "none of the mistakes" not in doctor._repr_html_()
    assert "raise Odd" in str(doctor)


def test_a_message_with_markup_and_braces_is_quoted_as_it_is():
    doctor, ending = ended(says("<b>{odd}</b> & more"))
    assert ending.message == "<b>{odd}</b> & more"
    assert "&lt;b&gt;{odd}&lt;/b&gt; &amp; more" in doctor._repr_html_()


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_a_wish_to_stop_is_no_error(stop):
    with pytest.raises(stop), LoopDoctor() as doctor:
        raise stop
    assert doctor._seen().ending is None
    assert str(doctor).startswith("Loop doctor: nothing wrong was seen")


def test_an_error_that_the_loop_handles_itself_is_not_its_ending():
    with LoopDoctor() as doctor:
        try:
            backward_twice()
        except RuntimeError:
            network()
    assert doctor._seen().ending is None


def test_the_error_its_frames_and_its_tensors_are_not_kept():
    class Thing:
        pass

    def run():
        thing, tensor = Thing(), torch.ones(3)
        kept.extend([weakref.ref(thing), weakref.ref(tensor)])
        raise RuntimeError("CUDA out of memory")

    kept = []
    try:
        with LoopDoctor() as doctor:
            run()
    except RuntimeError:
        pass
    gc.collect()
    assert [reference() for reference in kept] == [None, None]
    assert "The block ended with an error" in str(doctor)


def test_a_finding_that_explains_the_error_comes_first():
    def run():
        cell, x = nn.RNNCell(SIZE, 4), rows(16)[0]
        optimizer, state = sgd(cell), None
        for _ in range(3):
            state = cell(x, state)
            optimizer.zero_grad()
            state.sum().backward()
            optimizer.step()

    doctor, ending = ended(run)
    card = str(doctor)
    assert card.startswith("Loop doctor: the block ended with RuntimeError, and there is 1 problem")
    assert card.index("1. hidden-state-not-detached") < card.index("The block ended with an error")
    assert "The finding hidden-state-not-detached above explains this error." in card
    assert ending.explanation not in card
    page = doctor._repr_html_()
    assert page.index("hidden-state-not-detached") < page.index("The block ended with an error")


def test_a_finding_that_does_not_explain_the_error_comes_after_it():
    def run():
        model = network()
        optimizer = sgd(model)
        for i, (x, y) in enumerate(batches() * 2):
            F.cross_entropy(model(x[:, :4] if i == 10 else x), y).backward()
            optimizer.step()

    doctor, ending = ended(run)
    card = str(doctor)
    assert card.index(ending.explanation) < card.index("1. missing-zero-grad")


def test_memory_that_ran_out_while_graphs_piled_up_is_explained_by_them():
    def run():
        model, losses = network(), []
        for x, y in batches() * 3:
            losses.append(F.cross_entropy(model(x), y))
            losses[-1].backward()
            if len(losses) == 12:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")

    doctor, ending = ended(run)
    assert "graphs of 10 past batches were still alive" in ending.explanation
    assert "The finding graph-kept-alive above explains this error." in str(doctor)


def test_a_weight_that_was_changed_by_hand_is_not_blamed_on_the_optimizer():
    def run():
        model = network()
        optimizer = sgd(model)
        optimizer.step()
        loss = model(rows()[0]).sum()
        with torch.no_grad():
            model[2].weight.clamp_(-0.1, 0.1)
        loss.backward()

    _, ending = ended(run)
    assert "A tensor of shape (16, 3) was changed in place" in ending.explanation
