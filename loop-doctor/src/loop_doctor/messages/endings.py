"""The words about an error that ended a block: what PyTorch's message means, and how to fix it."""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Known:
    """One error that the doctor can explain.

    Attributes:
        pattern: what its message looks like; the named groups fill in the words.
        explanation: what it means.
        fix: the fix as code.
        explained_by: the codes whose findings explain it better.
    """

    pattern: re.Pattern[str]
    explanation: str
    fix: str
    explained_by: tuple[str, ...] = ()


def _known(pattern: str, explanation: str, fix: str, *explained_by: str) -> Known:
    return Known(re.compile(pattern, re.DOTALL), explanation, fix, explained_by)


SECOND_BACKWARD = _known(
    r"Trying to backward through the graph a second time",
    "Two backward calls went through the same graph, and the first one had already freed it. Something that the loss "
    "depends on was computed before the first of the two calls and was not computed again.",
    "# inside the loop, before each backward():\nloss = loss_fn(model(x), y)",
    "closure-does-not-recompute",
    "hidden-state-not-detached",
)
CHANGED_IN_PLACE = _known(
    r"modified by an inplace operation: \[\S+ \[(?P<shape>[\d, ]*)\]\](?P<source>, which is output \d+ of \w+,)? is at "
    r"version (?P<version>\d+); expected version (?P<expected>\d+)",
    "A tensor of shape ({shape}) was changed in place after the forward pass, and the backward pass needs its old "
    "numbers. Operations such as `+=`, `x[i] = …`, `relu_()` and `inplace=True` change a tensor in place, and so does "
    "a step of an optimizer.",
    "x = x + y  # a new tensor; `x += y` overwrites the old one",
    "hidden-state-not-detached",
    "closure-does-not-recompute",
)
# In the place of the words above if an optimizer's step is sure to have made the change.
STEPPED_BEFORE_BACKWARD = (
    "{optimizer}.step() changed the weight `{name}` after the forward pass, and this backward call goes through that "
    "forward pass and needs the old weight.",
    "# make all backward calls through one forward pass before the steps, or compute the loss again after a step\n"
    "loss_a.backward(retain_graph=True)\n"
    "loss_b.backward()\n"
    "optimizer_a.step()\n"
    "optimizer_b.step()",
)
OUT_OF_MEMORY = _known(
    r"CUDA out of memory|CUDA error: out of memory|MPS backend out of memory|DefaultCPUAllocator: .*allocate memory",
    "The memory was not enough for this batch, the model, its gradients and the state of the optimizer.",
    "batch_size = batch_size // 2  # or average the gradients of several smaller batches before each step",
    "graph-kept-alive",
    "hidden-state-not-detached",
    "validation-builds-graph",
)
# In the place of the words above if graphs had piled up.
GRAPHS_PILED_UP = (
    "The memory ran out while the graphs of {graphs:,} past batches were still alive: something keeps their losses or "
    "outputs.",
    "running_loss += loss.item()  # a number, without its graph\noutputs.append(output.detach())",
)

KNOWN: tuple[Known, ...] = (
    SECOND_BACKWARD,
    CHANGED_IN_PLACE,
    OUT_OF_MEMORY,
    _known(
        r"leaf Variable that requires grad (?:is being|has been) used in an in-place operation",
        "A weight was changed in place while PyTorch was recording a graph. A change by hand belongs into a block "
        "without gradients.",
        "with torch.no_grad():\n    w -= lr * w.grad",
    ),
    _known(
        r"mat1 and mat2 shapes cannot be multiplied \(\d+x(?P<left>\d+) and (?P<right>\d+)x(?P<columns>\d+)\)",
        "A matrix of {left} columns was multiplied by one of {right} rows. In a linear layer this means that its input "
        "has {left} features, and the layer was built for {right}.",
        "nn.Linear(in_features={left}, out_features={columns})  # or flatten the input to {right} features",
    ),
    _known(
        r"Expected input batch_size \((?P<input>\d+)\) to match target batch_size \((?P<target>\d+)\)",
        "The loss received {input} predictions and {target} targets: the two must have the same number of rows.",
        "print(logits.shape, y.shape)  # look for a view() or reshape() that moves numbers between rows",
    ),
    _known(
        r"Target size \(torch\.Size\(\[(?P<target>[\d, ]*)\]\)\) must be the same as input size "
        r"\(torch\.Size\(\[(?P<input>[\d, ]*)\]\)\)"
        r"|target size \(torch\.Size\(\[(?P<target2>[\d, ]*)\]\)\) that is different to the input size "
        r"\(torch\.Size\(\[(?P<input2>[\d, ]*)\]\)\)",
        "The prediction has shape ({input}) and the target ({target}). This loss compares them number by number, so "
        "both need the same shape.",
        "loss = loss_fn(prediction, y.view_as(prediction))",
    ),
    _known(
        r"size of tensor a \((?P<a>\d+)\) must match the size of tensor b \((?P<b>\d+)\) at non-singleton dimension "
        r"(?P<dim>\d+)",
        "Two tensors that are combined number by number have {a} and {b} entries in dimension {dim}. Their sizes must "
        "be equal there, or one of them must be 1.",
        "print(a.shape, b.shape)  # just before this line",
    ),
    _known(
        r"expected input\[(?P<shape>[\d, ]*)\] to have (?P<want>\d+) channels, but got (?P<got>\d+) channels",
        "The convolution was built for {want} channels, and its input of shape ({shape}) has {got}. PyTorch expects "
        "images as (batch, channels, height, width).",
        "nn.Conv2d({got}, …)  # or x = x.permute(0, 3, 1, 2) if the channels come last",
    ),
    _known(
        r"shape '\[(?P<shape>[-\d, ]*)\]' is invalid for input of size (?P<size>\d+)",
        "A tensor of {size} numbers cannot be given the shape ({shape}): the product of the sizes does not fit.",
        "x = x.flatten(1)  # keeps the batch dimension, whatever the other sizes are",
    ),
    _known(
        r"stack expects each tensor to be equal size, but got \[(?P<a>[\d, ]*)\] at entry 0 and \[(?P<b>[\d, ]*)\]",
        "Tensors of different shapes, ({a}) and ({b}), cannot be stacked. In a DataLoader this means that the samples "
        "of one batch differ in shape: pad, crop or resize them.",
        "DataLoader(dataset, collate_fn=lambda rows: nn.utils.rnn.pad_sequence(rows, batch_first=True))",
    ),
    _known(
        r"Sizes of tensors must match except in dimension (?P<dim>\d+)\. "
        r"Expected size (?P<a>\d+) but got size (?P<b>\d+)",
        "Tensors that are joined along dimension {dim} must agree in all other dimensions, and one has size {b} where "
        "the first has {a}.",
        "print([tensor.shape for tensor in tensors])  # just before this line",
    ),
    _known(
        r"input\.size\(-1\) must be equal to input_size\. Expected (?P<want>\d+), got (?P<got>\d+)",
        "The recurrent layer was built for {want} features at each time step, and its input has {got}.",
        "nn.LSTM({got}, …)  # the last dimension of the input",
    ),
    _known(
        r"running_mean should contain (?P<got>\d+) elements not (?P<want>\d+)",
        "The normalization layer was built for {want} channels, and its input has {got}.",
        "nn.BatchNorm1d({got})  # or BatchNorm2d for images",
    ),
    _known(
        r"multi-target not supported",
        "Cross-entropy expects one class index for each row, so the target has one dimension fewer than the logits, or "
        "else probabilities of the same shape as the logits. This target is neither.",
        "loss = F.cross_entropy(logits, y.squeeze(1))  # or y.argmax(dim=1) if y is one-hot",
    ),
    _known(
        r"element 0 of tensors does not require grad and does not have a grad_fn",
        "backward() started from a tensor without a graph, so there is no way back to the weights. The loss was "
        "computed under no_grad(), was detached or made into a new tensor on the way, went through an operation "
        "without a gradient such as argmax(), or no weight in the model requires a gradient.",
        "loss = loss_fn(model(x), y)  # without torch.no_grad(), .detach(), .data, .item() and torch.tensor(loss)\n"
        "loss.backward()",
    ),
    _known(
        r"grad can be implicitly created only for scalar outputs",
        "backward() needs a single number, and this loss has several.",
        "loss.mean().backward()",
    ),
    _known(
        r"Expected all tensors to be on the same device|is not on the expected device"
        r"|Input type \((?:torch\.)?cuda\.\w+\) and weight type \((?:torch\.)?\w+Tensor\)"
        r"|Input type \(torch\.\w+Tensor\) and weight type \((?:torch\.)?cuda\.",
        "Tensors on different devices met in one operation. The model, the inputs, the targets and every tensor that "
        "is created inside the loop must be on the same device.",
        "model.to(device)  # before the optimizer is made\nx, y = x.to(device), y.to(device)",
    ),
    _known(
        r"expected target dtype to be Long|expected scalar type Long but found|expected.{0,40}Long.{0,20}but got"
        r"(?!.*embedding)",
        "The target of this loss holds class indices, and these must be whole numbers of type long.",
        "loss = loss_fn(logits, y.long())",
    ),
    _known(
        r"checking arguments for embedding",
        "An embedding looks rows up by their index, and its input must be whole numbers of type long.",
        "embedded = embedding(tokens.long())",
    ),
    _known(
        r"Found dtype (?P<got>\w+) but expected (?P<want>\w+)|result type (?P<got2>\w+) can't be cast to the desired "
        r"output type (?P<want2>\w+)",
        "The prediction and the target, or two other tensors of the loss, have different types: {got} and {want}.",
        "loss = loss_fn(prediction, y.float())  # targets that are measured values are float",
    ),
    _known(
        r"mat1 and mat2 must have the same dtype, but got (?P<got>\w+) and (?P<want>\w+)"
        r"|expected m1 and m2 to have the same dtype, but got: (?P<got2>\w+) != (?P<want2>\w+)"
        r"|Input type \((?P<got3>\w+)\) and bias type \((?P<want3>\w+)\) should be the same"
        r"|expected scalar type (?P<want4>\w+) but found (?P<got4>\w+)",
        "Tensors of the types {got} and {want} met in one operation. NumPy makes double by default, and the weights of "
        "a model are float.",
        "x = x.float()  # or torch.from_numpy(array).float()",
    ),
    _known(
        r"Target (?P<target>-?\d+) is out of bounds",
        "The target {target} is not an index of a class: with C logits for each row, the classes are 0 to C - 1.",
        "print(logits.shape[1], y.min(), y.max())  # make the last layer larger, or number the labels from 0",
    ),
    _known(
        r"index out of range in self",
        "An embedding was asked for a row that it does not have: with num_embeddings=N, the indices are 0 to N - 1.",
        "nn.Embedding(int(tokens.max()) + 1, …)  # or the size of the vocabulary",
    ),
    _known(
        r"device-side assert triggered",
        "A check on the GPU failed, often because a class or an embedding index is out of range. The GPU reports late, "
        "so the line that is named may not be the one to blame: the same batch on the CPU names the right one.",
        "model.cpu()(x.cpu())  # or start the program with CUDA_LAUNCH_BLOCKING=1",
    ),
    _known(
        r"Expected more than 1 value per channel when training",
        "Batch normalization cannot compute a standard deviation from a single row. The last batch of an epoch often "
        "has only one.",
        "DataLoader(dataset, batch_size, shuffle=True, drop_last=True)",
    ),
    _known(
        r"all elements of (?:input|target) should be between 0 and 1",
        "Binary cross-entropy takes probabilities from 0 to 1, and some numbers are outside, or NaN. If the model "
        "ends without a sigmoid, these are logits.",
        "loss = F.binary_cross_entropy_with_logits(logits, y)",
    ),
    _known(
        r"optimizer got an empty parameter list",
        "The optimizer received no weights. Either the model has none yet, because its layers are in a plain list or "
        "dictionary, or `parameters()` had been used up by another loop.",
        "self.layers = nn.ModuleList(layers)  # a plain list hides the layers\n"
        "optimizer = torch.optim.Adam(model.parameters())",
    ),
    _known(
        r"can't optimize a non-leaf Tensor",
        "An optimizer can only change tensors that no operation computed. A new parameter that was moved or scaled "
        "after requires_grad was set is the result of an operation.",
        "w = torch.randn(3, device=device).requires_grad_()  # requires_grad last",
    ),
    _known(
        r"Error\(s\) in loading state_dict for (?P<model>\w+):.*(?:Missing|Unexpected) key[^\n]*: \"module\.",
        "The names in the checkpoint and in {model} differ by the prefix `module.`, which DataParallel and "
        "DistributedDataParallel put in front.",
        "model.load_state_dict({{name.removeprefix('module.'): w for name, w in state.items()}})",
    ),
    _known(
        r"Error\(s\) in loading state_dict for (?P<model>\w+):.*size mismatch for (?P<name>[\w.]+): .* shape "
        r"torch\.Size\(\[(?P<saved>[\d, ]*)\]\).* current model is torch\.Size\(\[(?P<now>[\d, ]*)\]\)",
        "The checkpoint belongs to a model of another size: `{name}` has shape ({saved}) in the checkpoint and ({now}) "
        "in {model}.",
        "model = {model}(…)  # with the same sizes as when it was saved",
    ),
    _known(
        r"Error\(s\) in loading state_dict for (?P<model>\w+):.*(?:Missing|Unexpected) key",
        "The names of the weights in the checkpoint and in {model} do not match: it belongs to another model, or is a "
        "dictionary that holds the weights under a key of its own.",
        "print(list(checkpoint)[:3], list(model.state_dict())[:3])\n"
        "model.load_state_dict(checkpoint['model'])  # under the key that it was saved with",
    ),
    _known(
        r"Tried to step (?P<steps>\d+) times\. The (?:total|specified) number of (?:total )?steps is (?P<total>\d+)",
        "The scheduler was made for {total} steps, and this was step {steps}: the number of batches or epochs does not "
        "fit its plan.",
        "OneCycleLR(optimizer, max_lr, total_steps=num_epochs * len(loader))  # and one step for each batch",
    ),
    _known(
        r"unscale_\(\) has already been called",
        "GradScaler can remove its factor from the gradients only once before each update().",
        "scaler.unscale_(optimizer)  # once, just before clipping\n"
        "nn.utils.clip_grad_norm_(model.parameters(), 1.0)\n"
        "scaler.step(optimizer)\n"
        "scaler.update()",
    ),
    _known(
        r"(?P<call>step|unscale_)\(\) (?:has already been called since the last update|is being called after step)",
        "GradScaler was asked for another {call}() before update() closed the last step.",
        "scaler.step(optimizer)\nscaler.update()  # once, after the last optimizer's step",
    ),
    _known(
        r"Attempted (?:step|unscale_) but _scale is None|No inf checks were recorded for this optimizer",
        "GradScaler found no gradients of a scaled loss for this optimizer: the loss was not scaled, or it does not "
        "reach the optimizer's weights.",
        "scaler.scale(loss).backward()",
    ),
    _known(
        r"appears to not have been used in the graph",
        "A gradient was asked for a tensor that the result does not depend on.",
        "torch.autograd.grad(loss, inputs, allow_unused=True)  # if that is on purpose",
    ),
    _known(
        r"Can't call numpy\(\) on Tensor that requires grad",
        "NumPy cannot hold a graph, so the tensor must be detached first.",
        "values = output.detach().cpu().numpy()",
    ),
    _known(
        r"Expected parameter \w+ .* to satisfy the constraint .*\bnan\b",
        "A distribution received NaN, so the network's output or its input is NaN already. Look for the first batch "
        "with a loss that is not finite.",
        "assert torch.isfinite(loss), loss",
        "loss-not-finite",
        "learning-rate-too-high",
    ),
)
