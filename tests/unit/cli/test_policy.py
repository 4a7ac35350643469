"""`fumehood policy` and `fumehood trust` as a user types them. No engine is needed."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from runner.cli.entry import run_command_line
from runner.effects import ConnectHost, Decision, Mode, Place, RunCommand, Source, Verdict, WritePath, effect_to_json
from runner.events import Judged, ModeChanged, SessionStarted
from runner.journal import Journal
from runner.policy.explain import past_calls
from runner.policy.signing import new_key
from runner.policy.trust import Grants
from runner.sessions.specs import new_spec
from runner.sessions.store import Store
from tests.support.policies import NOW, put


class Terminal:
    """A project directory, and `fumehood` in it."""

    def __init__(self, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.place, self.home, self.state = root / "proj", root / "home", root / "state"
        for directory in (self.place, self.home, self.state):
            directory.mkdir()
        self._capsys = capsys

    def run(self, *arguments: str, code: int = 0) -> str:
        self._capsys.readouterr()
        assert run_command_line(arguments) == code, self._capsys.readouterr()
        said = self._capsys.readouterr()
        self.err = said.err
        return said.out

    def user(self, value: Any) -> Path:
        return put(self.home / ".config/fumehood/settings.yaml", value)

    def session(self) -> str:
        """A session whose journal holds three judged calls."""
        environ = {"HOME": str(self.home), "FUMEHOOD_HOME": str(self.state)}
        spec = new_spec(self.place, environ=environ, model="opus")
        store = Store(self.state)
        store.prepare()
        directory = store.directory(spec.session)
        directory.mkdir(mode=0o700)
        journal = Journal.create(directory, session=spec.session)
        journal.append(SessionStarted(spec=spec.to_json(), version="0"))
        at = Path(spec.roots[0].at)
        cwd = PurePosixPath(at)
        for call, tool, effect in (
            ("c1", "Bash", RunCommand(command="make test", cwd=cwd)),
            ("c2", "Bash", RunCommand(command="git push", cwd=cwd)),
        ):
            self._judged(
                journal, call, tool, effect, Verdict(decision=Decision.ALLOW, source=Source.MODE, reason="mode")
            )
        helper = Verdict(decision=Decision.ALLOW, source=Source.FUMEHOOD, reason="helper")
        self._judged(journal, "fumehood-1", "git-state", RunCommand(command="git status", cwd=cwd), helper)
        locked = Verdict(decision=Decision.DENY, source=Source.MANAGED, reason="disableShell")
        self._judged(journal, "user-1", "shell", RunCommand(command="/bin/sh", cwd=cwd), locked)
        journal.append(ModeChanged(mode="default", source="client"))
        path = cwd / "x"
        asked = Verdict(decision=Decision.ASK, source=Source.MODE, reason="mode default: no rule allows it")
        self._judged(journal, "c3", "Edit", WritePath(path=path, link=path, target=path), asked)
        journal.close()
        store.save(spec)
        return spec.session

    def _judged(self, journal: Journal, call: str, tool: str, effect: Any, verdict: Verdict) -> None:
        journal.append(
            Judged(call=call, tool=tool, digest="", effects=[effect_to_json(effect)], verdict=verdict.to_json())
        )


@pytest.fixture
def terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Terminal:
    made = Terminal(tmp_path, capsys)
    for name in ("XDG_CONFIG_HOME", "CLAUDE_CONFIG_DIR", "ANTHROPIC_MODEL"):
        monkeypatch.delenv(name, raising=False)
    for name, value in (("HOME", made.home), ("FUMEHOOD_HOME", made.state), ("FUMEHOOD_MODEL", "opus")):
        monkeypatch.setenv(name, str(value))
    monkeypatch.chdir(made.place)
    return made


def test_show_names_the_source_of_every_value_and_what_does_not_count(terminal: Terminal) -> None:
    terminal.user("image: debian\npermissions:\n  deny:\n    - Bash(git push *)\n    - WebSearch\n")
    put(terminal.place / ".claude/settings.json", {"permissions": {"allow": ["WebFetch"]}, "theme": "dark"})
    put(terminal.place / "fumehood.yaml", {"disableShell": True})
    said = terminal.run("policy", "show")
    assert "image          debian  (user, ~/.config/fumehood/settings.yaml:1)" in said
    deny = "deny           Bash(git push *)  (user, ~/.config/fumehood/settings.yaml:4, advisory for the shell)"
    assert deny in said
    assert "deny           WebSearch  (user, ~/.config/fumehood/settings.yaml:5, boundary)" in said
    assert "not counted    .claude/settings.json:1: permissions.allow 'WebFetch'" in said
    assert "not counted    fumehood.yaml:1: disableShell true does not count" in said
    shown = json.loads(terminal.run("policy", "show", "--json"))
    assert shown["settings"]["image"]["from"] == [
        {"value": "debian", "source": "user", "file": "~/.config/fumehood/settings.yaml", "line": 1}
    ]
    assert shown["idle"] == [{"file": ".claude/settings.json", "key": "theme", "line": 1}]


def test_explain_says_which_rule_decides_and_what_would_change_it(terminal: Terminal) -> None:
    terminal.user("permissions:\n  deny:\n    - Bash(git push *)\n  ask:\n    - Bash(git *)\n")
    said = terminal.run("policy", "explain", "Bash(make && git push)").splitlines()
    file = "~/.config/fumehood/settings.yaml"
    assert said[0] == "decision  deny (mode bypassPermissions)"
    assert f"in {file}:3 (user)" in said[1]
    assert said[2:4] == [
        f"decides   deny Bash(git push *)  (user, {file}:3)",
        f"matches   ask Bash(git *)  (user, {file}:5)",
    ]
    assert said[4].startswith(f"change    without Bash(git push *) in {file}:3: ask")
    said = terminal.run("policy", "explain", "--mode", "default", "Edit(x)").splitlines()
    assert terminal.run("policy", "explain", "--permission-mode", "default", "Edit(x)").splitlines() == said
    assert said[0] == "decision  ask (mode default)"
    assert any(line.startswith("change    in mode bypassPermissions: allow") for line in said)
    assert any(line.startswith("change    an allow rule such as Edit(/") for line in said)
    found = json.loads(terminal.run("policy", "explain", "--json", "Bash(git push)"))
    assert found["verdict"]["decision"] == "deny"
    assert [one["rule"] for one in found["matches"]] == ["Bash(git push *)", "Bash(git *)"]


def test_explain_knows_no_tool_that_is_none(terminal: Terminal) -> None:
    terminal.run("policy", "explain", "bash(git push)", code=2)
    assert "no tool is called 'bash'; did you mean 'Bash'?" in terminal.err
    terminal.run("policy", "explain", "Foo(x)", code=2)
    assert "no tool is called 'Foo': Agent, AskUserQuestion, Bash" in terminal.err
    said = terminal.run("policy", "explain", "AskUserQuestion").splitlines()
    assert said[1] == "because   mode bypassPermissions: only the user can answer it (mode)"
    assert terminal.run("policy", "explain", "--mode", "default", "Bash").splitlines()[1].endswith("it is empty (mode)")
    terminal.user("cases:\n  - {call: 'bash(rm x)', expect: allow}\n")
    terminal.run("policy", "show", code=6)
    assert "did you mean 'Bash'?" in terminal.err


def test_explain_takes_a_call_out_of_a_journal(terminal: Terminal) -> None:
    session = terminal.session()
    terminal.user("permissions: {deny: ['Bash(git push *)']}")
    said = terminal.run("policy", "explain", "--session", session, "--call", "2")
    assert said.splitlines()[:3] == [
        "call      Bash(git push)",
        "then      allow: mode (mode)",
        "decision  deny (mode bypassPermissions)",
    ]
    assert "Edit(" in terminal.run("policy", "explain", "-s", session[:8], "--call", "c3")
    assert "mode default" in terminal.run("policy", "explain", "-s", session[:8], "--call", "3")
    terminal.run("policy", "explain", "-s", session, "--call", "9", code=2)
    assert "it has 3" in terminal.err
    terminal.run("policy", "explain", code=2)


def test_check_says_line_and_column_and_what_was_meant(terminal: Terminal) -> None:
    put(terminal.place / "p.yaml", "permissions:\n  denny: [x]\nimage: 1\n")
    terminal.run("policy", "check", "p.yaml", code=6)
    assert "p.yaml:2:3: unknown key 'denny'; did you mean 'deny'?" in terminal.err
    assert "p.yaml:3:1: image" in terminal.err
    put(terminal.place / "p.yaml", "permissions:\n  deny: [Bash(x]\n")
    terminal.run("policy", "check", "p.yaml", code=6)
    assert "p.yaml:2" in terminal.err
    put(terminal.place / "p.yaml", "permissions: {deny: [Bash(x]}\nhidden: [../y]\nhooks: {ConfigChnge: []}\n")
    terminal.run("policy", "check", "p.yaml", code=6)
    assert [line.split(": ")[1] for line in terminal.err.splitlines()] == ["p.yaml:1:22", "p.yaml:2:10", "p.yaml:3:9"]
    assert "there is no hook event 'ConfigChnge'; did you mean 'ConfigChange'?" in terminal.err
    put(terminal.place / "c.json", {"permissions": {"deny": ["A"], "new": 1}, "theme": "dark"})
    said = terminal.run("policy", "check", "c.json")
    assert "permissions.new means nothing here; a managed file with it refuses to start" in said
    assert "theme means nothing here\n" in said
    terminal.run("policy", "check", "none.yaml", code=2)


def test_test_runs_the_examples_of_files_and_rules(terminal: Terminal) -> None:
    good = "permissions:\n  deny:\n    - {rule: Bash(rm *), match: [rm x], notMatch: [ls]}\n"
    good += "cases:\n  - {call: Bash(rm x), expect: deny}\n"
    put(terminal.place / "p.yaml", good)
    assert "1 example holds" in terminal.run("policy", "test", "p.yaml")
    put(terminal.place / "p.yaml", good.replace("expect: deny", "expect: allow").replace("[ls]", "[rm y]"))
    said = terminal.run("policy", "test", "p.yaml", code=1)
    assert "FAIL  allow     Bash(rm x)" in said
    assert "p.yaml:3: the rule Bash(rm *) is to be one that does not match 'rm y'" in said
    assert json.loads(terminal.run("policy", "test", "--json", "p.yaml", code=1))["ok"] is False


def test_dry_run_and_diff_tell_what_would_be_decided_otherwise(terminal: Terminal) -> None:
    terminal.session()
    put(terminal.place / "a.yaml", "{}")
    put(
        terminal.place / "b.yaml",
        "permissions: {deny: ['Bash(git push *)']}\ncases: [{call: Bash(git push x), expect: deny}]\n",
    )
    assert terminal.run("policy", "dry-run", "a.yaml") == "3 calls, 0 would be decided otherwise\n"
    found = json.loads(terminal.run("policy", "dry-run", "--json", "b.yaml"))
    assert (found["calls"], [(row["text"], row["then"], row["now"]) for row in found["changed"]]) == (
        3,
        [("Bash(git push)", "allow", "deny")],
    )
    said = terminal.run("policy", "diff", "a.yaml", "b.yaml", code=1)
    assert "2 decisions differ" in said
    assert "allow -> deny  Bash(git push)" in said
    assert terminal.run("policy", "diff", "b.yaml", "b.yaml") == "0 decisions differ\n"


def test_sign_and_verify_go_together(terminal: Terminal) -> None:
    put(terminal.place / "p.yaml", "permissions: {deny: [WebFetch]}")
    terminal.run("policy", "sign", "p.yaml", "--new-key", "k")
    assert (terminal.place / "k.key").stat().st_mode & 0o777 == 0o600
    assert "signed (" in terminal.run("policy", "verify", "p.yaml", "--key", "k.pub")
    put(terminal.place / "p.yaml", "permissions: {deny: []}")
    terminal.run("policy", "verify", "p.yaml", "--key", "k.pub", code=7)
    put(terminal.place / "other.pub", new_key().public.text())
    terminal.run("policy", "sign", "p.yaml", "--key", "k.key")
    terminal.run("policy", "verify", "p.yaml", "--key", "other.pub", code=7)
    terminal.run("policy", "sign", "--new-key", "k", code=2)
    put(terminal.place / "bad.yaml", "permisions: {}")
    terminal.run("policy", "sign", "bad.yaml", "--key", "k.key", code=6)


def test_init_begins_a_file_from_a_preset(terminal: Terminal) -> None:
    assert "enterprise-locked" in terminal.run("policy", "init")
    terminal.run("policy", "init", "ci", "-o", "p.yaml")
    terminal.run("policy", "test", "p.yaml")
    terminal.run("policy", "init", "ci", "-o", "p.yaml", code=2)
    terminal.run("policy", "init", "enterprise", code=2)
    assert "did you mean enterprise-locked?" in terminal.err
    assert json.loads(terminal.run("policy", "schema"))["title"] == "fumehood settings"


def test_approvals_are_listed_and_taken_back(terminal: Terminal) -> None:
    grants = Grants(terminal.state)
    one = grants.approve(terminal.place, "Bash(make test)", NOW, "s1")
    grants.approve(terminal.home, "Bash(make)", NOW, "s1")
    assert f"{one.id}  Bash(make test)  in {terminal.place}" in terminal.run("policy", "approvals")
    explained = terminal.run("policy", "explain", "--mode", "default", "Bash(make test)")
    assert "decision  allow" in explained
    assert "approvals.json" in explained
    assert "decision  ask" in terminal.run("policy", "explain", "--mode", "default", "Bash(make)")
    terminal.run("policy", "approvals", "--revoke", one.id)
    assert "decision  ask" in terminal.run("policy", "explain", "--mode", "default", "Bash(make test)")
    terminal.run("policy", "approvals", "--revoke", one.id, code=2)
    terminal.run("policy", "approvals", "--revoke-all")
    assert terminal.run("policy", "approvals") == "nothing is allowed for always\n"


@pytest.mark.parametrize(("key", "trusted"), [("y\n", True), ("n\n", False), ("\n", False), ("", False)])
def test_trust_shows_what_would_count_and_asks(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch, key: str, trusted: bool
) -> None:
    put(
        terminal.place / ".claude/settings.json",
        {"permissions": {"allow": ["WebFetch(domain:a.example)"]}, "env": {"X": "y"}},
    )
    monkeypatch.setattr(sys, "stdin", io.StringIO(key))
    said = terminal.run("trust", code=0 if trusted else 1)
    assert "permissions.allow: WebFetch(domain:a.example)  (.claude/settings.json:1)" in said
    assert "env" not in said
    assert (str(terminal.place) in terminal.run("trust", "--list")) is trusted
    if trusted:
        assert "allow WebFetch(domain:a.example)" in terminal.run("policy", "explain", "WebFetch(domain:a.example)")
        terminal.run("trust", "--revoke")
        assert terminal.run("trust", "--list") == "nothing is trusted\n"


def test_flags_of_a_run_that_cannot_be_are_refused(terminal: Terminal) -> None:
    terminal.run("--permission-prompt-tool", "x", "hello", code=2)
    assert "not of the form mcp__SERVER__TOOL" in terminal.err
    terminal.run("--setting-sources", "everything", "hello", code=2)
    terminal.run("--settings", "none.json", "hello", code=2)
    terminal.run("--settings", '{"permissions": {"deny": "x"}}', "hello", code=6)


def test_a_request_of_a_past_session_is_named_with_its_host() -> None:
    verdict = {"decision": "allow", "source": "user", "rule": "Network(a.example)"}
    to = ConnectHost(host="a.example", port=8443, scheme="https", method="GET", path="/x")
    record = {"type": "Judged", "call": "n", "tool": "Network", "effects": [effect_to_json(to)], "verdict": verdict}
    place = Place(cwd=PurePosixPath("/w"), home=PurePosixPath("/home/box"), roots=(PurePosixPath("/w"),))
    (past,) = past_calls([record], session="s", place=place, mode=Mode.DEFAULT)
    assert past.text == "Network(GET https://a.example:8443/x)"
