"""Rows of the kind of shell_permissions.jsonl, decided by hand from the reference before ours was asked."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.policy.test_cases import EXPECTED, decide

TESTS = ["Bash(npm run test:*)"]
HOME_RULE = ["Read(~/.ssh/**)"]


def rows() -> list[Any]:
    found: list[dict[str, Any]] = []

    def add(expected: str, *inputs: str, mode: str = "default", tool: str = "Bash", **rules: list[str]) -> None:
        found.extend(
            {"expected": expected, "input": text, "mode": mode, "tool": tool, "allow": [], "ask": [], "deny": []}
            | rules
            for text in inputs
        )

    add("allow", "cat 'a b.txt'", "ls -la src | head -5", "find . -name '*.py' -type f", "echo \"a;b\" 'c|d'")
    add("allow", "cat a | sort | uniq -c | sort -rn | head", "sed -n '/^a/,/b$/p' f", "timeout 5 ls -R")
    add("not_allow", "find . -exec rm {} \\;", "uniq in out", "sort *.txt", "ls\nrm x", "ls |& rm x", "ls & rm x")
    add("not_allow", "diff <(rm a) b", "FOO=1 ls", "cat < a > b", "ls &> all", "alias ls=rm; ls", "rg --pre ./x foo")
    add("not_allow", "find . -name x -delete", allow=["Bash(find *)"])
    add("allow", "find . -name x -delete", allow=["Bash(find . -name x -delete)"])
    add("allow", "npm run test -- --watch", "npm run test; ls", "npm run test 2>&1 | grep -c fail", allow=TESTS)
    add("allow", "NODE_ENV=test npm run test", "timeout 60 npm run test > /dev/null", allow=TESTS)
    add("not_allow", "npm run tests", "npm run test | tee out", "npm run test > out.txt", allow=TESTS)
    add("not_allow", "NODE_OPTIONS=--require=./x npm run test", "npx npm run test", "flock f npm run test", allow=TESTS)
    add("not_allow", "npm run test <(rm x)", "(npm run test; rm x)", "bash -c 'npm run test; rm x'", allow=TESTS)
    add("allow", "git push origin main", allow=["Bash(git * main)"])
    add("not_allow", "git checkout main; rm x", allow=["Bash(git * main)"])
    add("ask", "ls; git push", allow=["Bash(git:*)"], ask=["Bash(git push:*)"])
    add("deny", "x=$(rm y)", "[[ $(rm x) ]]", "trap 'rm x' EXIT", mode="bypassPermissions", deny=["Bash(rm:*)"])
    add("deny", "$'\\x72m' x", "busybox rm x", "coproc rm x", mode="bypassPermissions", deny=["Bash(rm:*)"])
    add("not_deny", "echo 'rm x'", "cat <<'EOF'\nrm x\nEOF", mode="bypassPermissions", deny=["Bash(rm:*)"])
    add("ask", "rm -rf $HOME", 'rm -rf "${HOME}"', "rm -rf ${HOME:?}", "cd $HOME && rm -rf *", mode="bypassPermissions")
    add("ask", "rm -rf $PWD", "rm -rf $(pwd)", "d=/; cd $d && rm -rf *", "rm -rf ../proj", mode="bypassPermissions")
    add("allow", "rm -rf $HOME/.cache", "rm -rf $PWD/build", "rm -rf /tmp/x/*", mode="bypassPermissions")
    add("deny", "rm -rf $HOME", mode="dontAsk", allow=["Bash(rm:*)"])
    add("deny", "cat $HOME/.ssh/id", "cat ${HOME%/}/.ssh/id", "cd $HOME; cat .ssh/id", mode="auto", deny=HOME_RULE)
    add("deny", "d=~/.ssh; cd $d; cat id", 'cp a "$HOME/.ssh/keys"', mode="bypassPermissions", deny=HOME_RULE)
    add("allow", "cat a > b 2>/dev/null", "LANG=C mv a b", "ls | sort > sorted", mode="acceptEdits")
    add("not_allow", "mv a ../b", "ln -s a b", "cd /etc && touch x", "echo > $HOME/.bashrc", mode="acceptEdits")
    add("allow", "npm test", mode="plan", allow=["Bash(npm test:*)"])
    add("not_allow", "touch x", "cat a > b", "sed -i s/a/b/ f", mode="plan")
    add("not_allow", "python x.py", mode="auto", allow=["Bash(python *)"])
    add("deny", "npm test", mode="dontAsk", ask=["Bash(npm test:*)"], allow=["Bash"])
    add("deny", "cat .e*", 'cat "$PWD/.env"', "tar cf - .env", mode="bypassPermissions", deny=["Read(.env)"])
    add("deny", "/proj/a/.env", tool="Edit", deny=["Read(.env)"])
    add("not_allow", "/proj/lib/src/a", "/proj/src/.envrc", tool="Edit", allow=["Edit(src/**)"])
    add("deny", "/proj/lib/src/a", tool="Edit", deny=["Edit(src/**)"])
    add("allow", "/proj/etc/hosts", tool="Edit", allow=["Edit(/etc/hosts)"])
    add("not_allow", "/etc/hosts", tool="Edit", allow=["Edit(/etc/hosts)"])
    add("not_allow", "https://a.example/", tool="WebFetch", allow=["WebFetch(domain:*.a.example)"])
    add("deny", "https://x.a.example./", tool="WebFetch", deny=["WebFetch(domain:*.A.example)"])
    add("not_allow", "https://good@evil.example/", tool="WebFetch", allow=["WebFetch(domain:good)"])
    return [pytest.param(row, id=f"{row['mode']}-{row['input']}") for row in found]


@pytest.mark.parametrize("row", rows())
def test_a_row_is_decided_as_the_reference_has_it(row: dict[str, Any]) -> None:
    verdict = decide(row | {"cwd": "/proj", "home": "/home/u"})
    assert verdict.decision in EXPECTED[row["expected"]], verdict
