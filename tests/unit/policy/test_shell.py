"""Every command is found, wherever it stands, or the whole is doubted; bash itself is the oracle."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runner.policy.loose import fragments, words
from runner.policy.reach import reach_of
from runner.policy.runs import readings, shown
from runner.policy.shell import LONGEST, parse
from runner.policy.words import Script


def found(command: str) -> list[str]:
    return [simple.text for simple in parse(command).simples]


@pytest.mark.parametrize(
    ("command", "commands"),
    [
        ("a; b && c || d | e |& f & g\nh", ["a", "b", "c", "d", "e", "f", "g", "h"]),
        ('a "$(b `c` <(d) >(e))"', ['a "$(b `c` <(d) >(e))"', "b `c` <(d) >(e)", "c", "d", "e"]),
        ("echo ${x:-$(b)}", ["echo ${x:-$(b)}", "b"]),
        ("x=$(b) y=`c`", ["b", "c"]),
        ("x=1 a", ["a"]),
        ("cat <<E\n$(b)\nE\nc", ["cat", "b", "c"]),
        ("cat <<< $(b)", ["cat", "b"]),
        ("a > $(b) 2>&1 < `c`", ["a", "b", "c"]),
        ("if a; then b; elif c; then d; else e; fi", list("abcde")),
        ("while a; do b; done; until c; do d; done", list("abcd")),
        ("for i in $(a); do b; done; select i in x; do c; done", ["a", "b", "c"]),
        ("case $(a) in x) b;; *) c;; esac", list("abc")),
        ("f() { a; }; function g { b; }", ["a", "b"]),
        ("(a; (b)); { c; }; ! d", list("abcd")),
        ("[[ -n $(a) ]] && [ -f b ]", ["a"]),
        ("export x=$(a)", ["a"]),
        ("x=(1 $(a))", ["a"]),
        ("a # b\nc", ["a", "c"]),
        ("a \\\n  b", ["a b"]),
        ("$'\\x61' \"b\" 'c'", ["$'\\x61' \"b\" 'c'"]),
    ],
)
def test_every_command_is_found_wherever_it_stands(command: str, commands: list[str]) -> None:
    assert sorted(found(command)) == sorted(commands)


@pytest.mark.parametrize(
    "command",
    [
        "a &&& b",
        "a 'b",
        'a "b',
        "a $(b",
        "a |",
        "r\\\nm x",
        "`a \\`b\\``",
        "echo ${x:+`c`}",
        "echo $((x))",
        "echo ${x@P}",
        "echo ${!x}",
        "echo ${x:=y}",
        "echo ${a[$(b)]}",
        "(( x = 1 ))",
        "[[ -v a ]]",
        "[[ $a -eq b ]]",
        "for ((;;)); do a; done",
        "PATH=/tmp; a",
        "export LD_PRELOAD=x",
        "declare -n a=b",
        "unset PATH",
        "time ( a )",
        "!{a",
        "[[a ]]",
        "a -<<b\nc\nb",
        "a 0<<<b",
        "a >b c",
        "a\rb",
        "a\u00a0b",
        "a\u2028b",
        "a \x01",
        "a {b}>c",
        'a $"b"',
        "a" * (LONGEST + 1),
        "(" * 500 + "a" + ")" * 500,
        "\udc80",
    ],
)
def test_what_bash_may_read_differently_is_doubted(command: str) -> None:
    assert parse(command).opaque


@pytest.mark.parametrize(
    "command",
    [
        "$a b",
        "$(a) b",
        "a* b",
        "{a,b} c",
        "~/a b",
        '"$a" b',
        "a`b` c",
        '"" b',
        "eval a",
        "sh -c a",
        "bash",
        "sh < a",
        ". a",
        "exec a",
        "env a",
        "sudo a",
        "xargs -n1 a",
        "find . -exec a {} +",
        "find . -delete",
        "find $a",
        "watch a",
        "python -c a",
        "python - x",
        "perl -pe a x",
        "node -e a",
        "awk 'BEGIN{system(\"a\")}'",
        "command -v a",
        "alias a=b",
        "time -o a b",
        "trap a EXIT",
        "set -- a",
        "bash $a",
        "busybox a",
        "nice -x a",
        "timeout $a b",
        "setsid a",
        "read a",
        "coproc { a; }",
    ],
)
def test_a_command_whose_words_do_not_tell_what_runs_is_opaque(command: str) -> None:
    script = parse(command)
    assert script.opaque or any(shown(simple).opaque for simple in script.simples)


@pytest.mark.parametrize(
    ("command", "inner"),
    [
        ("timeout 5 make x", "make x"),
        ("timeout -k 3 --signal=KILL 2m make x", "make x"),
        ("time -p nice -n 5 nohup make x", "make x"),
        ("stdbuf -oL command make x", "make x"),
        ("xargs make x", "make x"),
        ("make timeout 5", "make timeout 5"),
        ("python -m pytest", "python -m pytest"),
        ("bash build.sh x", "bash build.sh x"),
        ("set -euo pipefail", "set -euo pipefail"),
    ],
)
def test_wrappers_that_change_nothing_are_taken_off(command: str, inner: str) -> None:
    (simple,) = map(shown, parse(command).simples)
    assert (simple.text, simple.opaque) == (inner, "")


@pytest.mark.parametrize(
    "command",
    [
        "rm x",
        "a; rm x",
        "sudo -u a env B=c rm x",
        "bash -c 'a; rm x'",
        "sh -c \"sh -c 'rm x'\"",
        "eval rm x",
        "echo `rm x`",
        "find . -exec rm x {} +",
        "ls | xargs -n 1 rm x",
        "docker exec -it c rm x",
        "npx rm x",
        "/bin/rm x",
        "\\rm x",
        "'rm' x",
        "r''m x",
        "{rm,x}",
        "rm${IFS}x",
        "$'rm' x",
        "ssh h 'rm x'",
        "watch 'rm x'",
        "su -c 'rm x'",
        "trap 'rm x' EXIT",
        "alias l='rm x'",
        "f() { rm x; }",
        "cat <<E\n$(rm x)\nE",
        "sh <<E\nrm x\nE",
        "echo 'rm x' | sh",
        "nsenter -t 1 rm x",
        "timeout -s 9 5 rm x",
        "flock /l -c 'rm x'",
        "parallel rm x ::: a",
        "if a; then rm x",
        "a || { rm x",
        "coproc rm x",
        "case a in a) rm x;; esac",
        "python -c \"import os; os.system('rm x')\"",
        "time rm x",
        "x=1 rm x",
        ">f rm x",
        "true &&& rm x",
        "nice -n 3 rm x",
        "git bisect run rm x",
        "bash <<< 'rm x'",
        "exec rm x",
    ],
)
def test_deny_rules_see_a_command_in_every_wrapping(command: str) -> None:
    assert any(text == "rm x" or text.startswith("rm x ") for text in reach_of(command, "/", "/h").texts)


PIECES = st.sampled_from(
    [
        "q",
        "r 0",
        'q "a b"',
        "q 'x'",
        "r $x",
        "q $(r)",
        "q `r`",
        "{ q; }",
        "( r )",
        "if q; then r; fi",
        "q <(r)",
        "x=1 q",
        "for q in 1 0; do r; done",
        "case 1 in 1) q;; esac",
        "q <<r\n0\nr\n",
        "q > r",
        "f() { q; }; f",
        "[[ q ]]",
        'q "$(r)"',
        "q ${x:-$(r)}",
        "q \\\n r",
        "# q\n",
        "q <<<r",
        "! q",
        "q'r'",
        "q\\ r",
        'q "\\"" r',
        "q <<'r'\n$(q)\nr\n",
        "q 2>&1",
    ]
)
JOINTS = st.sampled_from([";", "\n", " && ", " | ", " ", "", " || ", "|&", "\\\n"])
ODD = st.text(alphabet="qr01 \n;&|(){}<>$`'\"\\#=!~*[],-\t?+@%:^é", max_size=6)
LINES = st.lists(st.tuples(st.one_of(PIECES, PIECES, ODD), JOINTS), min_size=1, max_size=5).map(
    lambda parts: "".join(piece + joint for piece, joint in parts)
)
# Everything that bash cannot find is written down, argument by argument; in the alphabet above nothing can be found.
HANDLER = 'command_not_found_handle() { printf "%s\\0" "$@" END >>"$OUT"; }\neval "$1"\nwait'


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash to compare with")
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(command=LINES)
def test_what_bash_runs_was_found_or_the_whole_is_doubted(command: str, tmp_path: Path) -> None:
    script = parse(command)
    if script.opaque or any(simple.opaque for simple in script.simples):
        return
    log, place = tmp_path / "log", tmp_path / "place"
    log.write_bytes(b"")
    place.mkdir(exist_ok=True)
    subprocess.run(
        ["/bin/bash", "--norc", "--noprofile", "-c", HANDLER, "bash", command],
        cwd=place,
        env={"PATH": "/nonexistent", "HOME": str(place), "OUT": str(log), "LC_ALL": "C.UTF-8"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=20,
        check=False,
    )
    for ran in log.read_text("utf-8", errors="surrogateescape").split("END\0")[:-1]:
        assert _was_found(tuple(ran.split("\0")[:-1]), script), (command, ran)


def _was_found(argv: tuple[str, ...], script: Script) -> bool:
    for simple in script.simples:
        if simple.words and argv and simple.words[0].value == argv[0]:
            known = all(w.value is not None and not w.glob and not w.source.startswith("~") for w in simple.words)
            if not known or tuple(word.value for word in simple.words) == argv:
                return True
    return False


@given(st.one_of(LINES, st.text(max_size=60), st.text(alphabet="$(){}`'\"<>\\\n;ab", max_size=60)))
def test_no_reading_ever_raises(command: str) -> None:
    parse(command)
    readings(command)
    words(command)
    fragments(command)
    assert " ".join(command.split()) in reach_of(command, "/a", "/h").texts


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "command",
    [
        "true; " * 10_000,
        "a && " * 10_000 + "a",
        "a;" * 4_999,
        "$(" * 4_999,
        "( " * 4_000,
        "a'b" * 3_000,
        '"$(' * 3_000,
        "if a; then " * 800,
        "<<a\n" * 2_000,
        "x" * 1_000_000,
        "rm " * 300_000,
        "'" * 1_000_000,
        "a=b " * 2_400,
        "${a:-" * 1_900,
        "sh -c 'sh -c \"" * 600,
        "sudo " * 1_900 + "x",
    ],
    ids=lambda command: f"{command[:12]!r}x{len(command)}",
)
def test_a_command_of_any_length_is_read_in_time(command: str) -> None:
    assert parse(command) is not None
    assert reach_of(command, "/a", "/h").texts


@pytest.mark.parametrize("command", ["[];", "[a];", "[a ]", "[ a]", "[-f x ]", "a; []; b"])
def test_brackets_without_blanks_beside_them_are_another_command(command: str) -> None:
    assert parse(command).opaque
    assert not parse("[ -f x ] && [ ! -d y ]").opaque


@pytest.mark.parametrize(
    "command", ["{\U00031860", "a v{\U0009d4c7 b", "{1..\U0001f389}", 'echo \'{"a": "\U0001f389"}\'', "{12\u4e2d"]
)
def test_a_letter_that_ends_the_grammars_scanner_never_reaches_it(command: str) -> None:
    script = parse(command)
    assert "behind a brace" in script.opaque
    assert " ".join(command.split()) in reach_of(command, "/a", "/h").texts


def test_letters_of_every_script_are_read_where_no_brace_stands_before_them() -> None:
    assert parse("git commit -m '\U0001f389 \u4e2d {x}'").opaque == ""
    assert parse("echo {\u00e9,x}").opaque == ""


@pytest.mark.parametrize(
    "command", ["(:~)`$b(a;~=#${=})$!<", "x=<<E\n]?[[ ,=", "${=}", "a <<E\n${=}\nE\n", "rm y; ${=}"]
)
def test_a_tree_that_the_grammar_repaired_is_doubted_and_loses_nothing(command: str) -> None:
    assert parse(command).opaque
    assert " ".join(command.split()) in reach_of(command, "/a", "/h").texts
