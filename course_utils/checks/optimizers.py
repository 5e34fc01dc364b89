"""Lesson 01's checks: three optimizers' steps, parameter groups, forgotten parameters, a new head."""

import copy
import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from course_utils.checks.runner import Answer, exercise
from course_utils.checks.values import Wrong, compare, first_difference, name_mistake, number, same, short, tensor


class _BaseAndClassifier(nn.Module):
    """A small network of a base and a classifier; a larger one also has a layer and a parameter outside both."""

    def __init__(self, *, larger: bool = False, num_classes: int = 3):
        super().__init__()
        self.base = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 4), nn.ReLU())
        self.norm = nn.LayerNorm(4) if larger else nn.Identity()
        self.classifier = nn.Linear(4, num_classes)
        if larger:
            self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        logits = self.classifier(self.norm(self.base(x)))
        return logits * self.scale if hasattr(self, "scale") else logits


def _net_with_gradients() -> _BaseAndClassifier:
    net = _BaseAndClassifier(larger=True).double()
    x = torch.randn(6, 4, dtype=torch.float64)
    nn.functional.cross_entropy(net(x), torch.randint(3, (6,))).backward()
    return net


def _gradients(net: nn.Module) -> list[Tensor]:
    """Return the gradients that are there."""
    return [p.grad for p in net.parameters() if p.grad is not None]


def _flat(tensors: Iterable[Tensor]) -> Tensor:
    return torch.cat([torch.empty(0), *(tensor.detach().flatten() for tensor in tensors)])


@exercise(
    "01-sgd-step",
    "Write SGD's step",
    may_change=[0],
    returns_nothing=True,
    praise="Your step leaves the weights where torch.optim.SGD leaves them.",
)
def sgd_step(answer: Answer) -> None:
    """Check exercise 1 of lesson 01: one step of plain SGD on a list of parameters, in place."""
    for lr in (0.3, 0.05):
        net = _net_with_gradients()
        twin = copy.deepcopy(net)
        for mine, its in zip(net.parameters(), twin.parameters(), strict=True):
            its.grad = copy.deepcopy(mine.grad)
        old, gradients = _flat(net.parameters()), _flat(_gradients(net))
        torch.optim.SGD(twin.parameters(), lr=lr).step()
        right = _flat(twin.parameters())
        params = list(net.parameters())
        try:
            given = answer(params, lr)
        except RuntimeError as error:
            if "in-place operation" in str(error):
                raise Wrong(
                    "Autograd records operations on parameters and refuses to let you change them in place. A step is "
                    "not part of the forward pass: put your loop under `with torch.no_grad():`."
                ) from error
            raise
        first = params[0].numel()
        if not same(_flat(_gradients(net)), gradients):
            raise Wrong(
                "Your step changed the gradients. step() only reads them; clearing them is the job of zero_grad()."
            )
        new = _flat(net.parameters())
        if same(new, old) and isinstance(given, list) and _is_list_of_tensors(given) and same(_flat(given), right):
            raise Wrong(
                "You returned new tensors with the right numbers, but the model still holds its old ones. Change the "
                "parameters themselves, in place."
            )
        only_first = torch.cat([right[:first], old[first:]])
        compare(
            new,
            right,
            [
                (
                    old,
                    "No parameter has changed. `p = p - …` makes a new tensor and calls it p; the model keeps the old "
                    "one. Change it in place: `p -= …`.",
                ),
                (
                    old + lr * gradients,
                    "Your step climbs: the loss rises along the gradient. new = old − lr × gradient.",
                ),
                (old - gradients, "You subtract the whole gradient. Multiply it by lr first."),
                (
                    old - lr * gradients.sign(),
                    "You use only the gradient's sign. SGD's step is lr × gradient: the steeper the "
                    "loss, the longer the step.",
                ),
                (old - lr * old, "You subtract lr × the parameter itself. The gradient of p is in p.grad."),
                (only_first, "Only the first parameter has changed. Is there a return, or a break, inside the loop?"),
                (lr * gradients, "Your new value is lr × gradient alone. Subtract the step from the old value."),
                (-lr * gradients, "Your new value is −lr × gradient alone. Subtract the step from the old value."),
                (old - 2 * lr * gradients, "Your step is twice as long as it should be. Is it taken twice?"),
            ],
            f"With lr {lr} the first weight should go from {old[0]:.4f} to {right[0]:.4f} (its gradient is "
            f"{gradients[0]:.4f}); yours went to {new[0]:.4f}.",
        )
    _skips_none(answer)


def _is_list_of_tensors(value: list[Any]) -> bool:
    return bool(value) and all(isinstance(item, Tensor) for item in value)


def _skips_none(answer: Answer) -> None:
    """Check that a parameter without a gradient, which no loss has reached, is skipped."""
    net = _net_with_gradients()
    params = list(net.parameters())
    params[1].grad = None
    try:
        answer(params, 0.1)
    except (TypeError, AttributeError) as error:
        raise Wrong(
            "The numbers are right, but here one parameter's grad is None: no loss has reached it, as in a frozen "
            f"layer. Skip such a parameter. (Your function stopped with {type(error).__name__}: {error})"
        ) from error


# A step of an optimizer with state: takes w and its state, returns the new w and the new state.

Step = Callable[..., tuple[Tensor, ...]]


def _unpack(value: Any, names: Sequence[str], shape: Sequence[int]) -> list[Tensor]:
    """Return the learner's return values as tensors of that shape."""
    if isinstance(value, Tensor) or not isinstance(value, tuple | list) or len(value) != len(names):
        raise Wrong(
            f"Your function returned {short(value)}. It should return {len(names)} tensors: `return "
            f"{', '.join(names)}`. What is not returned is forgotten before the next step."
        )
    # The square root of a negative number has a message of its own, so NaN is accepted here.
    for item in value:
        tensor(item.nan_to_num() if isinstance(item, Tensor) else item, shape)
    return [item.detach().to("cpu", torch.float64) for item in value]


def _momentum_path(step: Step, w: Tensor, gradients: Tensor, lrs: Sequence[float], momentum: float) -> Tensor:
    velocity, path = torch.zeros_like(w), []
    for gradient, lr in zip(gradients, lrs, strict=True):
        w, velocity = _unpack(step(w, gradient, velocity, lr, momentum), ("w", "velocity"), w.shape)
        path.append(w)
    return torch.stack(path)


_MOMENTUM_MISTAKES: list[tuple[Step, str]] = [
    (
        lambda w, g, v, lr, m: (w - lr * g, v),
        "These are steps of plain SGD. Either your step does not use the velocity, or you return the old "
        "velocity instead of the new one.",
    ),
    (
        lambda w, g, v, lr, m: (w + lr * (m * v + g), m * v + g),
        "Your step climbs. The velocity is a sum of gradients, so subtract it: new = old − lr × velocity.",
    ),
    (
        lambda w, g, v, lr, m: (w - lr * (m * v + (1 - m) * g), m * v + (1 - m) * g),
        "You take (1 − momentum) of the new gradient. Adam's running mean does that; torch's momentum "
        "adds the whole gradient.",
    ),
    (
        lambda w, g, v, lr, m: (w - (m * v + lr * g), m * v + lr * g),
        "You put lr into the velocity. That makes no difference while lr is constant, but here it changes, and torch "
        "multiplies by the current lr: velocity = momentum × velocity + gradient, new = old − lr × velocity.",
    ),
    (
        lambda w, g, v, lr, m: (w - lr * (g + m * (m * v + g)), m * v + g),
        "This is Nesterov's momentum (nesterov=True). Plain momentum takes the step lr × velocity.",
    ),
    (
        lambda w, g, v, lr, m: (w - lr * v, m * v + g),
        "You step with the old velocity. First update the velocity, then take the step.",
    ),
    (
        lambda w, g, v, lr, m: (w - lr * (v + m * g), v + m * g),
        "You multiply the gradient by the momentum, and the velocity never fades. It should be the other way round.",
    ),
    (
        lambda w, g, v, lr, m: (w - lr * (v + g), v + g),
        "Your velocity never fades: this is momentum 1. Multiply the old velocity by the momentum.",
    ),
    (
        lambda w, g, v, lr, m: (w - lr * (m * v + g), g),
        "You return the gradient instead of the velocity, so only one step is remembered.",
    ),
    (
        lambda w, g, v, lr, m: (w - lr * m * (v + g), m * (v + g)),
        "You multiply the new gradient by the momentum too. Only the old velocity fades.",
    ),
]


@exercise(
    "01-momentum-step",
    "Write the momentum step",
    praise="Your path is the one that torch.optim.SGD takes with momentum, even while lr changes.",
)
def momentum_step(answer: Answer) -> None:
    """Check exercise 2 of lesson 01: SGD with momentum, several steps with a changing learning rate."""
    for momentum in (0.9, 0.6):
        start, gradients = torch.randn(3, dtype=torch.float64), torch.randn(5, 3, dtype=torch.float64)
        lrs = (0.1 + torch.rand(5, dtype=torch.float64)).tolist()
        w = start.clone()
        optimizer, steps = torch.optim.SGD([w], lr=1.0, momentum=momentum), []
        for gradient, lr in zip(gradients, lrs, strict=True):
            optimizer.param_groups[0]["lr"] = lr
            w.grad = gradient.clone()
            optimizer.step()
            steps.append(w.clone())
        right = torch.stack(steps)
        path = _momentum_path(answer, start, gradients, lrs, momentum)
        if same(path, right):
            continue
        if same(path[0], gradients[0]):
            raise Wrong("Your two results are in the wrong order: return w first, then the velocity.")
        mistakes = [(_momentum_path(step, start, gradients, lrs, momentum), why) for step, why in _MOMENTUM_MISTAKES]
        at = first_difference(path, right)
        compare(
            path,
            right,
            mistakes,
            f"With momentum {momentum}, step {at + 1} should lead to {_row(right[at])}; yours "
            f"leads to {_row(path[at])}.",
        )


def _row(values: Tensor) -> str:
    return ", ".join(f"{value:.4f}" for value in values.tolist())


def _adam_path(step: Step, w: Tensor, gradients: Tensor, options: Sequence[float]) -> Tensor:
    m, v, path = torch.zeros_like(w), torch.zeros_like(w), []
    for count, gradient in enumerate(gradients, start=1):
        w, m, v = _unpack(step(w, gradient, m, v, count, *options), ("w", "m", "v"), w.shape)
        path.append(w)
    return torch.stack(path)


def _adam(
    *,
    squared: Callable[[Tensor], Tensor] = lambda g: g * g,
    correct_m: bool = True,
    correct_v: bool = True,
    inside: bool = False,
    root: bool = True,
    sign: float = -1,
    swapped: bool = False,
    later: int = 0,
    whole: bool = False,
    keep_corrected: bool = False,
    constant_step: bool = False,
) -> Step:
    """Return Adam's step with one mistake in it."""

    def step(w, g, m, v, count, lr, beta1, beta2, eps):
        if swapped:
            beta1, beta2 = beta2, beta1
        count = 1 if constant_step else count + later
        m = beta1 * m + (1.0 if whole else 1 - beta1) * g
        v = beta2 * v + (1.0 if whole else 1 - beta2) * squared(g)
        mean = m / (1 - beta1**count) if correct_m else m
        square = v / (1 - beta2**count) if correct_v else v
        divisor = (square + eps).sqrt() if inside else (square.sqrt() if root else square) + eps
        kept = (mean, square) if keep_corrected else (m, v)
        return w + sign * lr * mean / divisor, *kept

    return step


_ADAM_MISTAKES: list[tuple[Step, str]] = [
    (
        _adam(correct_m=False, correct_v=False),
        "The bias correction is missing: m and v begin at 0, so divide m by 1 − beta1 ** step and v by 1 − beta2 ** "
        "step before you use them.",
    ),
    (_adam(correct_v=False), "You correct m but not v: divide v by 1 − beta2 ** step, too."),
    (_adam(correct_m=False), "You correct v but not m: divide m by 1 − beta1 ** step, too."),
    (
        _adam(root=False),
        "You divide by v itself. Take its square root first, so that the step does not grow with the loss.",
    ),
    (_adam(inside=True), "Your eps is under the root. torch adds it after the root: sqrt(v) + eps."),
    (_adam(sign=1), "Your step climbs: subtract it from the old w."),
    (_adam(swapped=True), "You swapped beta1 and beta2: beta1 belongs to m, beta2 to v."),
    (_adam(later=1), "Your correction is one step ahead: step is 1 in the very first call."),
    (_adam(squared=lambda g: g), "Your v averages the gradient itself. It should average its square."),
    (_adam(squared=lambda g: g.abs()), "Your v averages the gradient's absolute value. It should average its square."),
    (
        _adam(whole=True),
        "You add the whole gradient to m, and its whole square to v. In a running mean, the new value "
        "has the weight 1 − beta.",
    ),
    (
        _adam(keep_corrected=True),
        "You return the corrected m and v, so the next call corrects them again. Use the corrected ones only for the "
        "step, and return the uncorrected ones.",
    ),
    (_adam(constant_step=True), "You use the correction of step 1 at every step. Use the argument `step`."),
]


@exercise(
    "01-adam-step",
    "Write Adam's step",
    praise="Your path is the one that torch.optim.Adam takes.",
)
def adam_step(answer: Answer) -> None:
    """Check exercise 3 of lesson 01: Adam with bias correction, several steps."""
    for lr, beta1, beta2, eps in ((0.1, 0.8, 0.95, 0.03), (0.4, 0.6, 0.99, 0.2)):
        start, gradients = torch.randn(3, dtype=torch.float64), torch.randn(5, 3, dtype=torch.float64)
        w = start.clone()
        optimizer, steps = torch.optim.Adam([w], lr=lr, betas=(beta1, beta2), eps=eps), []
        for gradient in gradients:
            w.grad = gradient.clone()
            optimizer.step()
            steps.append(w.clone())
        right = torch.stack(steps)
        options = (lr, beta1, beta2, eps)
        path = _adam_path(answer, start, gradients, options)
        if same(path, right):
            continue
        at = first_difference(path, right)
        mistakes = [(_adam_path(step, start, gradients, options), why) for step, why in _ADAM_MISTAKES]
        no_number = (
            "Your w is NaN from the first step on. Do you divide by 1 − beta ** (step − 1)? That is 0 in the first "
            "call, where step is 1. Use the argument `step` as it is."
        )
        mistakes.append((torch.full_like(right, torch.nan), no_number))
        compare(
            path,
            right,
            mistakes,
            f"With lr {lr}, betas {beta1} and {beta2}, eps {eps}, step {at + 1} should lead to {_row(right[at])}; "
            f"yours leads to {_row(path[at])}.",
        )


@exercise(
    "01-make-groups",
    "Build the groups",
    praise="Each parameter is in exactly one group, with the learning rate meant for it.",
)
def make_groups(answer: Answer) -> None:
    """Check exercise 4 of lesson 01: the base at a tenth of the rate, everything else at the full rate."""
    for larger, lr in ((False, 0.5), (True, 0.02)):
        net = _BaseAndClassifier(larger=larger)
        groups = answer(net, lr)
        if isinstance(groups, torch.optim.Optimizer):
            raise Wrong("Your function returned an optimizer. Return the list of groups from which one is made.")
        if not isinstance(groups, list | tuple) or not all(isinstance(group, dict) for group in groups):
            raise Wrong(
                f"Your function returned {short(groups)}. It should return a list of dictionaries, each with "
                "'params' and its own options."
            )
        groups = [_read_group(group) for group in groups]
        names = {id(p): name for name, p in net.named_parameters()}
        seen: dict[int, float] = {}
        for group in groups:
            for p in group["params"]:
                if id(p) not in names:
                    raise Wrong("A group holds a tensor that is not one of the model's parameters.")
                if id(p) in seen:
                    raise Wrong(
                        f"`{names[id(p)]}` is in two groups; torch raises a ValueError for that. Put it in one."
                    )
                seen[id(p)] = number(group["lr"])
        _check_rates({names[key]: rate for key, rate in seen.items()}, list(names.values()), lr)


def _read_group(group: dict[str, Any]) -> dict[str, Any]:
    """Return a group with its parameters as a list, without names, after checking its keys."""
    if "params" not in group:
        raise Wrong(
            f"A group has the keys {', '.join(map(repr, group))}. Each group needs its parameters under 'params'."
        )
    known = torch.optim.SGD([torch.zeros(1)]).defaults
    unknown = [key for key in group if key != "params" and key not in known]
    if unknown:
        raise Wrong(
            f"{unknown[0]!r} is not an option of SGD. torch stores such a key without a warning, and the group keeps "
            "the default. The learning rate's key is 'lr'."
        )
    if "lr" not in group:
        raise Wrong("A group has no 'lr', so it would use the optimizer's default. Set the rate in each group.")
    params = [group["params"]] if isinstance(group["params"], Tensor) else list(group["params"])
    return {**group, "params": [p[1] if isinstance(p, tuple) else p for p in params]}


def _check_rates(rates: dict[str, float], names: list[str], lr: float) -> None:
    """Raise `Wrong` if a parameter is left out or has the wrong rate."""
    missing = [name for name in names if name not in rates]
    if missing:
        raise Wrong(
            f"No group holds {', '.join(f'`{name}`' for name in missing)}, so it would never be trained, "
            "without any warning. A model may have more than a base and a classifier: put everything outside "
            "the base into the second group."
        )
    right = {name: lr / 10 if name.startswith("base.") else lr for name in names}
    if same([rates[name] for name in names], list(right.values())):
        return
    mistakes = {
        "You swapped the rates: the base gets lr / 10, everything else lr.": (lr, lr / 10),
        "All parameters have the rate lr. The base should have lr / 10.": (lr, lr),
        "All parameters have the rate lr / 10. Only the base should have it.": (lr / 10, lr / 10),
        "Your base has the rate 10 × lr. It should have a tenth of lr: lr / 10.": (10 * lr, lr),
    }
    for why, (base, rest) in mistakes.items():
        if same([rates[name] for name in names], [base if name.startswith("base.") else rest for name in names]):
            raise Wrong(why)
    name = next(name for name in names if not same(rates[name], right[name]))
    raise Wrong(f"With lr {lr} the rate of `{name}` should be {right[name]:g}; yours is {rates[name]:g}.")


def _forgotten_cases() -> list[tuple[nn.Module, torch.optim.Optimizer, str]]:
    whole, headless, twin, frozen, grouped, grown, alone = (_BaseAndClassifier(larger=True) for _ in range(7))
    cases: list[tuple[nn.Module, torch.optim.Optimizer, str]] = [
        (headless, torch.optim.SGD(headless.base.parameters(), lr=0.1), "an optimizer that was given only the base"),
        (whole, torch.optim.SGD(whole.parameters(), lr=0.1), "an optimizer that was given all parameters"),
    ]
    cases.append((twin, torch.optim.Adam(copy.deepcopy(twin).parameters()), "an optimizer of a copy of the model"))
    frozen.base.requires_grad_(False)
    cases.append((frozen, torch.optim.SGD(frozen.classifier.parameters(), lr=0.1), "a model with a frozen base"))
    parts: list[dict[str, Any]] = [
        {"params": grouped.base.parameters()},
        {"params": grouped.classifier.parameters(), "lr": 1.0},
    ]
    cases.append((grouped, torch.optim.SGD(parts, lr=0.1), "an optimizer with two groups"))
    optimizer = torch.optim.SGD(grown.parameters(), lr=0.1)
    grown.extra = nn.Linear(4, 4)
    cases.append((grown, optimizer, "a model that was given a layer after its optimizer was made"))
    cases.append((alone, torch.optim.SGD([alone.scale], lr=0.1), "an optimizer that was given a single number"))
    return cases


@exercise(
    "01-forgotten",
    "Find the forgotten parameters",
    praise="You identify parameters by the tensors themselves, whatever their values and names.",
)
def forgotten(answer: Answer) -> None:
    """Check exercise 5 of lesson 01: the names of the trainable parameters that no group holds."""
    for model, optimizer, what in _forgotten_cases():
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        first = {id(p) for p in optimizer.param_groups[0]["params"]}
        named = list(model.named_parameters())
        right = [name for name, p in named if p.requires_grad and id(p) not in held]
        try:
            given = answer(model, optimizer)
        except RuntimeError as error:
            if "Boolean value" in str(error) or "must match the size" in str(error):
                raise Wrong(
                    "`in` and `==` compare tensors by their values, number by number. To find out whether it is the "
                    "same tensor, use `is`, or id(p) in a set."
                ) from error
            raise
        given = _names(given)
        if sorted(given) == sorted(right):
            continue
        equal = [
            name
            for name, p in named
            if p.requires_grad
            and not any(torch.equal(p, q) for group in optimizer.param_groups for q in group["params"])
        ]
        shapes = {p.shape for group in optimizer.param_groups for p in group["params"]}
        mistakes = [
            (
                [name for name, p in named if id(p) not in held],
                "You list frozen parameters too. They are left out on purpose: check p.requires_grad.",
            ),
            (
                [name for name, p in named if p.requires_grad and id(p) not in first],
                "You look only at the first group. Iterate over all of optimizer.param_groups.",
            ),
            (
                equal,
                "You compare values. A copy has the same values but is another tensor, and the optimizer updates only "
                "its own: compare with `is`, or with id(p).",
            ),
            (
                [name for name, p in named if p.requires_grad and p.shape not in shapes],
                "You compare shapes. Two tensors of the same shape are still two tensors: compare "
                "with `is`, or with id(p).",
            ),
            (
                [name for name, p in named if id(p) in held],
                "You list the parameters that the optimizer holds. List those that it does not hold.",
            ),
            (
                [name for name, p in named if p.requires_grad],
                "You list every trainable parameter. Leave out those that a group holds.",
            ),
        ]
        name_mistake(sorted(given), [(sorted(wrong), why) for wrong, why in mistakes], operator.eq)
        raise Wrong(f"For {what} the answer is {right}; yours is {short(given)}.")


def _names(value: Any) -> list[str]:
    """Return the learner's names, a list, tuple or set of strings, as a list."""
    if isinstance(value, str) or not hasattr(value, "__iter__"):
        raise Wrong(f"Your function returned {short(value)}. It should return a list of names.")
    names = list(value)
    for item in names:
        if isinstance(item, tuple):
            raise Wrong("Your list holds pairs of name and parameter. It should hold only the names.")
        if not isinstance(item, str):
            raise Wrong(
                f"Your list holds {short(item)}. It should hold names, as model.named_parameters() returns them."
            )
    return names


def _starter_loop(model, num_classes, batches, lr):
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    model.classifier = torch.nn.Linear(model.classifier.in_features, num_classes)
    for x, y in batches:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
    return model


def _train_with_new_head(
    model: Any,
    num_classes: int,
    batches: list,
    lr: float,
    *,
    momentum: float = 0.9,
    part: str = "",
    clear: bool = True,
    train: bool = True,
) -> nn.Module:
    """Train with a new head: as the solution does, or with one mistake."""
    model.classifier = nn.Linear(model.classifier.in_features, num_classes)
    trained = getattr(model, part) if part else model
    optimizer = torch.optim.SGD(trained.parameters(), lr=lr, momentum=momentum)
    for x, y in batches if train else []:
        if clear:
            optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model


_NEW_HEAD_MISTAKES: list[tuple[Callable[..., nn.Module], str]] = [
    (
        _starter_loop,
        "The new head has not moved: no group of your optimizer holds it. An optimizer holds the parameters that "
        "existed when it was made, so make it from model.parameters() after the model is complete.",
    ),
    (
        lambda *case: _train_with_new_head(*case, part="classifier"),
        "Only the new head has learned. The base should be trained too: pass model.parameters() to the optimizer.",
    ),
    (
        lambda *case: _train_with_new_head(*case, momentum=0.0),
        "These are steps without momentum. Did you drop momentum=0.9, or do you make a new optimizer for every batch? "
        "A new one starts without velocity: make it once, before the loop.",
    ),
    (
        lambda *case: _train_with_new_head(*case, clear=False),
        "The gradients of all batches pile up: keep optimizer.zero_grad().",
    ),
    (
        lambda *case: _train_with_new_head(*case, train=False),
        "Neither the head nor the base has moved. Keep the loop over the batches.",
    ),
]


def _train_copy(train: Callable[..., Any], case: tuple[nn.Module, int, list, float]) -> Any:
    """Return what a training function returns for a copy of the case's model; each call draws the same new head."""
    torch.manual_seed(1)
    return train(copy.deepcopy(case[0]), *case[1:])


@exercise(
    "01-new-head",
    "Cure this loop",
    may_change=[0],
    starter=_starter_loop,
    praise="The new head is trained, and so is the base, both with momentum.",
)
def new_head(answer: Answer) -> None:
    """Check exercise 6 of lesson 01: a model gets a new head, and head and base are trained with momentum."""
    for num_classes, lr in ((2, 0.1), (6, 0.3)):
        case = (
            _BaseAndClassifier(),
            num_classes,
            [(torch.randn(8, 4), torch.randint(num_classes, (8,))) for _ in range(4)],
            lr,
        )
        given = _train_copy(answer, case)
        if not isinstance(given, nn.Module):
            raise Wrong(f"Your function returned {short(given)}. It should return the model.")
        classes = getattr(given.classifier, "out_features", None)
        if classes != num_classes:
            raise Wrong(
                f"Your model's head has {classes} outputs; it should have {num_classes}. Keep the "
                "line that makes the head."
            )
        weights, right = _flat(given.parameters()), _flat(_train_copy(_train_with_new_head, case).parameters())
        mistakes = [(_flat(_train_copy(wrong, case).parameters()), why) for wrong, why in _NEW_HEAD_MISTAKES]
        compare(
            weights,
            right,
            mistakes,
            "Your weights differ from those of a model whose head is made once and then trained together with the "
            f"base by SGD with lr {lr} and momentum 0.9, one step for each batch.",
            rel_tol=1e-4,
        )
