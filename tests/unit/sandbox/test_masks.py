"""What patterns name on a disk, and git configurations without their logins."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.covers import Covers
from sandbox.errors import StoreError, WorkspaceError
from sandbox.layers import Layer
from sandbox.masks import Masks, find, without_logins
from sandbox.remote import tar_pieces
from sandbox.spec import Rung
from sandbox.walk import MAX_DEPTH
from tests.support.layers_by_hand import build
from tests.support.masking import masks

AT = PurePosixPath("/r")


def test_a_walk_finds_what_patterns_name_and_nothing_beneath_it(tmp_path: Path) -> None:
    file = (0o644, b"x")
    build(
        tmp_path,
        {
            ".env": file,
            "a": {".ENV.local": file, "env": file, "k.PEM": file, "keep": {"x": file, ".env": file}},
            "secrets": {"one": file, "two": {"three": file}},
            "a.pem.txt": file,
        },
    )
    found = find(tmp_path, AT, masks(AT, ".env*", "*.pem", "secrets/**", keep=("a/keep/**",)))
    assert found.hidden == {
        ".env": False,
        "a/.ENV.local": False,
        "a/k.PEM": False,
        "a/keep/.env": False,
        "secrets": True,
    }
    assert found.kept == ("a/keep",)
    assert found.entries == 10


def test_what_a_hidden_link_leads_to_is_hidden_but_nothing_above_or_outside(tmp_path: Path) -> None:
    top = tmp_path / "top"
    top.mkdir()
    build(top, {"real": (0o644, b"x"), "dir": {"f": (0o644, b"x")}, ".env": "real", ".env.d": "dir"})
    (tmp_path / "outside").write_text("x")
    (top / ".env.out").symlink_to("../outside")
    (top / "dir" / ".env.up").symlink_to("..")
    (top / ".env.gone").symlink_to("nowhere")
    found = find(top, AT, masks(AT, ".env*"))
    assert found.hidden == {
        ".env": False, ".env.d": False, ".env.gone": False, ".env.out": False, "dir": True, "real": False
    }  # fmt: skip


def test_every_name_of_a_hidden_file_is_found(tmp_path: Path) -> None:
    build(tmp_path, {"a": {".env": (0o644, b"x")}})
    (tmp_path / "plain").hardlink_to(tmp_path / "a" / ".env")
    assert find(tmp_path, AT, masks(AT, ".env")).hidden == {"a/.env": False, "plain": False}


def test_what_lies_too_deep_to_be_looked_through_is_hidden_as_a_whole(tmp_path: Path) -> None:
    deep = "/".join("d" * (MAX_DEPTH + 2))
    top = os.open(tmp_path, os.O_RDONLY)
    try:
        for count in range(1, len(deep) + 1, 2):
            os.mkdir(deep[:count], dir_fd=top)
        found = find(tmp_path, AT, masks(AT, ".env"))
    finally:
        os.close(top)
    assert (list(found.hidden.values()), len(found.unread)) == ([True], 1)


def test_masks_are_the_same_after_they_were_written_down() -> None:
    made = masks(AT, ".env*", "//r/x/**", keep=("src/*.c",), logins=True)
    again = Masks.from_json(made.to_json())
    assert again == made
    assert [again.hides(path) for path in ("/r/a/.Env", "/r/x", "/r/x/y", "/r/y", "/q/.env")] == [
        True, True, True, False, False
    ]  # fmt: skip


LOGINS = b"""[remote "origin"]
\turl = https://user:secret1@example.org/a.git
\tpushurl = "https://secret2@example.org/b=c.git"
\tother = ssh://git:secret3@example.org/a
\tplain = ssh://git@example.org/a
\tsplit = https://us\\
er:secret4@example.org/x
[url "https://u:secret5@example.org/"]
\tinsteadOf = gh:
[http "https://example.org"]
\textraHeader = AUTHORIZATION: basic secret6\\
 secret7
[credential]
\thelper = "!f() { echo password=secret8; }; f"
\tusername = ada
[sendemail] smtpPass = secret9
# https://u:secret10@example.org
[core]
\tbare = false
"""


def test_logins_leave_a_git_configuration_and_all_else_stays() -> None:
    clean = without_logins(LOGINS)
    assert b"secret" not in clean
    assert clean.decode() == (
        '[remote "origin"]\n\turl = https://example.org/a.git\n\tpushurl = "https://example.org/b=c.git"\n'
        "\tother = ssh://git@example.org/a\n\tplain = ssh://git@example.org/a\n\tsplit = https://example.org/x\n"
        '[url "https://example.org/"]\n\tinsteadOf = gh:\n[http "https://example.org"]\n[credential]\n'
        "\tusername = ada\n[sendemail]\n# https://example.org\n[core]\n\tbare = false\n"
    )
    assert without_logins(clean) == clean


def test_git_reads_a_cleaned_configuration_as_before_but_for_the_logins(tmp_path: Path) -> None:
    (tmp_path / "config").write_bytes(without_logins(LOGINS))
    listed = subprocess.run(
        ["git", "config", "--file", "config", "--list"], cwd=tmp_path, check=True, capture_output=True, text=True
    ).stdout
    assert listed.splitlines() == [
        "remote.origin.url=https://example.org/a.git",
        "remote.origin.pushurl=https://example.org/b=c.git",
        "remote.origin.other=ssh://git@example.org/a",
        "remote.origin.plain=ssh://git@example.org/a",
        "remote.origin.split=https://example.org/x",
        "url.https://example.org/.insteadof=gh:",
        "credential.username=ada",
        "core.bare=false",
    ]


@given(st.binary(max_size=300))
def test_cleaning_takes_any_bytes_and_is_done_once(data: bytes) -> None:
    clean = without_logins(data)
    assert without_logins(clean) == clean


@given(
    st.text("abcXYZ09%._~-+=:!$&()*,;'\"", min_size=1, max_size=20),
    st.sampled_from(["https", "HTTP", "ftp"]),
    st.sampled_from(["", '"']),
)
def test_no_user_of_an_address_stays(user: str, scheme: str, quote: str) -> None:
    line = f"[a]\n\turl = {quote}{scheme}://{user}@host/path{quote}\n".encode()
    assert f"{user}@".encode() not in without_logins(line)


class _Ground:
    """Layers that lie nowhere."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def path(self, layer: Layer) -> Path:
        return self.directory / layer.name

    def top(self, layer: Layer) -> Path:
        return self.directory / layer.name / "upper"

    def trees(self, layer: Layer) -> tuple[Path, ...]:
        return ()

    def dress(self, source: Path, target: Path) -> None:
        pass


def _removed(path: Path) -> None:
    raise AssertionError(path)


def test_what_was_masked_stays_known_to_whoever_asks_without_the_settings(tmp_path: Path) -> None:
    host, layers = tmp_path / "host", tmp_path / "layers"
    host.mkdir()
    build(host, {".env": (0o644, b"x"), "real": (0o644, b"x"), ".env.l": "real"})
    (layers / "r" / "upper").mkdir(parents=True)
    layer = Layer(name="r", at=AT, host=host, rung=Rung.OVERLAY)
    Covers(_Ground(layers), _removed).cover([layer], masks(AT, ".env*"), lambda _: ())
    later = Covers(_Ground(layers), _removed)
    assert [later.names(layer, path) for path in (".env", "sub/.env", "real", "other")] == [True, True, True, False]
    assert (layers / "r" / "mask" / ".env").stat().st_mode & 0o777 == 0
    assert later.skipping(Layer(name="home", at=PurePosixPath("/home/box"), host=None, rung=Rung.OVERLAY)) is None


def test_masks_of_version_1_are_read(tmp_path: Path) -> None:
    golden = Path(__file__).parent / "golden" / "masks-1.json"
    (tmp_path / "masks.json").write_bytes(golden.read_bytes())
    covers = Covers(_Ground(tmp_path), _removed)
    layer = Layer(name="repo", at=PurePosixPath("/workspace/repo"), host=tmp_path, rung=Rung.COPY)
    named = {path: covers.names(layer, path) for path in (".env", "keys/a", ".git/config", "was/planted", "src/x")}
    assert named == {".env": True, "keys/a": True, ".git/config": True, "was/planted": True, "src/x": False}
    assert covers.masks.keeps("/workspace/repo/src/x")


@pytest.mark.parametrize("text", ["", "[]", '{"version": 2}', '{"version": 1, "masks": {}, "layers": {}}'])
def test_damaged_or_newer_masks_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "masks.json").write_text(text)
    with pytest.raises(StoreError):
        Covers(_Ground(tmp_path), _removed)


def test_a_copy_that_is_sent_elsewhere_has_placeholders_and_none_of_what_is_hidden(tmp_path: Path) -> None:
    file = (0o644, b"secret\n")
    top = tmp_path / "top"
    top.mkdir()
    build(top, {".env": file, "keys": {"a": file, "b": {"c": file}}, "seen": (0o644, b"seen\n")})
    build(top, {".git": {"config": (0o640, b"[remote]\n\turl = https://u:secret@h/\n"), "HEAD": (0o644, b"")}})
    (tmp_path / "layers").mkdir()
    layer = Layer(name="r", at=AT, host=top, rung=Rung.COPY, remote=True)
    covers = Covers(_Ground(tmp_path / "layers"), _removed)
    (tmp_path / "layers" / "r").mkdir()
    covers.cover([layer], masks(AT, ".env", "keys/**", logins=True), lambda _: ())
    failures: list[str] = []
    data = b"".join(tar_pieces("r", top, failures, owner=None, skip=None, masked=covers.contents(layer)))
    assert failures == []
    assert b"secret" not in data
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        found = {each.name: (each.isdir(), each.mode, each.size) for each in tar}
        config = tar.extractfile("layer/r/.git/config")
        assert config is not None
        assert config.read() == b"[remote]\n\turl = https://h/\n"
    assert {name: found[name] for name in ("layer/r/.env", "layer/r/keys", "layer/r/seen")} == {
        "layer/r/.env": (False, 0, 0),
        "layer/r/keys": (True, 0o555, 0),
        "layer/r/seen": (False, 0o644, 5),
    }
    assert "layer/r/keys/a" not in found
    assert [covers.names(layer, path) for path in (".env", "keys/b/c", ".git/config", "seen")] == [
        True, True, True, False
    ]  # fmt: skip
    (tmp_path / "layers" / "r" / "filled").touch()
    with pytest.raises(WorkspaceError, match="another machine"):
        covers.cover([layer], masks(AT, "seen"), lambda _: ())
