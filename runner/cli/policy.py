"""`fumehood policy`: what is in force and where it comes from, and work on policy files. What things mean is
`runner.policy`'s; this module reads arguments and prints.
"""

from __future__ import annotations

import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Argument, Option

from runner.cli import policy_files
from runner.cli.answers import AsJson, out, out_json
from runner.cli.entry import say
from runner.cli.policy_show import in_force
from runner.effects import Mode
from runner.errors import ManagedError, SettingsError, UsageError
from runner.policy.calls import TOOLS, call_of
from runner.policy.explain import Explanation, decides, explain, judge_past
from runner.policy.trust import Grants
from runner.sessions.past import calls_of
from runner.sessions.specs import standing_policy
from runner.sessions.store import Store, state_home
from runner.ui.safe import one_line
from runner.ui.words import plural

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
app.command(name="show")(in_force)
EXIT_DIFFERS = 1
WIDE = 200
LATEST = 20

ModeOption = Annotated[
    str, Option("--mode", "--permission-mode", metavar="MODE", help="Judge in this permission mode.")
]
Sessions = Annotated[list[str], Option("--session", "-s", metavar="SESSION", help="A session's calls; repeatable.")]
FileArgument = Annotated[Path, Argument(metavar="FILE")]


@app.command(name="explain")
def explain_call(
    call: Annotated[str, Argument(metavar="'TOOL(...)'", help="A call: 'Bash(git push)', 'Edit(src/x)'.")] = "",
    session: Annotated[str, Option("--session", "-s", metavar="SESSION", help="A call of this session.")] = "",
    number: Annotated[str, Option("--call", metavar="N", help="Its number, from 1, or its id.")] = "",
    mode: ModeOption = "",
    as_json: AsJson = False,
) -> None:
    """Why a call is decided as it is: every rule that speaks of it, which one decides, and what would change it."""
    if bool(call) is bool(session):
        raise UsageError("name a call, or --session and --call")
    _, composed, ground = standing_policy(Path.cwd(), environ=os.environ, mode=read_mode(mode) if mode else None)
    policy = composed.policy
    then = None
    if call:
        tool, effects = call_of(call, ground.place)
        if tool not in TOOLS and not tool.startswith("mcp__"):
            raise UsageError(f"no tool is called {tool!r}: {', '.join(sorted(TOOLS))}, mcp__SERVER__TOOL")
        found = explain(policy, tool, effects, ground.place)
    else:
        store = Store(state_home(os.environ))
        calls = list(calls_of(store.choose(session, Path.cwd()), os.environ))
        named = [one for one in calls if one.call == number]
        if number.isdecimal() and 0 < int(number) <= len(calls):
            named = named or [calls[int(number) - 1]]
        if not named:
            raise UsageError(f"the session has no call {number!r}; it has {len(calls)} (--call 1 to {len(calls)})")
        then = named[0]
        found = explain(
            policy.with_mode(then.mode) if then.mode in policy.modes else policy, then.tool, then.effects, then.place
        )
    if as_json:
        recorded = {"recorded": {"decision": then.decided, "rule": then.rule, "call": then.text}} if then else {}
        out_json(found.to_json() | recorded)
        return
    if then:
        out(f"call      {one_line(then.text, WIDE)}")
        out(f"then      {then.decided}: {then.rule} ({then.source})")
    tell(found)


def tell(found: Explanation) -> None:
    """An explanation for people."""
    verdict = found.verdict
    where = f" in {verdict.file}:{verdict.line}" if verdict.file else ""
    out(f"decision  {verdict.decision.name.lower()} (mode {found.mode.value})")
    out(f"because   {verdict.reason}{where} ({verdict.source.value})")
    for rule in found.matches:
        mark = "decides" if decides(rule, verdict) else "matches"
        place = f"{rule.source.file}:{rule.source.line}" if rule.source.file else "command line"
        out(f"{mark}   {rule.decision.name.lower()} {rule.rule}  ({rule.source.layer.value}, {place})")
    for change in found.changes:
        out(f"change    {change}")


def _in_mode(mode: str, reason: str, decision: str = "") -> str:
    """A reason, and the mode that it was found in, where the reason does not begin with it."""
    return f"mode {mode}: " + ", ".join(filter(None, (decision, reason.removeprefix(f"mode {mode}: "))))


def read_mode(name: str) -> Mode:
    """Raises UsageError."""
    try:
        return Mode.DEFAULT if name == "manual" else Mode(name)
    except ValueError as error:
        raise UsageError(f"{name!r} is no mode: {', '.join(mode.value for mode in Mode)}") from error


@app.command()
def check(file: FileArgument) -> None:
    """Errors of a file with line and column, unknown keys with what may have been meant; ends with 6 for any."""
    problems = policy_files.problems(file)
    for problem in problems:
        say(str(problem), hint="" if isinstance(problem, ManagedError) else problem.hint)
    if problems:
        raise typer.Exit(SettingsError.exit_code)
    for line in policy_files.remarks(file):
        out(line)
    out(f"{file}: nothing wrong")


@app.command()
def test(file: FileArgument, as_json: AsJson = False) -> None:  # noqa: PT028 (a command, not a test)
    """Try the examples of a policy file; ends with 1 where one does not hold."""
    tried, wrong = policy_files.try_examples(file)
    if as_json:
        rows = [
            {
                "call": t.call,
                "mode": t.mode.value,
                "expect": t.expect,
                "holds": t.holds,
                "line": t.entry.source.line,
                "verdict": t.verdict.to_json(),
            }
            for t in tried
        ]
        out_json({"ok": not wrong, "cases": rows, "failed": [f"{w.entry.where}: {w.problem}" for w in wrong]})
    else:
        for one in tried:
            mark = "ok  " if one.holds else "FAIL"
            out(
                f"{mark}  {one.expect:9} {one.call}  "
                f"({_in_mode(one.mode.value, one.verdict.reason, one.verdict.decision.name.lower())})"
            )
        for failure in wrong:
            out(f"FAIL  {failure.entry.where}: {failure.problem}")
        tries = plural(len(tried), "example")
        if wrong:
            out(f"{tries}, {len(wrong)} that {'does' if len(wrong) == 1 else 'do'} not hold")
        else:
            out(f"{tries} {'holds' if len(tried) == 1 else 'hold'}")
    if wrong:
        raise typer.Exit(EXIT_DIFFERS)


@app.command(name="dry-run")
def dry_run(file: FileArgument, session: Sessions = [], as_json: AsJson = False) -> None:  # noqa: B006 (typer copies it)
    """What a policy file would have decided on the calls of past sessions; by default the latest here."""
    rows: list[dict[str, Any]] = []
    count = 0
    for stored in _chosen(session):
        for past in calls_of(stored, os.environ):
            count += 1
            verdict = judge_past(policy_files.policy_at(file, past.place, past.mode), past)
            decision = verdict.decision.name.lower()
            if decision != past.decided:
                rows.append(
                    {
                        "session": past.session,
                        "call": past.call,
                        "text": past.text,
                        "then": past.decided,
                        "now": decision,
                        "reason": verdict.reason,
                    }
                )
    if as_json:
        out_json({"calls": count, "changed": rows})
        return
    for row in rows:
        out(
            f"{row['session'][:8]}  {row['then']:>5} -> {row['now']:<5} "
            f"{one_line(row['text'], WIDE)}  ({row['reason']})"
        )
    out(f"{plural(count, 'call')}, {len(rows)} would be decided otherwise")


def _chosen(names: list[str]) -> list[Any]:
    store = Store(state_home(os.environ))
    if names:
        return [store.choose(name, Path.cwd()) for name in names]
    here = str(Path.cwd())
    return [stored for stored in store if stored.spec.cwd == here][:LATEST]


@app.command()
def diff(a: FileArgument, b: FileArgument, session: Sessions = [], as_json: AsJson = False) -> None:  # noqa: B006 (typer copies it)
    """Which decisions differ between two policy files, over the examples of both and past calls; ends with 1 if any."""
    rows = policy_files.differing_examples(a, b)
    for stored in _chosen(session):
        for past in calls_of(stored, os.environ):
            one, two = (judge_past(policy_files.policy_at(file, past.place, past.mode), past) for file in (a, b))
            if one.decision is not two.decision:
                rows.append(policy_files.Differing(call=past.text, mode=past.mode.value, a=one, b=two))
    unique = list(dict.fromkeys(rows))
    if as_json:
        out_json([{"call": r.call, "mode": r.mode, "a": r.a.to_json(), "b": r.b.to_json()} for r in unique])
    else:
        for row in unique:
            out(
                f"{row.a.decision.name.lower():>5} -> {row.b.decision.name.lower():<5} "
                f"{one_line(row.call, WIDE)}  ({_in_mode(row.mode, row.b.reason)})"
            )
        out(f"{plural(len(unique), 'decision')} {'differs' if len(unique) == 1 else 'differ'}")
    if unique:
        raise typer.Exit(EXIT_DIFFERS)


@app.command()
def sign(
    file: Annotated[Path | None, Argument(metavar="FILE")] = None,
    key: Annotated[Path | None, Option("--key", metavar="SECRETKEY", help="minisign's or ours.")] = None,
    new_key: Annotated[
        Path | None, Option("--new-key", metavar="NAME", help="Make NAME.key and NAME.pub first.")
    ] = None,
    comment: Annotated[str, Option("--comment", help="The trusted comment; default: the time and the file.")] = "",
) -> None:
    """Write FILE.minisig, a signature in minisign's form."""
    if new_key is not None:
        for path in policy_files.make_key(new_key):
            out(f"wrote {path}")
        key = key or new_key.with_name(new_key.name + ".key")
    if file is None:
        if new_key is None:
            raise UsageError("name the file to sign")
        return
    if key is None:
        raise UsageError("name the secret key: --key")
    text = comment or f"timestamp:{int(datetime.now(UTC).timestamp())}\tfile:{file.name}\thashed"
    out(f"wrote {policy_files.sign(file, key, text)}")


@app.command()
def verify(
    file: FileArgument,
    key: Annotated[
        Path | None, Option("--key", metavar="PUBLICKEY", help="Default: the keys pinned on this machine.")
    ] = None,
) -> None:
    """Check FILE.minisig; ends with 7 when it does not hold."""
    out(f"{file}: signed ({policy_files.verify(file, key)})")


@app.command()
def init(
    preset: Annotated[str, Argument(metavar="PRESET", help="Leave it out for a list.")] = "",
    output: Annotated[Path | None, Option("--output", "-o", metavar="FILE", help="Default: standard output.")] = None,
) -> None:
    """Begin a policy file from a preset."""
    if not preset:
        for name, about in policy_files.presets():
            out(f"{name:20} {about}")
        return
    text = policy_files.preset(preset)
    if output is None:
        sys.stdout.write(text)
        return
    try:
        with output.open("x", encoding="utf-8") as made:
            made.write(text)
    except FileExistsError as error:
        raise UsageError(f"{output} is there already") from error
    out(f"wrote {output}")


@app.command()
def schema() -> None:
    """The JSON Schema of policy files, for editors."""
    sys.stdout.write(policy_files.schema())


@app.command()
def approvals(
    revoke: Annotated[list[str], Option("--revoke", metavar="ID", help="Take one back; repeatable.")] = [],  # noqa: B006 (typer copies it)
    revoke_all: Annotated[bool, Option("--revoke-all", help="Take all back.")] = False,
    as_json: AsJson = False,
) -> None:
    """What you allowed for always, by workspace; and take it back."""
    grants = Grants(state_home(os.environ))
    if revoke or revoke_all:
        ids = [one.id for one in grants.approvals()] if revoke_all else revoke
        gone = grants.withdraw(*ids)
        out(f"{gone} taken back")
        if gone < len(ids):
            raise UsageError("no such approval: see fumehood policy approvals")
        return
    found = grants.approvals()
    if as_json:
        out_json(
            [{"id": a.id, "workspace": a.workspace, "rule": a.rule, "at": a.at, "session": a.session} for a in found]
        )
        return
    for one in found:
        out(f"{one.id}  {one.rule}  in {one.workspace}, {one.at}")
    out(f"{len(found)} kept in {grants.approvals_file}" if found else "nothing is allowed for always")
