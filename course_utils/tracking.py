"""Where a run's figures go: a progress bar or a function of the user's."""

import contextlib
from collections.abc import Callable, Iterator

from course_utils.meters import History

Progress = bool | Callable[[int, int, History], object]
Report = Callable[[int, History], None]


@contextlib.contextmanager
def reporting(progress: Progress, first_step: int, num_steps: int) -> Iterator[Report]:
    """Give a function `report(step, history)` that moves a bar, calls `progress`, or does neither.

    Args:
        progress: True for a bar, in a notebook or a terminal; False for none; or a function that is called as
            `progress(step, num_steps, history)`.
        first_step: steps that were done before, after a resume.
        num_steps: steps of the whole run.

    Raises:
        TypeError: `progress` is neither True, False nor a function.
    """
    if not isinstance(progress, bool) and not callable(progress):
        raise TypeError(f"progress must be True, False or a function (step, num_steps, history), got {progress!r}")
    if progress is False:
        yield lambda step, history: None
    elif callable(progress):
        yield lambda step, history: progress(step, num_steps, history)
    else:
        from tqdm.auto import tqdm  # imported late: it looks for ipywidgets

        with tqdm(total=num_steps, initial=first_step, unit="step") as bar:

            def report(step: int, history: History) -> None:
                names = ("step_loss", "epoch_loss", "valid_loss", "valid_accuracy")
                latest = {name: getattr(history, name)[-1][1] for name in names if getattr(history, name)}
                bar.set_postfix_str(", ".join(f"{name} {value:.4g}" for name, value in latest.items()), refresh=False)
                bar.update(step - bar.n)

            yield report
