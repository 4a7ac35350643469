"""Bash and TaskStop over real processes."""

from __future__ import annotations

import asyncio
from pathlib import Path, PurePosixPath

import pytest

from runner.effects import RunCommand, StopTask
from runner.tools.bash import Bash, output_limit, timeout_ms
from runner.tools.edit import Edit
from runner.tools.taskstop import TaskStop
from runner.tools.viewed import Viewed, viewed_file
from runner.tools.write import Write
from tests.support.toolbench import ToolBench, text_of


async def test_a_command_tells_its_output(bench: ToolBench) -> None:
    result = await bench.use(Bash(), command="echo out; echo err >&2; echo last")
    assert text_of(result) == "out\nerr\nlast"
    assert result.for_user == {"stdout": "out\nerr\nlast\n", "stderr": "", "interrupted": False, "isImage": False}
    assert "".join(bench.shown) == "out\nerr\nlast\n"
    assert bench.effects == (RunCommand(command="echo out; echo err >&2; echo last", cwd=bench.root),)
    assert bench.box.requests == ["exec"]  # type: ignore[attr-defined]


async def test_a_failure_tells_its_exit_code_after_the_output(bench: ToolBench) -> None:
    result = await bench.use(Bash(), command="echo oh no; exit 3")
    assert text_of(result) == "oh no\nExit code 3"
    assert result.is_error


@pytest.mark.parametrize(
    ("command", "meaning"),
    [
        ("echo a | grep b", "No matches found"),
        ("diff <(echo a) <(echo b) >/dev/null", "Files differ"),
        ("test -e /nowhere", "Condition is false"),
        ("cd . && LC_ALL=C grep -q x /dev/null", "No matches found"),
    ],
)
async def test_an_exit_code_that_says_no_is_no_error(bench: ToolBench, command: str, meaning: str) -> None:
    result = await bench.use(Bash(), command=command)
    assert not result.is_error
    assert result.for_user["returnCodeInterpretation"] == meaning
    assert text_of(result).endswith(meaning)


async def test_the_working_directory_carries_over_inside_the_root(bench: ToolBench, root: Path) -> None:
    (root / "sub").mkdir()
    await bench.use(Bash(), command="cd sub")
    assert text_of(await bench.use(Bash(), command="pwd")) == str(root / "sub")


async def test_the_working_directory_is_reset_outside_the_roots(bench: ToolBench, root: Path) -> None:
    (root / "sub").mkdir()
    await bench.use(Bash(), command="cd sub")
    result = await bench.use(Bash(), command="cd /; echo hi")
    assert text_of(result) == f"hi\nShell cwd was reset to {root}"
    assert bench.state.cwd == PurePosixPath(root)


async def test_a_working_directory_that_is_gone_is_left(bench: ToolBench, root: Path) -> None:
    (root / "sub").mkdir()
    await bench.use(Bash(), command="cd sub")
    (root / "sub").rmdir()
    result = await bench.use(Bash(), command="pwd")
    assert text_of(result) == f"{root}\n{root}/sub no longer exists. Shell cwd was reset to {root}"


async def test_a_command_over_its_time_is_killed_and_told(bench: ToolBench, root: Path) -> None:
    result = await bench.use(Bash(), command="echo begun; (sleep 1; touch late) & sleep 30", timeout=300)
    assert result.is_error
    assert "timed out after 0.3 s" in text_of(result)
    assert text_of(result).startswith("begun")
    assert result.for_user["timedOutAfterMs"] == 300
    await asyncio.sleep(1.1)
    assert not (root / "late").exists()


async def test_a_signal_is_named(bench: ToolBench) -> None:
    assert "SIGSEGV" in text_of(await bench.use(Bash(), command="kill -SEGV $$"))
    assert "SIGKILL" in text_of(await bench.use(Bash(), command="bash -c 'kill -9 $$'"))


async def test_long_output_is_kept_in_a_file(bench: ToolBench) -> None:
    result = await bench.use(Bash(), command="seq 1 20000")
    text = text_of(result)
    assert len(text) < 12_000
    assert text.startswith("1\n2\n")
    assert text.endswith("\n20000")
    kept = result.for_user["persistedOutputPath"]
    assert kept in text
    content = await bench.box.read(PurePosixPath(kept))
    assert content.data.count(b"\n") == 20_000
    assert result.for_user["persistedOutputSize"] == content.stat.size
    assert result.truncated


async def test_output_is_made_fit_for_reading(bench: ToolBench) -> None:
    command = r"printf '\033[31mred\033[0m\n10%%\r50%%\r100%%\n\033]0;title\007x\0y \xff z\n'"
    assert text_of(await bench.use(Bash(), command=command)) == "red\n100%\nx␀y \N{REPLACEMENT CHARACTER} z"


@pytest.mark.parametrize("device", ["urandom", "zero"])
async def test_binary_output_is_not_poured_over_the_model(bench: ToolBench, device: str) -> None:
    result = await bench.use(Bash(), command=f"head -c 50000 /dev/{device}")
    assert text_of(result).startswith("[binary output")
    assert len(text_of(result)) < 700


async def test_silence_is_noted(bench: ToolBench) -> None:
    result = await bench.use(Bash(), command="true")
    assert text_of(result) == "(no output)"
    assert result.for_user["noOutputExpected"] is True


async def test_the_sandbox_cannot_be_switched_off(bench: ToolBench) -> None:
    result = await bench.use(Bash(), command="echo hi", dangerouslyDisableSandbox=True)
    assert text_of(result) == "hi\ndangerouslyDisableSandbox has no effect here: every command runs in the box."
    assert result.for_user["dangerouslyDisableSandbox"] is False


async def test_a_nul_in_the_command_is_refused(bench: ToolBench) -> None:
    assert (await bench.use(Bash(), command="echo a\0b")).is_error


async def test_a_background_command_runs_on_and_its_end_is_journalled(bench: ToolBench) -> None:
    result = await bench.use(Bash(), command="echo hello; exit 2", run_in_background=True)
    task = bench.state.tasks[result.for_user["backgroundTaskId"]]
    await asyncio.wait_for(task.ended.wait(), 10)
    assert [(record.kind, record.state) for record in bench.records] == [("command", "running"), ("command", "failed")]
    assert bench.records[1].detail["code"] == 2
    assert (await bench.box.read(task.output)).data == b"hello\n"


async def test_a_background_command_is_stopped_with_what_it_started(bench: ToolBench, root: Path) -> None:
    command = "trap '' TERM; (sleep 4; touch late) & sleep 60"
    started = await bench.use(Bash(), command=command, run_in_background=True)
    task = started.for_user["backgroundTaskId"]
    result = await bench.use(TaskStop(), task_id=task)
    assert bench.effects == (StopTask(task=task),)
    assert result.for_user == {
        "message": f"Successfully stopped task: {task} ({command})",
        "task_id": task,
        "task_type": "local_bash",
        "command": command,
    }
    await asyncio.wait_for(bench.state.tasks[task].ended.wait(), 10)
    assert bench.records[-1].state == "killed"
    await asyncio.sleep(2.5)
    assert not (root / "late").exists()
    again = await bench.use(TaskStop(), shell_id=task)
    assert "not running" in text_of(again)


async def test_a_file_that_a_command_showed_may_be_edited(bench: ToolBench, root: Path) -> None:
    file = root / "a.txt"
    file.write_text("one\ntwo\n")
    edit = {"file_path": str(file), "old_string": "one", "new_string": "1"}
    await bench.use(Bash(), command="cat a.txt | cat")
    assert (await bench.use(Edit(), **edit)).is_error
    await bench.use(Bash(), command="head -n 1 a.txt")
    assert not (await bench.use(Edit(), **edit)).is_error
    assert (await bench.use(Write(), file_path=str(file), content="x")).is_error
    await bench.use(Bash(), command=f"cat {file}")
    assert not (await bench.use(Write(), file_path=str(file), content="x")).is_error


@pytest.mark.parametrize(
    ("command", "viewed"),
    [
        ("cat a", Viewed(path="a", whole=True)),
        ("cat -n 'a b'", Viewed(path="a b", whole=True)),
        ("head -20 a", Viewed(path="a", whole=False)),
        ("tail -n 5 a", Viewed(path="a", whole=False)),
        ("sed -n 1,20p a", Viewed(path="a", whole=False)),
        ("grep -n foo a", Viewed(path="a", whole=False)),
        ("rg -A 3 foo a", Viewed(path="a", whole=False)),
        ("cat a b", None),
        ("cat a > b", None),
        ("cat $f", None),
        ("sed -i s/a/b/ a", None),
        ("grep foo", None),
        ("cat", None),
        ("echo a", None),
        ("cat 'a", None),
    ],
)
def test_the_file_that_a_command_shows_is_known(command: str, viewed: Viewed | None) -> None:
    assert viewed_file(command) == viewed


async def test_an_unknown_task_is_told(bench: ToolBench) -> None:
    assert "No task found" in text_of(await bench.use(TaskStop(), task_id="nope"))
    assert "needs task_id" in text_of(await bench.use(TaskStop()))


@pytest.mark.parametrize(
    ("asked", "environment", "wanted"),
    [
        (None, {}, 120_000),
        (5_000, {}, 5_000),
        (9_999_999, {}, 600_000),
        (None, {"BASH_DEFAULT_TIMEOUT_MS": "7000"}, 7_000),
        (9_999_999, {"BASH_MAX_TIMEOUT_MS": "8000"}, 8_000),
        (None, {"BASH_DEFAULT_TIMEOUT_MS": "nonsense"}, 120_000),
    ],
)
def test_the_timeout_is_the_one_asked_for_within_bounds(
    asked: float | None, environment: dict[str, str], wanted: float
) -> None:
    assert timeout_ms(asked, environment) == wanted


@pytest.mark.parametrize(("text", "wanted"), [("", 30_000), ("1000", 1_000), ("999999", 150_000), ("0", 30_000)])
def test_the_output_bound_can_be_moved_within_bounds(text: str, wanted: int) -> None:
    assert output_limit({"BASH_MAX_OUTPUT_LENGTH": text}) == wanted
