"""How long calls waited for answers to questions, which is no time of theirs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Waiting:
    """Seconds by call. Questions of one call that are open together count once."""

    def __init__(self) -> None:
        self._open: dict[str, int] = {}
        self._since: dict[str, float] = {}
        self._waited: dict[str, float] = {}

    @contextmanager
    def of(self, call: str, clock: Callable[[], float]) -> Iterator[None]:
        """While a question of the call is open."""
        if not self._open.get(call):
            self._since[call] = clock()
        self._open[call] = self._open.get(call, 0) + 1
        try:
            yield
        finally:
            self._open[call] -= 1
            if not self._open[call]:
                del self._open[call]
                self._waited[call] = self._waited.get(call, 0.0) + clock() - self._since.pop(call)

    def take(self, call: str) -> float:
        """How long the call waited in all; it is not kept any longer."""
        return self._waited.pop(call, 0.0)
