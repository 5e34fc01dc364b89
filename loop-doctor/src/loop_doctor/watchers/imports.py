"""Libraries that are watched only if the user imports them: before the block, or inside it."""

import functools
import os
import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

from loop_doctor.call_sites import CallSites
from loop_doctor.watchers.patches import Patches

WhenImported = Callable[[ModuleType], None]


class Imports:
    """Tells a watcher when a module is there. Nothing is imported for its sake."""

    def __init__(self, sites: CallSites) -> None:
        self._sites = sites
        self._awaited: dict[str, WhenImported] = {}

    def install(self, patches: Patches) -> None:
        """Look at every import from now on."""
        sys.meta_path.insert(0, self)

        def remove() -> None:
            self._awaited.clear()
            if self in sys.meta_path:
                sys.meta_path.remove(self)

        patches.on_removal(remove)

    def when_imported(self, name: str, act: WhenImported) -> None:
        """Call `act` with a module: now, if it has been imported, or right after it is."""
        module = sys.modules.get(name)
        if module is None:
            self._awaited[name] = act
        else:
            self._arrived(act, module)

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Find a module as the other finders do, and look at it once its own code has run."""
        if name not in self._awaited:
            return None
        for finder in sys.meta_path:
            spec = None if finder is self else finder.find_spec(name, path, target)
            if spec is not None:
                self._follow(spec, self._awaited.pop(name))
                return spec
        return None

    def _follow(self, spec: ModuleSpec, act: WhenImported) -> None:
        loader = spec.loader
        if loader is None or isinstance(loader, type):  # a built-in module: none of ours
            return
        execute = loader.exec_module

        @functools.wraps(execute)
        def exec_module(module: ModuleType) -> None:
            del loader.exec_module
            execute(module)
            if self in sys.meta_path:
                self._arrived(act, module)

        loader.exec_module = exec_module  # type: ignore[method-assign]

    def _arrived(self, act: WhenImported, module: ModuleType) -> None:
        file = getattr(module, "__file__", None)
        if file:
            self._sites.skip(os.path.dirname(file) + os.sep)
        act(module)
