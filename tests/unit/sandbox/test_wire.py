"""Frames: what is encoded is decoded, whatever the pieces; what is no frame is refused; small frames go first."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.wire import (
    CODES,
    FRAME,
    HEAD,
    HEADER,
    STREAM_ID,
    Decoder,
    Outbox,
    WireError,
    check,
    encode,
    head_of_data,
)

streams = st.integers(1, STREAM_ID)
texts = st.text(st.characters(codec=None), max_size=100)
payloads = st.binary(max_size=3000)
flat = st.dictionaries(
    st.text(max_size=20),
    st.one_of(
        st.integers(-(2**63), 2**63), texts, st.booleans(), st.none(), st.floats(allow_nan=False, allow_infinity=False)
    ),
    max_size=8,
)
headers = st.one_of(
    st.builds(lambda s, k: {"t": "open", "s": s, "k": k}, streams, texts),
    st.builds(lambda s, c: {"t": "data", "s": s, "c": c}, streams, st.integers(0, 2)),
    st.builds(lambda s, r: {"t": "done", "s": s, "r": r}, streams, flat),
    st.builds(lambda s, m: {"t": "args", "s": s, "more": m}, streams, st.booleans()),
)
small = st.one_of(
    st.builds(lambda s: {"t": "end", "s": s}, streams),
    st.builds(lambda s, n: {"t": "credit", "s": s, "add": n}, streams, st.integers(1, 1 << 40)),
    st.builds(lambda s, n: {"t": "signal", "s": s, "sig": n}, streams, st.integers(0, 64)),
    st.builds(
        lambda s, c, d: {"t": "fail", "s": s, "code": c, "detail": d}, streams, st.sampled_from(sorted(CODES)), texts
    ),
    st.builds(lambda f: {"t": "hello", "wire": 1, "features": f}, st.lists(st.text(max_size=10), max_size=5)),
)
frames = st.one_of(st.tuples(headers, payloads), st.tuples(small, st.just(b"")))


def fed(data: bytes, cuts: list[int]) -> list[tuple[dict[str, Any], bytes]]:
    decoder, found, at = Decoder(), [], 0
    for cut in [*sorted(cut % (len(data) + 1) for cut in cuts), len(data)]:
        found += decoder.feed(data[at:cut])
        at = cut
    assert decoder.idle
    return found


@given(st.lists(frames, max_size=6), st.lists(st.integers(0, 1 << 20), max_size=10))
def test_frames_survive_any_cutting(sent: list[tuple[dict[str, Any], bytes]], cuts: list[int]) -> None:
    data = b"".join(encode(dict(header), payload) for header, payload in sent)
    found = fed(data, cuts)
    assert [payload for _, payload in found] == [payload for _, payload in sent]
    assert [{k: v for k, v in header.items() if k != "n"} for header, _ in found] == [header for header, _ in sent]


@given(st.binary(max_size=2000))
def test_noise_is_refused_or_waited_on_but_never_more(data: bytes) -> None:
    decoder = Decoder()
    try:
        decoder.feed(data)
    except WireError:
        return
    assert len(data) < HEADER or b"\n" in data


@given(frames, st.data())
def test_one_changed_byte_never_raises_anything_else(frame: tuple[dict[str, Any], bytes], data: st.DataObject) -> None:
    raw = bytearray(encode(dict(frame[0]), frame[1]))
    raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        Decoder().feed(bytes(raw))
    except WireError:
        return


@given(frames, st.data())
def test_a_cut_frame_is_not_complete(frame: tuple[dict[str, Any], bytes], data: st.DataObject) -> None:
    raw = encode(dict(frame[0]), frame[1])
    decoder = Decoder()
    assert decoder.feed(raw[: data.draw(st.integers(0, len(raw) - 1))]) == []


@pytest.mark.parametrize(
    "header",
    [
        {},
        [],
        "hello",
        None,
        {"t": "nonsense"},
        {"t": ["data"], "s": 1},
        {"t": "data"},
        {"t": "data", "s": 0},
        {"t": "data", "s": -1},
        {"t": "data", "s": 1.0},
        {"t": "data", "s": True},
        {"t": "data", "s": "1"},
        {"t": "data", "s": STREAM_ID + 1},
        {"t": "data", "s": 1, "n": FRAME + 1},
        {"t": "data", "s": 1, "n": -1},
        {"t": "data", "s": 1, "c": 3},
        {"t": "data", "s": 1, "class": "os.system"},
        {"t": "data", "s": 1, "more": True},
        {"t": "end", "s": 1, "n": 1},
        {"t": "credit", "s": 1, "add": 0},
        {"t": "credit", "s": 1, "add": -5},
        {"t": "credit", "s": 1, "add": 1 << 41},
        {"t": "started", "s": 1, "pid": -1},
        {"t": "fail", "s": 1, "code": "KeyError"},
        {"t": "fail", "s": 1, "code": "denied", "detail": "x" * 5000},
        {"t": "done", "s": 1, "r": {"deep": {"er": 1}}},
        {"t": "done", "s": 1, "r": {"list": [1]}},
        {"t": "done", "s": 1, "r": {"x" * 33: 1}},
        {"t": "done", "s": 1, "r": {"text": "x" * 5000}},
        {"t": "done", "s": 1, "r": []},
        {"t": "hello", "wire": 1, "features": "all"},
        {"t": "hello", "wire": 1, "features": [1]},
        {"t": "hello", "wire": 1, "features": ["x" * 65]},
        {"t": "hello", "wire": 1, "features": ["x"] * 65},
        {"t": "hello", "wire": 1, "features": [], "grants": {"tcp": -1}},
        {"t": "hello", "wire": 1, "features": [], "grants": {"tcp": 1e9}},
        {"t": "hello", "wire": 0, "features": []},
        {"t": "signal", "s": 1, "sig": 65},
        {"t": "resize", "s": 1, "rows": 0, "columns": 80},
        {"t": "resize", "s": 1, "rows": 10},
    ],
)
def test_headers_that_do_not_fit_are_refused(header: object) -> None:
    with pytest.raises(WireError):
        check(header)
    with pytest.raises(WireError):
        Decoder().feed(json.dumps(header).encode() + b"\n")


@pytest.mark.parametrize(
    "line",
    [
        b"x" * HEADER,
        b'{"t":"end","s":NaN}\n',
        b'{"t":"credit","s":1,"add":Infinity}\n',
        b"[" * 10_000 + b"\n",
        b"\xff\xfe\n",
        b"\n",
        b'{"t":"end","s":1} {"t":"end","s":1}\n',
        b'{"t":"done","s":1,"r":{"n":1' + b"0" * 5000 + b"}}\n",
    ],
)
def test_lines_that_are_no_json_of_ours_are_refused(line: bytes) -> None:
    with pytest.raises(WireError):
        Decoder().feed(line)


def test_what_is_too_large_is_not_sent() -> None:
    with pytest.raises(WireError):
        encode({"t": "data", "s": 1}, b"x" * (FRAME + 1))
    with pytest.raises(WireError):
        encode({"t": "open", "s": 1, "k": "x" * HEADER})


def test_small_frames_overtake_data_of_other_streams_only() -> None:
    box = Outbox()
    box.data(b"data1 " * 1000, 1)
    box.data(b"data2 " * 1000, 2)
    box.control(b"end1 ", 1)
    box.control(b"quick ", 3)
    box.control(b"anonymous ")
    sent = []
    while box:
        sent.append(b"".join(box.take(10)))
    assert sent == [b"quick anonymous ", b"data1 " * 1000, b"data2 " * 1000, b"end1 "]


@given(st.lists(st.tuples(st.integers(1, 4), st.booleans()), max_size=40), st.integers(1, 50))
def test_each_stream_keeps_its_own_order_and_nothing_is_lost(queued: list[tuple[int, bool]], most: int) -> None:
    box = Outbox()
    for number, (stream, bulk) in enumerate(queued):
        frame = b"%d:%d|" % (stream, number)
        (box.data if bulk else box.control)(frame, stream)
    assert box.size == sum(len(b"%d:%d|" % (s, n)) for n, (s, _) in enumerate(queued))
    data = b""
    while box:
        data += b"".join(box.take(most))
    assert box.size == 0
    found = [tuple(map(int, item.split(b":"))) for item in data.split(b"|") if item]
    assert sorted(number for _, number in found) == list(range(len(queued)))
    for stream in range(1, 5):
        numbers = [number for s, number in found if s == stream]
        assert numbers == sorted(numbers)


@given(st.integers(0, 200), st.integers(1, 300))
def test_a_frame_of_data_can_be_taken_in_part(cut: int, size: int) -> None:
    payload = bytes(range(256)) * 2
    frame = head_of_data(3, 0, size) + payload[:size]
    cut = min(cut, len(frame))
    decoder = Decoder()
    whole = decoder.feed(frame[:cut])
    divided = decoder.divide()
    if divided is None:
        assert cut < HEAD or whole
        assert whole + decoder.feed(frame[cut:]) == [({"t": "data", "s": 3, "c": 0, "n": size}, payload[:size])]
    else:
        header, part, left = divided
        assert (header["s"], part, left, decoder.idle) == (3, payload[: cut - HEAD], len(frame) - cut, True)


def test_other_frames_are_never_taken_in_part() -> None:
    decoder = Decoder()
    assert decoder.feed(encode({"t": "open", "s": 1, "k": "read"}, b"arguments")[:-1]) == []
    assert decoder.divide() is None
