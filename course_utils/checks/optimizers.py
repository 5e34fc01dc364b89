"""Lesson 01's checks: three optimizers' steps, parameter groups, forgotten parameters, a new head."""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from course_utils.checks.runner import Answer, exercise
from course_utils.checks.values import Wrong, number, same, short, tell, tensor


class _Net(nn.Module):
    """A small network of a base and a classifier; the larger ones have a layer and a number that lie in neither."""

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


def _with_gradients() -> _Net:
    net = _Net(larger=True).double()
    x = torch.randn(6, 4, dtype=torch.float64)
    nn.functional.cross_entropy(net(x), torch.randint(3, (6,))).backward()
    return net


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([tensor.detach().flatten() for tensor in tensors])


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
        net = _with_gradients()
        twin = copy.deepcopy(net)
        for mine, its in zip(net.parameters(), twin.parameters(), strict=True):
            its.grad = mine.grad.clone()
        old, gradients = _flat(list(net.parameters())), _flat([p.grad for p in net.parameters()])
        torch.optim.SGD(twin.parameters(), lr=lr).step()
        right = _flat(list(twin.parameters()))
        params = list(net.parameters())
        try:
            given = answer(params, lr)
        except RuntimeError as error:
            if "in-place operation" in str(error):
                raise Wrong(
                    "Autograd records what is done to parameters, and refuses a change of them in place. A step is no "
                    "part of the forward pass: put your loop under `with torch.no_grad():`."
                ) from error
            raise
        first = params[0].numel()
        if any(p.grad is None for p in net.parameters()) or not same(
            _flat([p.grad for p in net.parameters()]), gradients
        ):
            raise Wrong(
                "Your step changed the gradients. step() only reads them; to clear them is the work of another line, "
                "zero_grad()."
            )
        new = _flat(list(net.parameters()))
        if same(new, old) and isinstance(given, list) and _is_list_of_tensors(given) and same(_flat(given), right):
            raise Wrong(
                "You gave back new tensors with the right numbers, and the model still holds its old ones. Change the "
                "parameters themselves, in place."
            )
        only_first = torch.cat([right[:first], old[first:]])
        tell(
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
                    "Your step climbs: the loss grows along the gradient. new = old − lr × gradient.",
                ),
                (old - gradients, "You subtract the whole gradient. Multiply it by lr first."),
                (
                    old - lr * gradients.sign(),
                    "You use only the gradient's sign. SGD's step is lr × gradient: where the loss is steep the step "
                    "is long.",
                ),
                (old - lr * old, "You subtract lr × the parameter itself. The gradient of p is in p.grad."),
                (only_first, "Only the first parameter has changed. Is there a return, or a break, inside the loop?"),
                (lr * gradients, "Your new value is lr × gradient alone. The step is taken from the old value."),
                (-lr * gradients, "Your new value is −lr × gradient alone. The step is taken from the old value."),
                (old - 2 * lr * gradients, "Your step is twice as long as it should be. Is it taken two times?"),
            ],
            f"With lr {lr} the first weight should go from {old[0]:.4f} to {right[0]:.4f} (its gradient is "
            f"{gradients[0]:.4f}); yours went to {new[0]:.4f}.",
        )
    _skips_none(answer)


def _is_list_of_tensors(value: list[Any]) -> bool:
    return bool(value) and all(isinstance(item, Tensor) for item in value)


def _skips_none(answer: Answer) -> None:
    """A layer that the loss does not reach has no gradient: `grad` is None."""
    net = _with_gradients()
    params = list(net.parameters())
    params[1].grad = None
    try:
        answer(params, 0.1)
    except (TypeError, AttributeError) as error:
        raise Wrong(
            "The numbers are right. But one parameter's grad is None here: no loss has reached it, as with a frozen "
            f"layer. Leave such a parameter as it is. (Your function stopped with {type(error).__name__}: {error})"
        ) from error


# One step of an optimizer that keeps something: (w, what it kept) before, (w, what it keeps) after.

Step = Callable[..., tuple[Tensor, ...]]


def _unpacked(value: Any, names: Sequence[str], shape: Sequence[int]) -> list[Tensor]:
    """What the learner's step gave back, as tensors of that shape."""
    if isinstance(value, Tensor) or not isinstance(value, tuple | list) or len(value) != len(names):
        size = "" if isinstance(value, Tensor) or not hasattr(value, "__len__") else f" of length {len(value)}"
        raise Wrong(
            f"Your function gave back a {type(value).__name__}{size}. It should give back {len(names)} tensors: "
            f"`return {', '.join(names)}`. What is not handed back is forgotten before the next step."
        )
    # A root of a negative number is a mistake with a name of its own, so NaN is let through here.
    for item in value:
        tensor(item.nan_to_num() if isinstance(item, Tensor) else item, shape)
    return [item.detach().to("cpu", torch.float64) for item in value]


def _momentum_path(step: Step, w: Tensor, gradients: Tensor, lrs: Sequence[float], momentum: float) -> Tensor:
    velocity, path = torch.zeros_like(w), []
    for gradient, lr in zip(gradients, lrs, strict=True):
        w, velocity = _unpacked(step(w, gradient, velocity, lr, momentum), ("w", "velocity"), w.shape)
        path.append(w)
    return torch.stack(path)


_MOMENTUM_WRONG: list[tuple[Step, str]] = [
    (
        lambda w, g, v, lr, m: (w - lr * g, v),
        "These are steps of plain SGD. Either the velocity has no part in your step, or you give back the old velocity "
        "in place of the new one.",
    ),
    (
        lambda w, g, v, lr, m: (w + lr * (m * v + g), m * v + g),
        "Your step climbs. The velocity collects gradients, so it is subtracted: new = old − lr × velocity.",
    ),
    (
        lambda w, g, v, lr, m: (w - lr * (m * v + (1 - m) * g), m * v + (1 - m) * g),
        "You take (1 − momentum) of the new gradient. Adam's running mean does that; torch's momentum adds all of it.",
    ),
    (
        lambda w, g, v, lr, m: (w - (m * v + lr * g), m * v + lr * g),
        "You put lr into the velocity. As long as lr stays the same nobody can tell; here it changes, and torch "
        "multiplies by the lr of the moment: velocity = momentum × velocity + gradient, new = old − lr × velocity.",
    ),
    (
        lambda w, g, v, lr, m: (w - lr * (g + m * (m * v + g)), m * v + g),
        "This is Nesterov's momentum (nesterov=True). Plain momentum takes the step lr × velocity.",
    ),
    (
        lambda w, g, v, lr, m: (w - lr * v, m * v + g),
        "You step with the old velocity. First bring it up to date, then take the step.",
    ),
    (
        lambda w, g, v, lr, m: (w - lr * (v + m * g), v + m * g),
        "You multiply the gradient by the momentum, and the velocity never fades. It is the other way round.",
    ),
    (
        lambda w, g, v, lr, m: (w - lr * (v + g), v + g),
        "Your velocity never fades: this is momentum 1. Multiply the old velocity by the momentum.",
    ),
    (
        lambda w, g, v, lr, m: (w - lr * (m * v + g), g),
        "You give back the gradient in place of the velocity, so that only one step is remembered.",
    ),
    (
        lambda w, g, v, lr, m: (w - lr * m * (v + g), m * (v + g)),
        "You multiply the new gradient by the momentum too. Only the old velocity fades.",
    ),
]


@exercise(
    "01-momentum-step",
    "Write the momentum step",
    praise="Your path is the one that torch.optim.SGD takes with momentum, also while lr changes.",
)
def momentum_step(answer: Answer) -> None:
    """Check exercise 2 of lesson 01: SGD with momentum, several steps with a changing learning rate."""
    for momentum in (0.9, 0.6):
        start, gradients = torch.randn(3, dtype=torch.float64), torch.randn(5, 3, dtype=torch.float64)
        lrs = (0.1 + torch.rand(5, dtype=torch.float64)).tolist()
        w = start.clone()
        optimizer, right = torch.optim.SGD([w], lr=1.0, momentum=momentum), []
        for gradient, lr in zip(gradients, lrs, strict=True):
            optimizer.param_groups[0]["lr"] = lr
            w.grad = gradient.clone()
            optimizer.step()
            right.append(w.clone())
        right = torch.stack(right)
        path = _momentum_path(answer, start, gradients, lrs, momentum)
        if same(path, right):
            continue
        if same(path[0], gradients[0]):
            raise Wrong("Your two results lie the other way round: give back w first, then the velocity.")
        typical = [(_momentum_path(step, start, gradients, lrs, momentum), why) for step, why in _MOMENTUM_WRONG]
        at = next(place for place in range(5) if not same(path[place], right[place]))
        tell(
            path,
            right,
            typical,
            (
                f"With momentum {momentum}, step {at + 1} should lead to {_row(right[at])}; yours leads to "
                f"{_row(path[at])}."
            ),
        )


def _row(values: Tensor) -> str:
    return ", ".join(f"{value:.4f}" for value in values.tolist())


def _adam_path(step: Step, w: Tensor, gradients: Tensor, options: Sequence[float]) -> Tensor:
    m, v, path = torch.zeros_like(w), torch.zeros_like(w), []
    for count, gradient in enumerate(gradients, start=1):
        w, m, v = _unpacked(step(w, gradient, m, v, count, *options), ("w", "m", "v"), w.shape)
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
    """Adam's step with one thing wrong in it."""

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


_ADAM_WRONG: list[tuple[Step, str]] = [
    (
        _adam(correct_m=False, correct_v=False),
        "The bias correction is missing: m and v begin at 0, so divide m by 1 − beta1 ** step and v by 1 − beta2 ** "
        "step before you use them.",
    ),
    (_adam(correct_v=False), "You correct m and forget v: divide v by 1 − beta2 ** step, too."),
    (_adam(correct_m=False), "You correct v and forget m: divide m by 1 − beta1 ** step, too."),
    (
        _adam(root=False),
        "You divide by v itself. Take its square root first: then the step does not grow with the loss.",
    ),
    (_adam(inside=True), "Your eps stands under the root. torch adds it after the root: sqrt(v) + eps."),
    (_adam(sign=1), "Your step climbs: it is subtracted from the old w."),
    (_adam(swapped=True), "beta1 and beta2 have changed places: beta1 belongs to m, beta2 to v."),
    (_adam(later=1), "You correct as if it were the next step already: step is 1 in the very first call."),
    (_adam(squared=lambda g: g), "Your v collects the gradient itself. It should collect its square."),
    (_adam(squared=lambda g: g.abs()), "Your v collects the gradient's size. It should collect its square."),
    (
        _adam(whole=True),
        "You add the whole gradient to m, and its whole square to v. In a running mean the new value has the share 1 − "
        "beta.",
    ),
    (
        _adam(keep_corrected=True),
        "You give back the corrected m and v, and the next call corrects them again. Use the corrected ones for the "
        "step only, and give back the plain ones.",
    ),
    (_adam(constant_step=True), "Your correction is the one of step 1 at every step. Use the argument `step`."),
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
        optimizer, right = torch.optim.Adam([w], lr=lr, betas=(beta1, beta2), eps=eps), []
        for gradient in gradients:
            w.grad = gradient.clone()
            optimizer.step()
            right.append(w.clone())
        right = torch.stack(right)
        options = (lr, beta1, beta2, eps)
        path = _adam_path(answer, start, gradients, options)
        if same(path, right):
            continue
        at = next(place for place in range(5) if not same(path[place], right[place]))
        typical = [(_adam_path(step, start, gradients, options), why) for step, why in _ADAM_WRONG]
        nothing = (
            "Your w is no number from the first step on. Do you divide by 1 − beta ** (step − 1)? In the first call "
            "step is 1, and that is 0. Use the argument `step` as it is."
        )
        typical.append((torch.full_like(right, torch.nan), nothing))
        tell(
            path,
            right,
            typical,
            (
                f"With lr {lr}, betas {beta1} and {beta2}, eps {eps}, step {at + 1} should lead to {_row(right[at])}; "
                f"yours leads to {_row(path[at])}."
            ),
        )


@exercise(
    "01-make-groups",
    "Build the groups",
    praise="Each parameter lies in exactly one group, with the learning rate meant for it.",
)
def make_groups(answer: Answer) -> None:
    """Check exercise 4 of lesson 01: the base at a tenth of the rate, all the rest at the rate, nothing left out."""
    for larger, lr in ((False, 0.5), (True, 0.02)):
        net = _Net(larger=larger)
        groups = answer(net, lr)
        if isinstance(groups, torch.optim.Optimizer):
            raise Wrong("Your function gave back an optimizer. Give back the list of groups that one is made with.")
        if not isinstance(groups, list | tuple) or not all(isinstance(group, dict) for group in groups):
            raise Wrong(
                f"Your function gave back {short(groups)}. A list of dictionaries is wanted, each with 'params' and "
                "its own options."
            )
        groups = [_read(group) for group in groups]
        names = {id(p): name for name, p in net.named_parameters()}
        seen: dict[int, float] = {}
        for group in groups:
            for p in group["params"]:
                if id(p) not in names:
                    raise Wrong("A group holds a tensor that is none of the model's parameters.")
                if id(p) in seen:
                    raise Wrong(f"`{names[id(p)]}` lies in two groups; torch answers with a ValueError. Put it in one.")
                seen[id(p)] = number(group["lr"])
        _judge_rates({names[key]: rate for key, rate in seen.items()}, list(names.values()), lr)


def _read(group: dict[str, Any]) -> dict[str, Any]:
    """A group with its parameters as a list, names dropped, after a look at its keys."""
    if "params" not in group:
        raise Wrong(f"A group has the keys {', '.join(map(repr, group))}. Each needs its parameters under 'params'.")
    known = torch.optim.SGD([torch.zeros(1)]).defaults
    strange = [key for key in group if key != "params" and key not in known]
    if strange:
        raise Wrong(
            f"{strange[0]!r} is no option of SGD. torch keeps such a key and says nothing, and the group goes on with "
            "the default. The learning rate's key is 'lr'."
        )
    if "lr" not in group:
        raise Wrong("A group has no 'lr', so it would take the optimizer's own. Name the rate in each group.")
    params = [group["params"]] if isinstance(group["params"], Tensor) else list(group["params"])
    return {**group, "params": [p[1] if isinstance(p, tuple) else p for p in params]}


def _judge_rates(rates: dict[str, float], names: list[str], lr: float) -> None:
    """Raise `Wrong` where a parameter is left out or has another rate than it should."""
    missing = [name for name in names if name not in rates]
    if missing:
        raise Wrong(
            f"No group holds {', '.join(f'`{name}`' for name in missing)}, so it would never be trained, and nothing "
            "would tell you. Not every model is a base and a classifier alone: put all that is not in the base into "
            "the second group."
        )
    right = {name: lr / 10 if name.startswith("base.") else lr for name in names}
    if same([rates[name] for name in names], list(right.values())):
        return
    typical = {
        "The rates have changed places: the base gets lr / 10, all the rest lr.": (lr, lr / 10),
        "All parameters have the rate lr. The base should get lr / 10.": (lr, lr),
        "All parameters have the rate lr / 10. Only the base should get it.": (lr / 10, lr / 10),
        "Your base is ten times faster than lr. It should be ten times slower: lr / 10.": (10 * lr, lr),
    }
    for why, (base, rest) in typical.items():
        if same([rates[name] for name in names], [base if name.startswith("base.") else rest for name in names]):
            raise Wrong(why)
    name = next(name for name in names if not same(rates[name], right[name]))
    raise Wrong(f"With lr {lr} the rate of `{name}` should be {right[name]:g}; yours is {rates[name]:g}.")


def _forgotten_cases() -> list[tuple[nn.Module, torch.optim.Optimizer, str]]:
    whole, headless, twin, frozen, grouped, grown, alone = (_Net(larger=True) for _ in range(7))
    cases = [
        (headless, torch.optim.SGD(headless.base.parameters(), lr=0.1), "an optimizer that got the base alone"),
        (whole, torch.optim.SGD(whole.parameters(), lr=0.1), "an optimizer that got all parameters"),
    ]
    cases.append((twin, torch.optim.Adam(copy.deepcopy(twin).parameters()), "an optimizer of a copy of the model"))
    frozen.base.requires_grad_(False)
    cases.append((frozen, torch.optim.SGD(frozen.classifier.parameters(), lr=0.1), "a model with a frozen base"))
    parts = [{"params": grouped.base.parameters()}, {"params": grouped.classifier.parameters(), "lr": 1.0}]
    cases.append((grouped, torch.optim.SGD(parts, lr=0.1), "an optimizer with two groups"))
    optimizer = torch.optim.SGD(grown.parameters(), lr=0.1)
    grown.extra = nn.Linear(4, 4)
    cases.append((grown, optimizer, "a model that got a layer after its optimizer was made"))
    cases.append((alone, torch.optim.SGD([alone.scale], lr=0.1), "an optimizer that got one number alone"))
    return cases


@exercise(
    "01-forgotten",
    "Find the forgotten parameters",
    praise="You find them by the tensors themselves, whatever their values and names.",
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
                    "`in` and `==` compare tensors by their values, number by number. Which tensor it is, is told by "
                    "`is`, or by id(p) in a set."
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
        typical = [
            (
                [name for name, p in named if id(p) not in held],
                "You list frozen parameters too. They are left out on purpose: ask for p.requires_grad.",
            ),
            (
                [name for name, p in named if p.requires_grad and id(p) not in first],
                "You look into the first group only. Walk through all of optimizer.param_groups.",
            ),
            (
                equal,
                "You compare values. A copy has the same values and is another tensor, and the optimizer moves only "
                "its own: compare with `is`, or with id(p).",
            ),
            (
                [name for name, p in named if p.requires_grad and p.shape not in shapes],
                "You compare shapes. Two tensors of one shape are still two: compare with `is`, or with id(p).",
            ),
            (
                [name for name, p in named if id(p) in held],
                "You list the parameters that the optimizer holds. Those that it does not hold are asked for.",
            ),
            (
                [name for name, p in named if p.requires_grad],
                "You list every trainable parameter. Leave out those that a group holds.",
            ),
        ]
        for wrong, why in typical:
            if sorted(given) == sorted(wrong):
                raise Wrong(why)
        raise Wrong(f"For {what} the answer is {right}; yours is {short(given)}.")


def _names(value: Any) -> list[str]:
    """The learner's names as a list: a list, tuple or set of strings."""
    if isinstance(value, str) or not hasattr(value, "__iter__"):
        raise Wrong(f"Your function gave back {short(value)}. It should give a list of names.")
    names = list(value)
    for item in names:
        if isinstance(item, tuple):
            raise Wrong("Your list holds pairs of name and parameter. Put the name alone into it.")
        if not isinstance(item, str):
            raise Wrong(f"Your list holds {short(item)}. It should hold names, as model.named_parameters() gives them.")
    return names


def _new_head_given(model, num_classes, batches, lr):
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    model.classifier = torch.nn.Linear(model.classifier.in_features, num_classes)
    for x, y in batches:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
    return model


def _cured(
    model: nn.Module,
    num_classes: int,
    batches: list,
    lr: float,
    *,
    momentum: float = 0.9,
    part: str = "",
    clear: bool = True,
    train: bool = True,
) -> nn.Module:
    """The cure, or one that went wrong in one way."""
    model.classifier = nn.Linear(model.classifier.in_features, num_classes)
    trained = getattr(model, part) if part else model
    optimizer = torch.optim.SGD(trained.parameters(), lr=lr, momentum=momentum)
    for x, y in batches if train else []:
        if clear:
            optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model


_NEW_HEAD_WRONG: list[tuple[Callable[..., nn.Module], str]] = [
    (
        _new_head_given,
        "The new head has not moved: no group of your optimizer holds it. An optimizer holds the parameters that were "
        "there when it was made, so make it from model.parameters() after the model is complete.",
    ),
    (
        lambda *case: _cured(*case, part="classifier"),
        "Only the new head has learned. The base should be trained too: give the optimizer model.parameters().",
    ),
    (
        lambda *case: _cured(*case, momentum=0.0),
        "These are steps without momentum. Is momentum=0.9 gone, or do you make a new optimizer for every batch? That "
        "one has forgotten its velocity before each step: make it once, before the loop.",
    ),
    (lambda *case: _cured(*case, clear=False), "The gradients of all batches pile up: keep optimizer.zero_grad()."),
    (lambda *case: _cured(*case, train=False), "Neither head nor base have moved. Keep the loop over the batches."),
]


def _trained(train: Callable[..., Any], case: tuple[nn.Module, int, list, float]) -> Any:
    """What a training function gives back for a copy of the case's model; every try draws the same new head."""
    torch.manual_seed(1)
    return train(copy.deepcopy(case[0]), *case[1:])


@exercise(
    "01-new-head",
    "Cure this loop",
    may_change=[0],
    given=_new_head_given,
    praise="The new head is trained, and the base goes on with its momentum.",
)
def new_head(answer: Answer) -> None:
    """Check exercise 6 of lesson 01: a model gets a new head, and head and base are trained with momentum."""
    for num_classes, lr in ((2, 0.1), (6, 0.3)):
        case = (_Net(), num_classes, [(torch.randn(8, 4), torch.randint(num_classes, (8,))) for _ in range(4)], lr)
        given = _trained(answer, case)
        if not isinstance(given, nn.Module):
            raise Wrong(f"Your function gave back {short(given)}. It should give back the model.")
        classes = getattr(given.classifier, "out_features", None)
        if classes != num_classes:
            raise Wrong(f"Your model's head has {classes} outputs; {num_classes} are wanted. Keep the head's line.")
        weights, right = _flat(list(given.parameters())), _flat(list(_trained(_cured, case).parameters()))
        typical = [(_flat(list(_trained(wrong, case).parameters())), why) for wrong, why in _NEW_HEAD_WRONG]
        tell(
            weights,
            right,
            typical,
            (
                "Your weights are not those of a model whose head is made once and then trained together with the "
                f"base, by SGD with lr {lr} and momentum 0.9, one step for each batch."
            ),
            rel_tol=1e-4,
        )
