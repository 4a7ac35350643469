"""Signatures in minisign's form. The fixtures were made by minisign 0.11 itself."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.errors import UsageError
from runner.policy.signing import SignatureError, new_key, public_keys, secret_key, verify

DATA = b"permissions:\n  deny: [WebFetch]\n"
PUBLIC = """untrusted comment: minisign public key 19122EEAD76C2B23
RWQjK2zX6i4SGZcTOHaRS91t6iPr9Yariu5NomPXmtBz41LkwHoSumbZ
"""
SECRET = """untrusted comment: minisign encrypted secret key
RWQAAEIyAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAIyts1+ouEhml9KqJ7WLfS78JU4HpdAZutLuEKILVG5vP\
1Gn47BpAWJcTOHaRS91t6iPr9Yariu5NomPXmtBz41LkwHoSumbZAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=
"""
HASHED = """untrusted comment: signature from minisign secret key
RUQjK2zX6i4SGafqJe5JRdIx1QKnifJo2mbL1KGMBg6aJ6Fpv01aGG7wc+drSD1BzhhorNNXjx6xucghQp+q7Dz7DUscGMSlowI=
trusted comment: by minisign
SRqajSOTHq2JfgCNsRR0miBPwP5rP8IRnjLjvWsaSJgxTs/0lOwvIKjBwDRjvuGE1vMdDGWR9iymhAv/es1lBg==
"""
LEGACY = """untrusted comment: signature from minisign secret key
RWQjK2zX6i4SGewcOxj/W67Thef+Se/PBZ+UoBrS+lkJ9dvSarz/LUrnNU4/P6Jl3C59amtMujWGtsE4GtuYLmCgJajnmsFtHwQ=
trusted comment: by minisign, legacy
feCccl7Oexcg+VvQgr+FMVJ/HuuXmlboGuwhuDA1ARV/spop4XuOrj/4ansKDjYgu9duVwC7v6TOQcyp8YWiCQ==
"""


@pytest.mark.parametrize(("signature", "comment"), [(HASHED, "by minisign"), (LEGACY, "by minisign, legacy")])
def test_what_minisign_signs_holds(signature: str, comment: str) -> None:
    assert verify(DATA, signature, public_keys(PUBLIC)) == comment


def test_a_secret_key_of_minisigns_is_read() -> None:
    key = secret_key(SECRET)
    assert key.public == public_keys(PUBLIC)[0]
    assert key.public.name == "19122EEAD76C2B23"
    assert verify(b"x", key.sign(b"x", "ours"), public_keys(PUBLIC)) == "ours"


def test_a_key_of_ours_survives_its_file() -> None:
    key = new_key()
    assert secret_key(key.text()) == key
    assert public_keys(key.public.text() + PUBLIC) == (key.public, *public_keys(PUBLIC))


@pytest.mark.parametrize("signature", [HASHED, LEGACY])
def test_another_file_another_comment_or_another_key_does_not_hold(signature: str) -> None:
    keys = public_keys(PUBLIC)
    for data, text, pinned in (
        (DATA + b" ", signature, keys),
        (DATA, signature.replace("trusted comment: by", "trusted comment: By"), keys),
        (DATA, signature, (new_key().public,)),
        (DATA, signature, ()),
    ):
        with pytest.raises(SignatureError):
            verify(data, text, pinned)


@given(st.integers(0, 73), st.integers(1, 255))
def test_no_byte_of_a_signature_can_be_changed(at: int, by: int) -> None:
    lines = HASHED.splitlines()
    raw = bytearray(base64.b64decode(lines[1]))
    raw[at] ^= by
    lines[1] = base64.b64encode(raw).decode()
    with pytest.raises(SignatureError):
        verify(DATA, "\n".join(lines), public_keys(PUBLIC))


@pytest.mark.parametrize("text", ["", "x", HASHED.replace("RUQ", "!!!"), HASHED + "\nmore\n", PUBLIC, HASHED[:100]])
def test_what_is_no_signature_is_refused(text: str) -> None:
    with pytest.raises(SignatureError):
        verify(DATA, text, public_keys(PUBLIC))


@pytest.mark.parametrize("text", ["", "untrusted comment: x\n", "RWQ", PUBLIC + "garbage\n"])
def test_what_is_no_key_is_refused(text: str) -> None:
    with pytest.raises(SignatureError):
        public_keys(text)


def test_a_damaged_secret_key_is_told() -> None:
    lines = new_key().text().splitlines()
    raw = bytearray(base64.b64decode(lines[1]))
    raw[70] ^= 1
    with pytest.raises(SignatureError, match="damaged"):
        secret_key(f"{lines[0]}\n{base64.b64encode(raw).decode()}\n")


def test_a_comment_of_two_lines_is_refused() -> None:
    with pytest.raises(UsageError):
        new_key().sign(b"x", "one\ntwo")
