"""Which session, checkpoints and paths a diff's words mean."""

from __future__ import annotations

from pathlib import Path

import pytest

from runner.cli.selecting import in_box, split_points
from runner.errors import SessionNotFoundError
from runner.sessions.store import Store
from runner.spec import RootRef, SessionSpec

SESSION = "4f2a91c0-1111-4222-8333-444455556666"
ONE, TWO = "0123456789ab", "ba9876543210"


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One session in the store, and a directory of files that look like ids."""
    roots = (RootRef(host="/x", at="/x", name="x"),)
    Store(tmp_path / "state").save(SessionSpec(session=SESSION, cwd="/x", roots=roots, model="scripted:/x"))
    (tmp_path / "here").mkdir()
    for name in ("beef", ONE, "4f2a91c0", "plain"):
        (tmp_path / "here" / name).touch()
    monkeypatch.setenv("FUMEHOOD_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path / "here")


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ([], (None, (), ())),
        (["plain", "beef"], (None, (), ("plain", "beef"))),
        (["4f2a91c0"], (SESSION, (), ())),
        ([SESSION, "plain"], (SESSION, (), ("plain",))),
        (["dead"], (None, ("dead",), ())),
        (["beef"], (None, (), ("beef",))),
        (["./beef"], (None, (), ("./beef",))),
        ([ONE], (None, (ONE,), ())),
        ([ONE.upper(), TWO, "plain"], (None, (ONE, TWO), ("plain",))),
        ([ONE, TWO, ONE], (None, (ONE, TWO), (ONE,))),
        (["4f2a", ONE, "plain"], (SESSION, (ONE,), ("plain",))),
        ([ONE, "4f2a", TWO], (SESSION, (ONE, TWO), ())),
        ([ONE, "plain", TWO], (None, (ONE,), ("plain", TWO))),
    ],
)
def test_words_of_a_diff_are_session_checkpoints_and_paths(
    words: list[str], found: tuple[str | None, tuple[str, ...], tuple[str, ...]]
) -> None:
    assert split_points(words, None) == found


def test_with_a_session_named_no_word_is_another(tmp_path: Path) -> None:
    assert split_points(["4f2a", TWO], "other") == ("other", ("4f2a", TWO), ())


def test_a_word_that_can_only_be_a_session_and_is_none_is_told() -> None:
    with pytest.raises(SessionNotFoundError):
        split_points(["4f2a91c0-9999"], None)


def test_a_tilde_is_the_boxes_home(tmp_path: Path) -> None:
    here = str(tmp_path / "here")
    assert in_box(("~", "~/x", "a", "/tmp/b")) == ("/home/box", "/home/box/x", f"{here}/a", "/tmp/b")
