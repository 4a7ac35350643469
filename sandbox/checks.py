"""Findings about a machine, and what a box's own view of its walls means. Pure; `sandbox.doctor` looks."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from sandbox.dataclass import dataclass
from sandbox.spec import Limits

OWN_KERNEL = ("runsc", "kata", "kata-runtime", "kata-fc", "kata-qemu")

# One line of name=value for each thing that a command in the box can see of its own walls.
PROBE = r"""
status() {
  while IFS=': 	' read -r key value rest; do [ "$key" = "$1" ] && echo "$2=$value" && return
  done < /proc/self/status
}
status Seccomp seccomp; status NoNewPrivs nnp; status CapEff effective; status CapBnd bounding
read -r inside outside length < /proc/self/uid_map; echo "map=$inside $outside $length"
echo "uid=$(id -u)"
net=; for each in /sys/class/net/*; do net="$net ${each##*/}"; done; echo "net=${net# }"
if (: > /fumehood-doctor) 2>/dev/null; then echo system=writable; else echo system=readonly; fi
if echo changed > file && echo new > added && [ "$(cat file)" = changed ]; then echo files=ok; fi
for each in /sys/fs/cgroup/memory.max /sys/fs/cgroup/memory/memory.limit_in_bytes; do
  [ -r "$each" ] && read -r value < "$each" && echo "memory=$value" && break; done
for each in /sys/fs/cgroup/pids.max /sys/fs/cgroup/pids/pids.max; do
  [ -r "$each" ] && read -r value < "$each" && echo "pids=$value" && break; done
echo "nofile=$(ulimit -n)"
"""


class Level(StrEnum):
    """How a check came out."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One finding. `advice`: what the user can do, empty where nothing is to be done."""

    name: str
    level: Level
    found: str
    advice: str = ""


def ok(name: str, found: str) -> Check:
    """All is well."""
    return Check(name=name, level=Level.OK, found=found)


def warn(name: str, found: str, advice: str = "") -> Check:
    """It works, but less well than it could."""
    return Check(name=name, level=Level.WARN, found=found, advice=advice)


def fail(name: str, found: str, advice: str = "") -> Check:
    """It does not work, or a promise does not hold."""
    return Check(name=name, level=Level.FAIL, found=found, advice=advice)


def parse_probe(text: str) -> dict[str, str]:
    """The name=value lines; what comes from the box is only ever compared with what is expected."""
    pairs = (line.partition("=") for line in text.splitlines())
    return {name: value.strip()[:100] for name, sign, value in pairs if sign}


def judge_probe(seen: Mapping[str, str], fallbacks: tuple[str, ...], limits: Limits, runtime: str = "") -> list[Check]:
    """What the box's own view of its walls means."""
    return [
        _check_seccomp(seen, runtime),
        _check_privileges(seen, runtime),
        _check_namespace(seen),
        ok("network", "none: only the loopback interface")
        if seen.get("net") == "lo"
        else fail("network", f"interfaces: {seen.get('net') or 'unknown'}"),
        ok("system", "read-only")
        if seen.get("system") == "readonly"
        else fail("system", "the root file system is writable"),
        _check_limits(seen, limits),
        *(warn("fallback", each, "this engine could not give it") for each in fallbacks),
    ]


def _check_seccomp(seen: Mapping[str, str], runtime: str) -> Check:
    if runtime in OWN_KERNEL:
        return ok("system calls", f"handled by {runtime}; no seccomp profile of ours is claimed")
    if seen.get("seccomp") == "2":
        return ok("system calls", "filtered (seccomp mode 2)")
    return fail("system calls", "no filter is in force", "use an engine with seccomp")


def _check_privileges(seen: Mapping[str, str], runtime: str) -> Check:
    empty = all(seen.get(name, "").strip("0") == "" and seen.get(name) for name in ("effective", "bounding"))
    if empty and seen.get("nnp") == "1":
        return ok("privileges", "no capability, and none can be gained")
    if empty and "nnp" not in seen and runtime in OWN_KERNEL:  # gVisor's /proc has no such line
        return ok("privileges", f"no capability; {runtime} does not show whether one could be gained")
    return fail("privileges", f"effective {seen.get('effective')}, bounding {seen.get('bounding')}, {seen.get('nnp')}")


def _check_namespace(seen: Mapping[str, str]) -> Check:
    whole = seen.get("map", "") in ("", "0 0 4294967295")
    if not whole:
        return ok("user namespace", f"commands have one of their own, as uid {seen.get('uid')}")
    advice = "check kernel.unprivileged_userns_clone and user.max_user_namespaces"
    return warn("user namespace", "commands have none of their own", advice)


def _check_limits(seen: Mapping[str, str], limits: Limits) -> Check:
    wanted = {"memory": limits.memory, "pids": limits.pids, "nofile": limits.nofile}
    missing = [name for name, most in wanted.items() if not _holds(seen.get(name, ""), most)]
    if not missing:
        memory = f"{limits.memory >> 20} MiB of memory"
        return ok("limits", f"{memory}, {limits.pids} processes, {limits.nofile} open files")
    said = ", ".join(f"{name} {seen.get(name) or 'not shown'}" for name in missing)
    return warn("limits", f"not in force, or not to be seen: {said}", "the engine needs the cgroup controllers")


def _holds(value: str, most: int) -> bool:
    return value.isdigit() and int(value) <= most


def check_files(seen: Mapping[str, str], changed: int, *, untouched: bool) -> Check:
    """Whether what the probe wrote is there as two changes, and the host's own file is as it was."""
    if seen.get("files") != "ok":
        return fail("files", "a command in the box could not write to its directory")
    if not untouched:
        return fail("files", "a write in the box reached the host directory")
    if changed != 2:
        return fail("files", f"two files were changed in the box, {changed} were found")
    return ok("files", "written in the box, found as changes, the host directory untouched")
