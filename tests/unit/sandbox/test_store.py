from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox.errors import StoreError
from sandbox.store import AT_ONCE, Record, Store, digest_of

GOLDEN = Path(__file__).parent / "golden" / "store-2.bin"
OLD = GOLDEN.with_name("store-1.bin")
NOTES = [{"type": "base", "path": name} for name in ("a", "b", "c")]
HELLO = "324dcf027dd4a30a932c441f365a25e86b173defa4b8e58948253471b81b72cf"


def fill(file: Path) -> None:
    with Store(file, writable=True) as store:
        assert store.put([b"hel", b"lo"], 5) == HELLO
        store.put([], 0)
        store.note({"type": "base", "path": "a"})


def test_store_is_written_as_ever_and_what_lies_in_packs_is_read(tmp_path: Path) -> None:
    fill(tmp_path / "log")
    plain = (tmp_path / "log").read_bytes()
    assert GOLDEN.read_bytes().startswith(plain)
    with Store(GOLDEN, writable=False) as store:
        assert store.get(HELLO) == b"hello"
        assert list(store.notes()) == NOTES
        packed = [b"packed one " * 40, b"packed two " * 40]
        assert [store.get(digest_of(data).hex()) for data in packed] == packed
        assert [size for _, size in store.digests()] == [5, 0, 440, 440]


def test_store_of_version_1_is_read_and_written_on_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(OLD.read_bytes())
    with Store(tmp_path / "log", writable=True) as store:
        assert store.get(HELLO) == b"hello"
        assert list(store.notes()) == NOTES[:1]
        more = store.add(b"more")
        store.note({"type": "x"})
    assert (tmp_path / "log").read_bytes().startswith(OLD.read_bytes())
    with Store(tmp_path / "log", writable=True) as store:
        assert store.version == 1
        assert store.get(more) == b"more"
        assert list(store.notes()) == [*NOTES[:1], {"type": "x"}]


@pytest.mark.parametrize("golden", [GOLDEN, OLD])
def test_a_store_that_is_damaged_before_its_end_is_never_cut_off(golden: Path, tmp_path: Path) -> None:
    data = bytearray(golden.read_bytes())
    second = data.index(b"fhrc", 13)
    data[second] ^= 1
    (tmp_path / "log").write_bytes(data)
    with pytest.raises(StoreError, match=f"the record at {second} is damaged"):
        Store(tmp_path / "log", writable=True)
    assert (tmp_path / "log").read_bytes() == data
    with Store(tmp_path / "log", writable=False) as store:
        assert (store.broken, store.get(HELLO)) == (second, b"hello")


@given(at=st.integers(min_value=12, max_value=len(GOLDEN.read_bytes()) - 1), bit=st.integers(0, 7))
@settings(max_examples=300, deadline=None)
def test_any_bit_that_turns_is_noticed_and_costs_its_record_only(
    at: int, bit: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path_factory.mktemp("bit") / "log"
    data = bytearray(GOLDEN.read_bytes())
    data[at] ^= 1 << bit
    file.write_bytes(data)
    good = 0
    with Store(file, writable=False) as store, Store(GOLDEN, writable=False) as whole:
        for digest, _ in whole.digests():
            try:
                assert store.get(digest) == whole.get(digest)
                good += 1
            except StoreError:
                pass
        told = [record for record in store.records if record_is_bad(store, record)]
        assert good < 4 or told or store.torn or len(store.records) < len(whole.records)


def record_is_bad(store: Store, record: Record) -> bool:
    try:
        store.body(record)
    except StoreError:
        return True
    return False


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
        notes = list(store.notes())
        assert notes == NOTES[: len(notes)]
        assert notes == NOTES or cut < len(data)


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


@given(sizes=st.lists(st.sampled_from([0, 1, 5000, 700_000, AT_ONCE - 1, AT_ONCE]), max_size=6), read=st.booleans())
@settings(deadline=None, max_examples=30)
def test_what_is_gathered_reads_as_what_was_put(
    sizes: list[int], *, read: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    place = tmp_path_factory.mktemp("gathered")
    contents = [bytes([number]) * size for number, size in enumerate(sizes)]
    with Store(place / "log", writable=True) as store:
        digests = []
        for data in contents:
            if read and len(data) < AT_ONCE:
                (place / "file").write_bytes(data)
                with (place / "file").open("rb") as file:
                    name, count = store.add_file(file.fileno(), len(data))
                assert count == len(data)
            else:
                name = store.add(data)
            assert name == digest_of(data).hex()
            digests.append(name)
        store.note({"type": "end"})
    with Store(place / "log", writable=False) as store:
        assert [store.get(digest) for digest in digests] == contents
        assert list(store.notes()) == [{"type": "end"}]
        assert store.torn == 0


def test_a_file_that_became_shorter_is_not_kept(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"short")
    with Store(tmp_path / "log", writable=True) as store, (tmp_path / "file").open("rb") as file:
        assert store.add_file(file.fileno(), 6) == ("", 5)
        assert store.get(store.add(b"next")) == b"next"
        assert [size for _, size in store.digests()] == [4]


def test_a_full_disk_costs_only_what_was_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Store(tmp_path / "log", writable=True) as store:
        first = store.add(b"first")
        store.flush()

        def full(*arguments: object) -> int:
            raise OSError(28, "no space left")

        monkeypatch.setattr(os, "pwrite", full)
        second = store.add(b"second")
        with pytest.raises(OSError, match="no space"):
            store.flush()
        monkeypatch.undo()
        assert (first in store, second in store) == (True, False)
        assert store.get(store.add(b"second")) == b"second"
    with Store(tmp_path / "log", writable=False) as store:
        assert (store.get(first), store.get(second)) == (b"first", b"second")
