from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox.errors import StoreError
from sandbox.store import Store

GOLDEN = Path(__file__).parent / "golden" / "store-1.bin"
HELLO = "324dcf027dd4a30a932c441f365a25e86b173defa4b8e58948253471b81b72cf"


def fill(file: Path) -> None:
    with Store(file, writable=True) as store:
        assert store.put([b"hel", b"lo"], 5) == HELLO
        store.put([], 0)
        store.note({"type": "base", "path": "a"})


def test_store_of_version_1_is_written_and_read_as_ever(tmp_path: Path) -> None:
    fill(tmp_path / "log")
    assert (tmp_path / "log").read_bytes() == GOLDEN.read_bytes()
    with Store(GOLDEN, writable=False) as store:
        assert store.get(HELLO) == b"hello"
        assert list(store.notes()) == [{"type": "base", "path": "a"}]


def test_equal_content_is_kept_once(tmp_path: Path) -> None:
    with Store(tmp_path / "log", writable=True) as store:
        store.put([b"x" * 1000], 1000)
        size = store.size
        store.put([b"x" * 500, b"x" * 500], 1000)
        assert store.size == size
    assert (tmp_path / "log").stat().st_size == size


def test_content_that_changed_while_it_was_read_is_not_kept(tmp_path: Path) -> None:
    with Store(tmp_path / "log", writable=True) as store:
        with pytest.raises(StoreError):
            store.put([b"shorter"], 100)
        assert store.get(store.put([b"next"], 4)) == b"next"


@given(cut=st.integers(min_value=0, max_value=len(GOLDEN.read_bytes())))
@settings(max_examples=200, deadline=None)
def test_file_cut_off_anywhere_opens_with_what_was_whole(cut: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    file = tmp_path_factory.mktemp("cut") / "log"
    data = GOLDEN.read_bytes()
    file.write_bytes(data[:cut])
    with Store(file, writable=True) as store:
        digest = store.put([b"more"], 4)
        assert store.get(digest) == b"more"
        if HELLO in store:
            assert store.get(HELLO) == b"hello"
    with Store(file, writable=False) as store:
        assert store.get(digest) == b"more"
        assert list(store.notes()) == ([{"type": "base", "path": "a"}] if cut == len(data) else [])


@pytest.mark.parametrize("size", [0, 7])
def test_store_that_is_just_being_made_reads_as_empty(size: int, tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(GOLDEN.read_bytes()[:size])
    with Store(tmp_path / "log", writable=False) as store:
        assert HELLO not in store
        assert list(store.notes()) == []
    assert (tmp_path / "log").stat().st_size == size


def test_last_record_whose_bytes_never_reached_the_disk_does_not_count(tmp_path: Path) -> None:
    with Store(tmp_path / "log", writable=True) as store:
        first = store.put([b"first"], 5)
        second = store.put([b"second"], 6)
    data = bytearray((tmp_path / "log").read_bytes())
    data[-38:-32] = bytes(6)
    (tmp_path / "log").write_bytes(data)
    with Store(tmp_path / "log", writable=True) as store:
        assert first in store
        assert second not in store
        assert store.get(store.put([b"second"], 6)) == b"second"


def test_damaged_content_is_refused_when_it_is_read(tmp_path: Path) -> None:
    fill(tmp_path / "log")
    data = bytearray((tmp_path / "log").read_bytes())
    data[data.index(b"hello")] ^= 1
    (tmp_path / "log").write_bytes(data)
    with Store(tmp_path / "log", writable=False) as store, pytest.raises(StoreError, match="damaged"):
        store.get(HELLO)


def test_what_is_no_store_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"something else entirely")
    with pytest.raises(StoreError):
        Store(tmp_path / "log", writable=True)
    assert (tmp_path / "log").read_bytes() == b"something else entirely"
    with pytest.raises(StoreError, match="no content"), Store(GOLDEN, writable=False) as store:
        store.get("00")


@given(contents=st.lists(st.binary(max_size=200), max_size=20))
@settings(deadline=None)
def test_everything_put_comes_back(contents: list[bytes], tmp_path_factory: pytest.TempPathFactory) -> None:
    file = tmp_path_factory.mktemp("store") / "log"
    with Store(file, writable=True) as store:
        digests = [store.put([data], len(data)) for data in contents]
    with Store(file, writable=False) as store:
        assert [store.get(digest) for digest in digests] == contents
