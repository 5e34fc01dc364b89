"""The course's commands: `python -m course_utils train …` (also under torchrun), and `find-lr`."""

import argparse
import contextlib
import os
import re
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau

from course_utils.data import NAMES, Data, load
from course_utils.devices import PRECISIONS, seed_everything
from course_utils.lr import find_lr, schedules
from course_utils.models import MODELS, make_model
from course_utils.optimizers import OPTIMIZERS, make_optimizer
from course_utils.training import NonFiniteError, RunCompleteError, Trainer, distributed
from course_utils.training.callbacks import BestCheckpoint, Callback, EarlyStopping
from course_utils.training.history import History

EXAMPLES = """\
examples:
  train an MLP on handwritten digits and save the run
    python -m course_utils train --optimizer sgd --lr 0.05 --momentum 0.9 --run-dir runs/a
  continue after a crash, Ctrl-C or a power cut, to the same end bit for bit
    python -m course_utils train --optimizer sgd --lr 0.05 --momentum 0.9 --run-dir runs/a --resume
  stop when the validation loss has not improved for 5 epochs, and keep the best weights
    python -m course_utils train --epochs 100 --patience 5 --keep-best --run-dir runs/c
  the same with two processes
    torchrun --nproc-per-node 2 -m course_utils train --lr 0.05 --run-dir runs/b
  look at the curves
    tensorboard --logdir runs

After Ctrl-C, SIGTERM or SIGUSR1 the run finishes its step, saves, and exits. With several
processes it finishes its window of --log-every steps. The exit status is 0 for a complete run,
130, 143 or 138 after these signals, 2 for bad input, and 1 if the training failed or the last
checkpoint could not be written.
"""
FIND_EXAMPLES = """\
examples:
  search for a learning rate, then train with it
    python -m course_utils find-lr --optimizer adam
    python -m course_utils find-lr --optimizer sgd --momentum 0.9 --model cnn --batch-size 32
"""

RUN_OF_ONE = (
    "{model} with {num_parameters:,} parameters on {num_rows:,} rows of {data}: "
    "{num_batches} batches per epoch, {device}, {precision}"
)
RUN_OF_SEVERAL = (
    "{model} with {num_parameters:,} parameters on {num_rows:,} rows of {data}: "
    "{num_batches} batches per epoch, {device}, {precision}, {num_processes} processes"
)
STOPPED = "stopped after step {step}"
STOPPED_AND_SAVED = "stopped after step {step}: continue with --resume --run-dir {run_dir}"
STOPPED_EARLY = "stopped early, after step {step}: {reason}"
NOT_SAVED = (
    "the last checkpoint could not be written to {run_dir} ({error}): free some space or give another folder, then "
    "continue from the checkpoint before it, if there is one, with --resume"
)
ENDED = "another process of this run has ended, or torchrun was stopped: start all of them again with --resume"
# The errors of a process after another one that it exchanges gradients with has ended.
LOST = re.compile(r"connection (closed|reset) by peer|broken pipe|connection refused|socket closed", re.IGNORECASE)


def _steps_down(step: int, num_steps: int) -> float:
    """Return 1, then a tenth after half of the steps, and a hundredth after three quarters."""
    milestones = sorted({num_steps // 2, num_steps * 3 // 4} - {0})
    return schedules.multistep(step, milestones=milestones)


def _warmup_cosine(step: int, num_steps: int) -> float:
    """Warm up for a tenth of the steps, then follow half a cosine."""
    return schedules.warmup_cosine(step, num_steps, num_warmup=num_steps // 10)


# name: the fraction of the rate at (step, num_steps)
SHAPES: dict[str, Callable[..., float]] = {
    "step": _steps_down,
    "linear": schedules.linear,
    "cosine": schedules.cosine,
    "warmup-cosine": _warmup_cosine,
    "one-cycle": schedules.one_cycle,
}
SCHEDULES = ["constant", *SHAPES, "plateau"]
# The epochs without a lower validation loss after which "plateau" divides the rate by ten.
PLATEAU = 3


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    command = argparse.ArgumentParser(
        prog="python -m course_utils", description="The training loop of the course, as a command."
    )
    commands = command.add_subparsers(dest="command", required=True, metavar="COMMAND")
    train = commands.add_parser(
        "train",
        help="train a model on one of the course's data sets",
        description="Train a model and print one line per epoch.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    train.set_defaults(run=_train)

    _add_data(train)
    optimizer = _add_optimizer(train)
    optimizer.add_argument("--lr", type=float, default=0.05, help="learning rate (default: 0.05)")
    optimizer.add_argument(
        "--schedule",
        choices=SCHEDULES,
        default="constant",
        metavar="NAME",
        help=f"lr over the steps: {', '.join(SHAPES)}; a tenth after {PLATEAU} epochs without a lower validation "
        "loss: plateau (default: constant)",
    )

    loop = train.add_argument_group("loop")
    loop.add_argument("--epochs", type=int, default=10, metavar="N", help="passes over the data (default: 10)")
    _add_step(loop)
    loop.add_argument("--patience", type=int, metavar="N", help="stop after N epochs without a lower validation loss")
    loop.add_argument(
        "--on-nonfinite", choices=["raise", "skip"], default="raise", help="after a NaN: stop, or skip the step"
    )

    run = train.add_argument_group("run folder")
    run.add_argument(
        "--run-dir", metavar="DIR", help="save checkpoint.pt and TensorBoard files here (default: neither)"
    )
    run.add_argument("--resume", action="store_true", help="continue from the checkpoint in the run folder")
    run.add_argument(
        "--checkpoint-every", type=int, default=1, metavar="N", help="epochs between checkpoints (default: 1)"
    )
    run.add_argument("--checkpoint-every-steps", type=int, metavar="N", help="save every N steps too")
    run.add_argument("--checkpoint-every-seconds", type=float, metavar="S", help="save every S seconds too")
    run.add_argument("--keep-best", action="store_true", help="keep the weights of the best accuracy in best.pt")
    run.add_argument("--log-every", type=int, default=50, metavar="N", help="steps per logged window (default: 50)")
    run.add_argument("--grad-norm", action="store_true", help="log the norm of the gradients")
    run.add_argument("--quiet", action="store_true", help="print nothing but errors")

    find = commands.add_parser(
        "find-lr",
        help="search for a learning rate",
        description="Raise the learning rate at each step, watch the loss, and suggest a rate.",
        epilog=FIND_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    find.set_defaults(run=_find_lr)
    _add_data(find)
    _add_optimizer(find)
    search = find.add_argument_group("search")
    search.add_argument("--start", type=float, default=1e-6, metavar="LR", help="first rate (default: 0.000001)")
    search.add_argument("--end", type=float, default=10.0, metavar="LR", help="last rate (default: 10)")
    search.add_argument("--steps", type=int, default=100, metavar="N", help="number of rates (default: 100)")
    _add_step(search)
    return command


def _add_data(command: argparse.ArgumentParser) -> None:
    data = command.add_argument_group("data and model")
    data.add_argument("--data", default="digits", metavar="NAME", help=f"{', '.join(NAMES)} (default: digits)")
    data.add_argument("--root", default="./data", metavar="DIR", help="folder of downloaded data (default: ./data)")
    data.add_argument("--model", default="mlp", metavar="NAME", help=f"{' or '.join(MODELS)} (default: mlp)")
    data.add_argument(
        "--seed", type=int, default=0, help="seed of the weights and of the order of the rows (default: 0)"
    )


def _add_optimizer(command: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    optimizer = command.add_argument_group("optimizer")
    optimizer.add_argument("--optimizer", default="sgd", metavar="NAME", help=f"{', '.join(OPTIMIZERS)} (default: sgd)")
    optimizer.add_argument("--momentum", type=float, metavar="M", help="for sgd, momentum and rmsprop")
    optimizer.add_argument("--weight-decay", type=float, metavar="W", help="how strongly the weights are pulled to 0")
    return optimizer


def _add_step(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--batch-size", type=int, default=64, metavar="N", help="rows per batch, over all processes (default: 64)"
    )
    group.add_argument("--accumulate", type=int, default=1, metavar="N", help="batches per step (default: 1)")
    group.add_argument("--max-grad-norm", type=float, metavar="C", help="clip the norm of the gradients to this")
    group.add_argument("--precision", default="fp32", metavar="P", help=f"{', '.join(PRECISIONS)} (default: fp32)")
    group.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps (default: auto)")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return 0, or 1 after a failed run, 2 after bad input, 130 after Ctrl-C, 143 or 138 after
    SIGTERM or SIGUSR1.
    """
    options = parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except NonFiniteError as error:
        return _fail(error, 1)
    except (ValueError, OSError, ImportError) as error:
        return _fail(error, 2)
    except RuntimeError as error:
        if not LOST.search(str(error)):
            raise
        return _fail(ENDED, 1)


def _fail(error: object, code: int) -> int:
    print(f"error: {error}", file=sys.stderr)
    return code


def _train(options: argparse.Namespace) -> int:
    # After a failure torchrun starts the run again with the same arguments, and the run should continue.
    resume = options.resume or int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0
    with distributed.process_group(options.device):
        trainer, data = _make(options)
        show = print if distributed.rank() == 0 and not options.quiet else lambda *_, **__: None
        started = RUN_OF_ONE if distributed.world_size() == 1 else RUN_OF_SEVERAL
        show(
            started.format(
                model=options.model,
                num_parameters=trainer.hyperparameters["num_parameters"],
                num_rows=len(data.train.dataset),
                data=options.data,
                num_batches=len(data.train),
                device=trainer.device,
                precision=options.precision,
                num_processes=distributed.world_size(),
            )
        )
        code = 0
        try:
            history = trainer.fit(data.train, data.valid, num_epochs=options.epochs, resume=resume)
        except RunCompleteError as complete:
            show(complete)
            return 0
        except SystemExit as left:  # by SIGTERM or SIGUSR1, when the run is saved
            history, code = trainer.history, int(left.code or 0)
        if trainer.save_error is not None:
            return _fail(NOT_SAVED.format(run_dir=options.run_dir, error=trainer.save_error), 1)
        early = [each.reason for each in trainer.callbacks if isinstance(each, EarlyStopping) and each.reason]
        if trainer.epoch < options.epochs and not early:
            stopped = STOPPED if options.run_dir is None else STOPPED_AND_SAVED
            show(stopped.format(step=trainer.step, run_dir=options.run_dir), flush=True)
            return code or 130
        for reason in early:
            show(STOPPED_EARLY.format(step=trainer.step, reason=reason))
        best_step, best = max(history.valid_accuracy, key=lambda point: point[1])
        show(f"done: {trainer.step} steps, best accuracy {best:.4f} after step {best_step}", flush=True)
    return code


def _find_lr(options: argparse.Namespace) -> int:
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError("find-lr runs in one process: start it without torchrun")
    model, optimizer, data = _make_parts(options, lr=1.0)
    print(
        f"{options.model} on {len(data.train.dataset):,} rows of {options.data}, {options.optimizer}: "
        f"{options.steps} rates from {options.start:g} to {options.end:g}",
        flush=True,
    )
    found = find_lr(
        model,
        optimizer,
        nn.CrossEntropyLoss(),
        data.train,
        start=options.start,
        end=options.end,
        num_steps=options.steps,
        accumulation_steps=options.accumulate,
        max_grad_norm=options.max_grad_norm,
        precision=options.precision,
        progress=sys.stderr.isatty(),
    )
    if found.suggestion is None:
        return _fail(f"no suggestion: {found.reason}", 130 if found.interrupted else 1)
    print(found.reason)
    print(f"--lr {found.suggestion.point:.2g}, or from {found.suggestion.low:.2g} to {found.suggestion.high:.2g}")
    return 130 if found.interrupted else 0


def _make_parts(options: argparse.Namespace, *, lr: float) -> tuple[nn.Module, Optimizer, Data]:
    """Return the model, its optimizer and the data that the options describe."""
    device = distributed.local_device(options.device)
    seed_everything(options.seed)
    data = load(options.data, batch_size=options.batch_size, seed=options.seed, device=device, root=options.root)
    model = make_model(options.model, data.shape, data.num_classes).to(device)
    chosen: dict[str, Any] = {"momentum": options.momentum, "weight_decay": options.weight_decay}
    chosen = {name: value for name, value in chosen.items() if value is not None}
    return model, make_optimizer(options.optimizer, model.parameters(), lr, **chosen), data


def _make(options: argparse.Namespace) -> tuple[Trainer, Data]:
    """Return the trainer and its data that the options describe."""
    model, optimizer, data = _make_parts(options, lr=options.lr)
    callbacks: list[Callback] = []
    if options.patience is not None:
        callbacks.append(EarlyStopping(patience=options.patience))
    if options.keep_best:
        if options.run_dir is None:
            raise ValueError("--keep-best writes best.pt into the run folder: add --run-dir DIR")
        callbacks.append(BestCheckpoint("valid_accuracy"))
    trainer = Trainer(
        model,
        optimizer,
        nn.CrossEntropyLoss(),
        scheduler=_make_scheduler(options, optimizer, len(data.train)),
        device=distributed.local_device(options.device),
        precision=options.precision,
        accumulation_steps=options.accumulate,
        max_grad_norm=options.max_grad_norm,
        run_dir=options.run_dir,
        log_every=options.log_every,
        checkpoint_every=options.checkpoint_every,
        checkpoint_every_steps=options.checkpoint_every_steps,
        checkpoint_every_seconds=options.checkpoint_every_seconds,
        progress=False if options.quiet else True if sys.stderr.isatty() else _EpochLines(),
        callbacks=callbacks,
        on_nonfinite=options.on_nonfinite,
        track_grad_norm=options.grad_norm,
    )
    trainer.hyperparameters |= {"data": options.data, "seed": options.seed, "schedule": options.schedule}
    if distributed.rank() > 0:
        # The initial weights are the same in every process; random numbers in training (dropout) should differ.
        seed_everything(options.seed + distributed.rank())
    return trainer, data


def _make_scheduler(options: argparse.Namespace, optimizer: Optimizer, num_batches: int) -> LRScheduler | None:
    """Return the scheduler of `--schedule`; None for a constant rate, or if the trainer will refuse the counts."""
    if options.schedule == "plateau":
        return ReduceLROnPlateau(optimizer, patience=PLATEAU - 1)
    if options.schedule == "constant" or options.epochs < 1 or options.accumulate < 1:
        return None
    num_steps = options.epochs * -(-num_batches // options.accumulate)
    return LambdaLR(optimizer, partial(SHAPES[options.schedule], num_steps=num_steps))


class _EpochLines:
    """Prints one line per epoch, in place of a progress bar."""

    def __call__(self, step: int, num_steps: int, history: History) -> None:
        # It is also called after each window; the latest epoch may then be from before a resume.
        if not history.epoch_loss or history.epoch_loss[-1][0] != step:
            return
        print(
            f"step {step:>{len(str(num_steps))}}/{num_steps}  loss {history.epoch_loss[-1][1]:.4f}"
            f"  valid loss {history.valid_loss[-1][1]:.4f}  accuracy {history.valid_accuracy[-1][1]:.4f}",
            flush=True,
        )


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        sys.exit(main())
