"""Patience with a provider: tries again what may pass, says so, and turns to another model at last."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import replace

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt, wait_exponential

from runner.errors import BrokenStreamError, ModelNotFoundError, OverloadedError
from runner.models.base import Delta, ModelClient, Request, Retrying
from runner.models.messages_request import without_thinking

RETRIES = 10
LONGEST_ASKED = 120.0  # seconds; a provider that asks for more is not waited for
PATIENCE = 3  # overloads in a row before the next model is asked
_BACKOFF = wait_exponential(multiplier=0.5, max=32)
_Passing = OverloadedError | BrokenStreamError | ModelNotFoundError


class RetryingModel:
    """A ModelClient around others. Tries `retries` times more on OverloadedError and
    BrokenStreamError, after the delay that the provider asks for, else after one that doubles
    from half a second to 32 and is blurred by a quarter; before each it yields Retrying. After
    three overloads in a row, or where a model is not found, the next of `fallbacks` is asked, then
    and from then on, without the thinking of the others. The last error is raised in the end.
    """

    def __init__(
        self,
        model: ModelClient,
        *,
        fallbacks: Sequence[ModelClient] = (),
        retries: int = RETRIES,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        rng: Callable[[], float] = random.random,
    ) -> None:
        self._models = (model, *fallbacks)
        self._at = 0
        self._retries = retries
        self._sleep = sleep
        self._rng = rng
        self.name = model.name

    async def warm(self) -> None:
        """Connects to the model that will be asked."""
        await self._models[self._at].warm()

    async def close(self) -> None:
        """Closes all of them."""
        for model in self._models:
            await model.close()

    async def stream(self, request: Request) -> AsyncGenerator[Delta]:
        """As Model.stream, with Retrying between attempts."""
        course = _Course(self._rng)
        async for attempt in AsyncRetrying(
            retry=retry_if_exception(course.goes_on),
            wait=course.wait,
            stop=stop_after_attempt(self._retries + 1),
            sleep=course.note,
            reraise=True,
        ):
            if course.failure is not None:
                yield self._retrying(course, attempt.retry_state.attempt_number)
                await self._sleep(course.delay)
            try:
                async with contextlib.aclosing(self._ask(request)) as deltas:
                    async for delta in deltas:
                        yield delta
            except (OverloadedError, BrokenStreamError, ModelNotFoundError) as error:
                failure = error
            else:
                return
            course.failed(failure)
            if course.wants_another and self._at + 1 < len(self._models):
                self._at += 1
                course.turn()
            with attempt:
                raise failure

    async def _ask(self, request: Request) -> AsyncGenerator[Delta]:
        model = self._models[self._at]
        if self._at:
            messages = without_thinking(request.messages)
            request = replace(request, model=model.name, messages=messages, thinking_tokens=None)
        stream = model.stream(request)
        try:
            async for delta in stream:
                yield delta
        finally:
            if isinstance(stream, AsyncGenerator):
                await stream.aclose()

    def _retrying(self, course: _Course, attempt: int) -> Retrying:
        failure = course.failure
        assert failure is not None
        return Retrying(
            attempt=attempt,
            attempts=self._retries + 1,
            delay=course.delay,
            error=f"{failure}; now asking {self._models[self._at].name}" if course.turned else str(failure),
            status=failure.status,
            partial=failure.partial,
        )


class _Course:
    """How one request fares: the last failure, and what follows from it."""

    def __init__(self, rng: Callable[[], float]) -> None:
        self.failure: _Passing | None = None
        self.delay = 0.0
        self.turned = False
        self._overloads = 0
        self._rng = rng

    def failed(self, failure: _Passing) -> None:
        """Notes it; a wait that is too long is said in its message."""
        self.failure, self.turned = failure, False
        if isinstance(failure, OverloadedError) and _asks_too_much(failure):
            asked = f"the provider asks to wait {failure.retry_after:.0f} s, and the most is {LONGEST_ASKED:.0f} s"
            failure.args = (f"{failure}; {asked}",)
        self._overloads = self._overloads + 1 if isinstance(failure, OverloadedError) else 0

    @property
    def wants_another(self) -> bool:
        """Whether another model had better be asked."""
        return self._overloads >= PATIENCE or (self.failure is not None and not _passes(self.failure))

    def turn(self) -> None:
        self.turned, self._overloads = True, 0

    def goes_on(self, error: BaseException) -> bool:
        return self.turned or _passes(error)

    def wait(self, state: RetryCallState) -> float:
        if self.turned:
            return 0.0
        if isinstance(self.failure, OverloadedError) and self.failure.retry_after is not None:
            return self.failure.retry_after
        return _BACKOFF(state) * (1 - self._rng() / 4)

    async def note(self, seconds: float) -> None:
        """In place of tenacity's own sleep: the delay is shown before it is slept."""
        self.delay = seconds


def _passes(error: BaseException) -> bool:
    """Whether waiting may help, for as long as it is asked for."""
    return isinstance(error, OverloadedError | BrokenStreamError) and not _asks_too_much(error)


def _asks_too_much(error: OverloadedError | BrokenStreamError) -> bool:
    return isinstance(error, OverloadedError) and (error.retry_after or 0.0) > LONGEST_ASKED
