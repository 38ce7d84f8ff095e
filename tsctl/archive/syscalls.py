"""The system calls that code in the sandbox may not make, as a program for the kernel's seccomp. Pure.

Namespaces leave these open: keys of the session that started tsctl, and whatever stops or inspects other processes and
the kernel. No handler needs them.
"""

from __future__ import annotations

import struct

#: Numbers of the calls by machine, as platform.machine() names it, and the kernel's number of that machine.
MACHINES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
REFUSED = {
    "x86_64": {
        "add_key": 248, "bpf": 321, "io_uring_setup": 425, "keyctl": 250, "kcmp": 312, "perf_event_open": 298,
        "process_vm_readv": 310, "process_vm_writev": 311, "ptrace": 101, "request_key": 249, "userfaultfd": 323,
    },
    "aarch64": {
        "add_key": 217, "bpf": 280, "io_uring_setup": 425, "keyctl": 219, "kcmp": 272, "perf_event_open": 241,
        "process_vm_readv": 270, "process_vm_writev": 271, "ptrace": 117, "request_key": 218, "userfaultfd": 282,
    },
}  # fmt: skip
#: Numbers from here on are calls of the x32 machine, under which x86_64 offers the same calls again.
_X32 = 0x40000000
_LOAD, _IF_EQUAL, _IF_AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_NUMBER_AT, _MACHINE_AT = 0, 4
_ALLOW, _REFUSE = 0x7FFF0000, 0x00050001  # as an error: EPERM


def seccomp_program(machine: str) -> bytes:
    """The program: refused calls, and all calls of another machine, fail with EPERM; empty for an unknown machine."""
    if machine not in MACHINES:
        return b""
    tests = [(_IF_EQUAL, number) for number in sorted(REFUSED[machine].values())]
    if machine == "x86_64":
        tests.append((_IF_AT_LEAST, _X32))
    count = len(tests)
    lines = [(_LOAD, 0, 0, _MACHINE_AT), (_IF_EQUAL, 0, count + 2, MACHINES[machine]), (_LOAD, 0, 0, _NUMBER_AT)]
    lines += [(test, count - place, 0, value) for place, (test, value) in enumerate(tests)]
    lines += [(_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _REFUSE)]
    return b"".join(struct.pack("=HBBL", *line) for line in lines)
