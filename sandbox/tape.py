"""What is kept of exchanges that leave the box, and what answers in their place: the two things that a Way may have
beside its Judge. These keep nothing; `sandbox.recording` does, and `sandbox.replaying` answers.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from sandbox.reachable import Address
from sandbox.rulings import Request

Headers = list[tuple[bytes, bytes]]


class Take:
    """Hears one exchange, in order; nothing is kept by this one. The bodies come in pieces of any size. It never
    raises: what cannot be kept is named as missing.
    """

    def asks(self, headers: Headers) -> Headers:
        """The request's headers as they go on."""
        return headers

    def reached(self, address: Address | None) -> None:
        """Where the request goes, None where that is not known."""

    def sent(self, data: bytes) -> None:
        """Of the request's body."""

    def all_sent(self) -> None:
        """The request's body is whole."""

    def answered(self, status: int, headers: Headers, reason: bytes) -> None:
        """The answer's head."""

    def received(self, data: bytes) -> None:
        """Of the answer's body."""

    def complete(self) -> None:
        """The answer's body is whole; its client does not know it yet."""

    def close(self, refusal: str = "", *, failure: str = "") -> None:
        """It is over; without a word the answer is whole."""


class Tape:
    """Makes a Take of each exchange."""

    def begin(self, request: Request, headers: Headers) -> Take:  # noqa: ARG002 (others keep them)
        """An exchange begins; `headers` without the key that is put into them later."""
        return Take()

    def missed(self, request: Request, why: str) -> None:
        """Something passed of which no exchange is kept."""


class Body(Protocol):
    """Takes in a request's body."""

    def feed(self, data: bytes) -> object:
        """The next bytes."""
        ...


class Answer(Protocol):
    """An answer from elsewhere than the network. `address`: where it came from once; not `whole`: it breaks off."""

    @property
    def address(self) -> Address | None:
        """Judged as if it were connected to; None where it was not known."""
        ...

    @property
    def status(self) -> int:
        """Of HTTP."""
        ...

    @property
    def headers(self) -> Headers:
        """As they go to the client."""
        ...

    @property
    def reason(self) -> bytes:
        """Beside the status."""
        ...

    @property
    def whole(self) -> bool:
        """Whether it has an end."""
        ...

    def pieces(self) -> Iterator[bytes]:
        """The body. Raises SandboxError where it is damaged."""
        ...


class Answers(Protocol):
    """Answers in the place of the network: where a Way has it, nothing is ever connected to."""

    def body(self) -> Body:
        """For the body of a request that is to be answered."""
        ...

    def answer(self, request: Request, body: Body) -> Answer:
        """Raises RefusedError, which names the request, where there is none."""
        ...

    def unknown(self, request: Request) -> str:
        """That there is none."""
        ...
