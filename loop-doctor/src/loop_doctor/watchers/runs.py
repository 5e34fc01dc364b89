"""Runs of Weights & Biases and of MLflow: what is logged."""

import functools
import inspect
from types import ModuleType
from typing import Any

from loop_doctor.identity_map import IdentityMap
from loop_doctor.watchers.imports import Imports
from loop_doctor.watchers.logged import LoggedValues, StepLogs, flat
from loop_doctor.watchers.patches import AnyFunction, Patches
from loop_doctor.watchers.scope import Scope

MAX_RUNS = 64


class RunWatcher:
    """Watches `wandb.log` and `mlflow.log_metric`, in all their forms."""

    def __init__(self, scope: Scope, values: LoggedValues, imports: Imports):
        self._scope, self._values, self._imports = scope, values, imports
        self._wandb: IdentityMap[StepLogs] = IdentityMap()
        self._mlflow: dict[str, StepLogs] = {}

    def install(self, patches: Patches) -> None:
        """Put the wrappers in place."""
        self._imports.when_imported("wandb", functools.partial(self._watch_wandb, patches))
        self._imports.when_imported("mlflow", functools.partial(self._watch_mlflow, patches))

    def _watch_wandb(self, patches: Patches, module: ModuleType) -> None:
        # `wandb.log` is the method `log` of a run, bound when the run began; both call `_log`.
        run = getattr(module, "Run", None)
        if hasattr(run, "_log"):
            patches.wrap(run, "_log", self._log_row)

    def _watch_mlflow(self, patches: Patches, module: ModuleType) -> None:
        # `mlflow.log_metric` and the rest, however they were imported, call a client.
        client = getattr(module, "MlflowClient", None)
        if client is not None:
            patches.wrap(client, "log_metric", self._log_metric)
            patches.wrap(client, "log_batch", self._log_batch)

    def _log_row(self, original: AnyFunction) -> AnyFunction:
        signature = inspect.signature(original)

        def log(run: Any, *args: Any, **kwargs: Any) -> Any:
            if not self._scope.sees():
                return original(run, *args, **kwargs)
            result = self._scope.unseen(original, run, *args, **kwargs)
            given = signature.bind_partial(run, *args, **kwargs).arguments
            logs = self._wandb.get(run)
            if logs is None:
                logs = self._wandb.put(run, {})
            step = given.get("step")
            for tag, value in flat(given.get("data") or {}):
                # Without a step, a run counts its own.
                self._values.log("wandb", logs, tag, value, step, counts=step is not None)
            return result

        return log

    def _log_metric(self, original: AnyFunction) -> AnyFunction:
        signature = inspect.signature(original)

        def log_metric(client: Any, *args: Any, **kwargs: Any) -> Any:
            if not self._scope.sees():
                return original(client, *args, **kwargs)
            result = self._scope.unseen(original, client, *args, **kwargs)
            given = signature.bind_partial(client, *args, **kwargs).arguments
            self._log(given.get("run_id"), given.get("key"), given.get("value"), given.get("step"))
            return result

        return log_metric

    def _log_batch(self, original: AnyFunction) -> AnyFunction:
        signature = inspect.signature(original)

        def log_batch(client: Any, *args: Any, **kwargs: Any) -> Any:
            if not self._scope.sees():
                return original(client, *args, **kwargs)
            result = self._scope.unseen(original, client, *args, **kwargs)
            given = signature.bind_partial(client, *args, **kwargs).arguments
            for metric in given.get("metrics") or ():
                self._log(given.get("run_id"), metric.key, metric.value, metric.step)
            return result

        return log_batch

    def _log(self, run: Any, key: Any, value: Any, step: Any) -> None:
        known = str(run)
        if known in self._mlflow or len(self._mlflow) < MAX_RUNS:
            self._values.log("mlflow", self._mlflow.setdefault(known, {}), str(key), value, step or 0)
