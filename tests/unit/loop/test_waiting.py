from __future__ import annotations

from runner.loop.waiting import Waiting


def test_questions_of_one_call_that_are_open_together_count_once() -> None:
    waiting, times = Waiting(), iter([10.0, 40.0, 100.0, 101.0])
    with waiting.of("a", times.__next__), waiting.of("a", times.__next__):
        assert waiting.take("a") == 0.0  # not over yet
    assert waiting.take("a") == 30.0
    assert waiting.take("a") == 0.0
    with waiting.of("b", times.__next__):
        pass
    assert (waiting.take("a"), waiting.take("b")) == (0.0, 1.0)
