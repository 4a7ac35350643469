from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from sandbox.errors import EngineRefusedError
from sandbox.freezer import Freezer

pytestmark = pytest.mark.user


class Restless:
    """The containers of an engine that refuses to pause `times` times, as runc does when processes will not rest."""

    def __init__(self, times: int) -> None:
        self.left = times
        self.calls: list[str] = []

    def pause(self, _container: str) -> None:
        self.calls.append("pause")
        self.left -= 1
        if self.left >= 0:
            raise EngineRefusedError("unable to freeze")

    def unpause(self, _container: str) -> None:
        self.calls.append("unpause")

    def inspect(self, _container: str) -> dict[str, Any]:
        return {"State": {"Running": True}}


def freezer_over(containers: Restless) -> Freezer:
    info = SimpleNamespace(rootless=False, cgroup="1")
    engine: Any = SimpleNamespace(on_this_machine=False, containers=containers, info=info)
    return Freezer(engine, "c")


def test_a_box_that_will_not_rest_at_once_is_asked_again() -> None:
    containers = Restless(2)
    with freezer_over(containers).frozen():
        assert containers.calls == ["pause"] * 3
    assert containers.calls[-1] == "unpause"


def test_a_box_that_never_rests_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sandbox.freezer._PAUSE_AGAIN", 0)
    with pytest.raises(EngineRefusedError, match="unable to freeze"), freezer_over(Restless(99)).frozen():
        pass
