from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from runner.ui.diff import DiffPainter, wants_colour

DIFF = """\
diff --git a/x.sql b/x.sql
index 1..2 100644
--- a/x.sql
+++ b/x.sql
@@ -1,3 +1,3 @@ head
 select
--- an old comment
+++ a new one
 end
@@ -9 +9 @@
-a
\\ No newline at end of file
+b
diff --git a/y b/y
"""
RESET = "\x1b[0m"


def paint(text: str, *, colour: bool = True, step: int = 1000) -> str:
    painter = DiffPainter(colour=colour)
    return "".join(painter.feed(text[i : i + step]) for i in range(0, len(text), step)) + painter.close()


def test_lines_are_coloured_by_what_they_are_in_the_hunk() -> None:
    lines = paint(DIFF).splitlines()
    colours = [line[: line.index("m") + 1] if line.startswith("\x1b") else "" for line in lines]
    bold, cyan, green, red, dim = "\x1b[1m", "\x1b[36m", "\x1b[32m", "\x1b[31m", "\x1b[2m"
    assert colours == [bold, bold, bold, bold, cyan, "", red, green, "", cyan, red, dim, green, bold]


def test_what_would_act_on_the_terminal_is_shown() -> None:
    assert paint("@@ -0,0 +1 @@\n+\x1b]52;c;aGk=\x07 \u202e\r\n", colour=False) == (
        "@@ -0,0 +1 @@\n+␛]52;c;aGk=␇ \\u202e␍\n"
    )


@given(st.text("+-@ \\\n\x1b1,a", max_size=80), st.integers(1, 7))
def test_pieces_of_any_size_give_the_same(text: str, step: int) -> None:
    assert paint(text, step=step) == paint(text)
    assert "\x1b" not in paint(text, colour=False)


def test_colours_follow_the_terminal() -> None:
    assert wants_colour({"TERM": "xterm"}, terminal=True)
    assert not wants_colour({"TERM": "xterm"}, terminal=False)
    assert not wants_colour({"TERM": "xterm", "NO_COLOR": "1"}, terminal=True)
    assert not wants_colour({"TERM": "dumb"}, terminal=True)
