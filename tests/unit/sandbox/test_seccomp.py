"""The profile: a closed list, for one architecture, without what leads out."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sandbox.seccomp import seccomp_json, seccomp_profile, supported

REFUSED = """
io_uring_setup io_uring_enter io_uring_register add_key keyctl request_key bpf perf_event_open userfaultfd mount
umount umount2 pivot_root fsopen fsconfig fsmount fspick open_tree move_mount mount_setattr setns chroot
name_to_handle_at open_by_handle_at process_vm_readv process_vm_writev process_madvise process_mrelease
pidfd_getfd kcmp fanotify_init fanotify_mark quotactl mbind get_mempolicy set_mempolicy memfd_secret vmsplice
remap_file_pages lookup_dcookie modify_ldt clock_settime clock_adjtime settimeofday adjtimex syslog reboot swapon
swapoff kexec_load init_module finit_module delete_module iopl ioperm acct sethostname setdomainname socketcall
uselib vhangup nfsservctl move_pages migrate_pages set_mempolicy_home_node
"""


def rules(name: str, machine: str = "x86_64") -> list[dict[str, Any]]:
    return [rule for rule in seccomp_profile(machine)["syscalls"] if name in rule["names"]]


@pytest.mark.parametrize("name", REFUSED.split())
def test_what_leads_out_is_not_in_the_list(name: str) -> None:
    assert rules(name) == []


@pytest.mark.parametrize(
    ("machine", "name"),
    [("x86_64", "SCMP_ARCH_X86_64"), ("aarch64", "SCMP_ARCH_AARCH64"), ("arm64", "SCMP_ARCH_AARCH64")],
)
def test_one_architecture_and_no_other_abi(machine: str, name: str) -> None:
    assert seccomp_profile(machine)["architectures"] == [name]


def test_what_is_not_listed_is_an_error_not_a_kill() -> None:
    profile = seccomp_profile("x86_64")
    assert (profile["defaultAction"], profile["defaultErrnoRet"]) == ("SCMP_ACT_ERRNO", 1)


def test_unknown_architectures_have_no_profile() -> None:
    assert not supported("s390x")
    with pytest.raises(KeyError):
        seccomp_profile("s390x")


def test_conditions_stand_where_a_call_is_allowed_in_part() -> None:
    conditional = (
        "clone",
        "unshare",
        "socket",
        "ptrace",
        "kill",
        "tkill",
        "tgkill",
        "prlimit64",
        "personality",
        "ioctl",
    )
    for name in conditional:
        assert rules(name), name
        assert all(rule["args"] for rule in rules(name)), name
    assert [rule["action"] for rule in rules("clone3")] == ["SCMP_ACT_ERRNO"]
    assert [rule["errnoRet"] for rule in rules("clone3")] == [38]


def test_families_of_sockets() -> None:
    families = {rule["args"][0]["value"] for rule in rules("socket") if rule["action"] == "SCMP_ACT_ALLOW"}
    assert families == {1, 2, 10, 16}


def test_the_text_is_one_line_of_json() -> None:
    text = seccomp_json("x86_64")
    assert "\n" not in text
    assert json.loads(text) == seccomp_profile("x86_64")
