from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.models.sse import ServerEvent, SseDecoder, SseError


def decode(*chunks: bytes, limit: int = 1 << 20) -> list[ServerEvent]:
    decoder = SseDecoder(limit)
    return [event for chunk in chunks for event in decoder.feed(chunk)] + list(decoder.close())


STREAM = (
    '\ufeffevent: first\r\ndata: {"a": "ä€😀"}\r\n\r\n'
    ": a comment\n\nevent: second\ndata: one\ndata:two\ndata:  three\n\n"
    "id: 7\nretry: 10\nnonsense\ndata\rdata: x\r\revent: empty\n\ndata: last"
).encode()
EVENTS = [
    ServerEvent(name="first", data='{"a": "ä€😀"}'),
    ServerEvent(name="second", data="one\ntwo\n three"),
    ServerEvent(name="", data="\nx"),
    ServerEvent(name="", data="last"),
]


def test_line_ends_comments_and_several_data_lines_are_read_as_the_standard_says() -> None:
    assert decode(STREAM) == EVENTS


@given(st.lists(st.integers(0, len(STREAM)), max_size=40))
def test_any_chunking_gives_the_same_events(cuts: list[int]) -> None:
    at = [0, *sorted(cuts), len(STREAM)]
    assert decode(*(STREAM[a:b] for a, b in itertools.pairwise(at))) == EVENTS


def test_byte_by_byte_gives_the_same_events() -> None:
    assert decode(*(STREAM[i : i + 1] for i in range(len(STREAM)))) == EVENTS


@given(st.binary(max_size=300))
def test_no_bytes_raise_anything_but_sse_error(noise: bytes) -> None:
    try:
        events = decode(noise)
    except SseError:
        return
    assert all(isinstance(event.data, str) for event in events)


@pytest.mark.parametrize("chunk", [1, 100, 5000])
def test_an_event_over_the_limit_is_refused_however_it_comes(chunk: int) -> None:
    for giant in (b"data: " + b"x" * 3000, b"data: x\n" * 3000, b"x" * 3000):
        with pytest.raises(SseError, match="more than 1000 bytes"):
            decode(*(giant[at : at + chunk] for at in range(0, len(giant), chunk)), limit=1000)


def test_what_was_whole_before_an_event_over_the_limit_is_given_out() -> None:
    feed = SseDecoder(100).feed(b"data: ok\n\ndata: " + b"x" * 200 + b"\n\n")
    assert next(feed) == ServerEvent(name="", data="ok")
    with pytest.raises(SseError):
        next(feed)


def test_many_events_of_which_none_is_over_the_limit_pass() -> None:
    assert len(decode(b"data: 0123456789\n\n" * 1000, limit=100)) == 1000


def test_an_event_that_is_not_utf8_is_refused() -> None:
    with pytest.raises(SseError, match="UTF-8"):
        decode(b"data: \xff\xfe\n\n")
