"""Equal contents become equal bytes, and nothing privileged survives."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from sandbox.rootfs import normalise, plain_name


def archive(entries: list[tuple[str, dict[str, Any], bytes]], prefix: str = "/") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, fields, content in entries:
            entry = tarfile.TarInfo(prefix + name)
            entry.size = len(content)
            for key, value in fields.items():
                setattr(entry, key, value)
            tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def entries_of(path: Path) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(path) as tar:
        return {member.name: member for member in tar}


def test_layer_digest_is_the_hash_of_the_archive_before_compression(tmp_path: Path) -> None:
    layer = normalise([archive([("a", {}, b"x")])], tmp_path / "out", epoch=9)

    plain = gzip.decompress(layer.path.read_bytes())
    assert (layer.digest, layer.size) == (f"sha256:{hashlib.sha256(plain).hexdigest()}", len(plain))


def test_setuid_bits_capabilities_devices_and_names_of_owners_go(tmp_path: Path) -> None:
    entries = [
        ("su", {"mode": 0o6755, "uid": 0, "gid": 42, "uname": "root", "gname": "shadow"}, b"x"),
        ("ping", {"mode": 0o755, "pax_headers": {"SCHILY.xattr.security.capability": "\x01"}}, b"y"),
        ("tmp", {"type": tarfile.DIRTYPE, "mode": 0o1777}, b""),
        ("opt/null", {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 3}, b""),
        ("dev/null", {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 3}, b""),
    ]

    found = entries_of(normalise([archive(entries)], tmp_path / "out", epoch=9).path)

    assert {name: (m.mode, m.gid, m.gname, m.pax_headers) for name, m in found.items()} == {
        "su": (0o755, 42, "", {}),
        "ping": (0o755, 0, "", {}),
        "tmp": (0o1777, 0, "", {}),
    }


def test_logs_caches_and_what_engines_add_are_left_out(tmp_path: Path) -> None:
    names = [
        ".dockerenv", "etc/hostname", "etc/resolv.conf", "etc/machine-id", "etc/passwd-", "var/log/dpkg.log",
        "build/log", "var/cache/ldconfig/aux-cache", "var/lib/dpkg/status-old", "proc/1", "root/.cache",
        "usr/sbin/policy-rc.d",
    ]  # fmt: skip
    kept = ["etc/passwd", "var/lib/dpkg/status", "usr/bin/build", "builder/x", "var/logs/x", "etc/hosts.allow"]

    found = entries_of(normalise([archive([(n, {}, b"") for n in names + kept])], tmp_path / "out", epoch=9).path)

    assert sorted(found) == sorted(kept)


def test_times_are_clamped_not_set(tmp_path: Path) -> None:
    entries = [("old", {"mtime": 5}, b""), ("new", {"mtime": 5000}, b"")]

    found = entries_of(normalise([archive(entries)], tmp_path / "out", epoch=100).path)

    assert {name: member.mtime for name, member in found.items()} == {"old": 5, "new": 100}


def test_of_hard_linked_names_the_first_holds_the_content(tmp_path: Path) -> None:
    entries = [("z", {}, b"content"), ("a", {"type": tarfile.LNKTYPE, "linkname": "/z"}, b"")]

    path = normalise([archive(entries)], tmp_path / "out", epoch=9).path

    with tarfile.open(path) as tar:
        assert [(m.name, m.type, m.linkname) for m in tar] == [
            ("a", tarfile.REGTYPE, ""),
            ("z", tarfile.LNKTYPE, "a"),
        ]
        content = tar.extractfile("z")
        assert content is not None
        assert content.read() == b"content"


@given(order=st.permutations(range(5)), prefix=st.sampled_from(["/", "./", ""]), times=st.integers(100, 10**9))
def test_neither_order_nor_prefix_nor_time_of_building_changes_the_digest(
    tmp_path_factory: Any, order: list[int], prefix: str, times: int
) -> None:
    directory = tmp_path_factory.mktemp("layer")
    entries = [(name, {"mtime": times}, name.encode()) for name in ("a", "b", "dä", ".config", "c" * 150)]

    shuffled = normalise([archive([entries[i] for i in order], prefix)], directory / "one", epoch=100)
    straight = normalise([archive(entries)], directory / "two", epoch=100)

    assert shuffled.digest == straight.digest
    assert shuffled.path.read_bytes() == straight.path.read_bytes()


def test_a_leading_dot_of_a_name_is_not_taken_for_the_root() -> None:
    assert [plain_name(name) for name in ("/", ".", "./", "./.env", "/.env", "..x", "a/./b")] == [
        "", "", "", ".env", ".env", "..x", "a/./b",
    ]  # fmt: skip
