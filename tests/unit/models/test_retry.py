from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence

import pytest

from runner.errors import (
    AuthenticationError,
    BrokenStreamError,
    InvalidRequestError,
    ModelError,
    ModelNotFoundError,
    OverloadedError,
    PromptTooLongError,
)
from runner.models.base import Delta, Finished, Request, Retrying, Started, TextPart
from runner.models.retry import RetryingModel

THINK = {"type": "thinking", "thinking": "x", "signature": "s"}
TEXT = {"type": "text", "text": "t"}
REQUEST = Request(
    model="one",
    system=(),
    messages=({"role": "user", "content": "hi"}, {"role": "assistant", "content": [THINK, TEXT]}),
    tools=(),
    max_output_tokens=100,
    thinking_tokens=2000,
)
STARTED = Started(message="m", model="one", usage={})
DONE = Finished(stop_reason="end_turn", usage={})


class Moody:
    """Raises what it is told, in order, then replies. Each error comes after a text part."""

    def __init__(self, name: str, errors: Sequence[ModelError]) -> None:
        self.name = name
        self.errors = list(errors)
        self.asked: list[Request] = []
        self.closed = 0
        self.left = 0

    async def warm(self) -> None: ...

    async def close(self) -> None:
        self.closed += 1

    async def stream(self, request: Request) -> AsyncGenerator[Delta]:
        self.asked.append(request)
        try:
            yield STARTED
            if self.errors:
                yield TextPart(text="lost")
                raise self.errors.pop(0)
            yield DONE
        finally:
            self.left += 1


def client(*models: Moody, retries: int = 10, slept: list[float] | None = None) -> RetryingModel:
    async def sleep(seconds: float) -> None:
        if slept is not None:
            slept.append(seconds)

    return RetryingModel(models[0], fallbacks=models[1:], retries=retries, sleep=sleep, rng=lambda: 0.0)


async def play(model: RetryingModel) -> list[Delta]:
    return [delta async for delta in model.stream(REQUEST)]


async def test_an_overload_is_waited_out_and_said() -> None:
    slept: list[float] = []
    busy = OverloadedError("busy", status=529, partial=(TEXT,))
    deltas = await play(client(Moody("one", [busy, BrokenStreamError("cut")]), slept=slept))
    assert deltas == [
        STARTED,
        TextPart(text="lost"),
        Retrying(attempt=2, attempts=11, delay=0.5, error="busy", status=529, partial=(TEXT,)),
        STARTED,
        TextPart(text="lost"),
        Retrying(attempt=3, attempts=11, delay=1.0, error="cut"),
        STARTED,
        DONE,
    ]
    assert slept == [0.5, 1.0]


async def test_the_delay_doubles_up_to_half_a_minute() -> None:
    slept: list[float] = []
    await play(client(Moody("one", [BrokenStreamError("x") for _ in range(9)]), slept=slept))
    assert slept == [0.5, 1, 2, 4, 8, 16, 32, 32, 32]


async def test_the_delay_is_blurred_by_a_quarter_at_most() -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    model = RetryingModel(Moody("one", [BrokenStreamError("x")]), sleep=sleep, rng=lambda: 1.0)
    await play(model)
    assert slept == [0.375]


async def test_the_provider_is_waited_for_as_long_as_it_asks() -> None:
    slept: list[float] = []
    await play(client(Moody("one", [OverloadedError("busy", status=429, retry_after=7.5)]), slept=slept))
    assert slept == [7.5]


async def test_a_provider_that_asks_for_an_hour_is_not_waited_for() -> None:
    slept: list[float] = []
    model = Moody("one", [OverloadedError("busy", status=429, retry_after=3600)])
    with pytest.raises(OverloadedError, match="busy; the provider asks to wait 3600 s, and the most is 120 s"):
        await play(client(model, slept=slept))
    assert slept == []
    assert len(model.asked) == 1


async def test_after_the_last_retry_the_last_error_is_raised() -> None:
    last = OverloadedError("third", status=500)
    model = Moody("one", [BrokenStreamError("first"), BrokenStreamError("second"), last])
    with pytest.raises(OverloadedError, match="third") as raised:
        await play(client(model, retries=2))
    assert raised.value is last
    assert len(model.asked) == 3


@pytest.mark.parametrize(
    "error",
    [
        AuthenticationError("key"),
        ModelNotFoundError("model"),
        PromptTooLongError("long"),
        InvalidRequestError("odd"),
        ModelError("certificate"),
    ],
)
async def test_what_will_not_pass_is_not_tried_again(error: ModelError) -> None:
    model = Moody("one", [error])
    with pytest.raises(type(error)):
        await play(client(model))
    assert len(model.asked) == 1


async def test_after_three_overloads_the_next_model_is_asked_and_stays() -> None:
    slept: list[float] = []
    one = Moody("one", [OverloadedError("busy", status=529) for _ in range(4)])
    two = Moody("two", [])
    model = client(one, two, slept=slept)
    deltas = await play(model)
    assert [delta for delta in deltas if isinstance(delta, Retrying)][-1] == Retrying(
        attempt=4, attempts=11, delay=0.0, error="busy; now asking two", status=529
    )
    assert slept == [0.5, 1.0, 0.0]
    await play(model)
    assert (len(one.asked), len(two.asked)) == (3, 2)
    assert two.asked[0] == Request(
        model="two",
        system=(),
        messages=({"role": "user", "content": "hi"}, {"role": "assistant", "content": [TEXT]}),
        tools=(),
        max_output_tokens=100,
    )


@pytest.mark.parametrize(
    "error", [ModelNotFoundError("no such model", status=404), OverloadedError("busy", status=429, retry_after=9999)]
)
async def test_where_waiting_will_not_help_the_next_model_is_asked_at_once(error: ModelError) -> None:
    one, two = Moody("one", [error]), Moody("two", [])
    deltas = await play(client(one, two))
    assert deltas[-1] == DONE
    assert (len(one.asked), len(two.asked)) == (1, 1)


async def test_broken_streams_do_not_turn_to_another_model() -> None:
    one, two = Moody("one", [BrokenStreamError("cut") for _ in range(5)]), Moody("two", [])
    await play(client(one, two))
    assert two.asked == []


async def test_no_retry_is_no_retry() -> None:
    model = Moody("one", [BrokenStreamError("cut")])
    with pytest.raises(BrokenStreamError):
        await play(client(model, retries=0))


async def test_closing_the_stream_closes_the_one_beneath() -> None:
    model = Moody("one", [])
    stream = client(model).stream(REQUEST)
    await anext(stream)
    await stream.aclose()
    assert model.left == 1


async def test_all_models_are_closed() -> None:
    one, two = Moody("one", []), Moody("two", [])
    await client(one, two).close()
    assert (one.closed, two.closed) == (1, 1)
