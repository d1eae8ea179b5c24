"""Files of adapters that stay on this machine although nothing reads them."""

import logging
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from pathlib import Path

from diptych.digest import Digest
from diptych.inference.trajectory import AdapterUse

__all__ = ["KeptFiles"]

_log = logging.getLogger(__name__)


class KeptFiles:
    """Holds files of a registry; safe from any thread.

    ``hold`` is ``Registry.hold``, which brings what is not here; ``submit`` runs what takes long.
    """

    def __init__(
        self,
        hold: Callable[..., AbstractContextManager[Path]],
        submit: Callable[[Callable[[], None]], object],
    ) -> None:
        self._hold, self._submit = hold, submit
        self._lock = threading.Lock()
        self._kept: dict[tuple[str, str], ExitStack] = {}

    def keep(self, use: AdapterUse) -> None:
        """Hold an adapter's file from soon on; one that cannot be brought is logged."""
        key, stack = (use.tenant, use.digest), ExitStack()
        with self._lock:
            if self._kept.setdefault(key, stack) is stack:
                self._submit(partial(self._bring, use, stack))

    def let_go(self, use: AdapterUse) -> None:
        """Hold it no longer; one that is not kept is ignored."""
        with self._lock:
            stack = self._kept.pop((use.tenant, use.digest), None)
        if stack is not None:
            stack.close()

    def close(self) -> None:
        """Hold nothing any more."""
        with self._lock:
            stacks = list(self._kept.values())
            self._kept.clear()
        for stack in stacks:
            stack.close()

    def _bring(self, use: AdapterUse, stack: ExitStack) -> None:
        key = (use.tenant, use.digest)
        with ExitStack() as held:
            try:
                held.enter_context(self._hold(Digest.parse(use.digest), tenant=use.tenant))
            except Exception as error:  # noqa: BLE001  logged, the next who asks tries again
                _log.warning("the file of adapter %s is not kept: %s", use.name, error)
                with self._lock:
                    if self._kept.get(key) is stack:
                        del self._kept[key]
                return
            with self._lock:
                if self._kept.get(key) is stack:
                    stack.push(held.pop_all())
