"""The program for the kernel's seccomp, run as the kernel runs it."""

from __future__ import annotations

import struct

import pytest

from tsctl.archive.syscalls import MACHINES, REFUSED, seccomp_program

ALLOW, REFUSE = 0x7FFF0000, 0x00050001


def verdict(program: bytes, number: int, machine: int) -> int:
    """What the program returns for a system call."""
    lines = list(struct.iter_unpack("=HBBL", program))
    at = value = 0
    while True:
        code, if_true, if_false, operand = lines[at]
        at += 1
        if code == 0x20:
            value = {0: number, 4: machine}[operand]
        elif code == 0x15:
            at += if_true if value == operand else if_false
        elif code == 0x35:
            at += if_true if value >= operand else if_false
        else:
            assert code == 0x06
            return int(operand)


@pytest.mark.parametrize("machine", list(MACHINES))
def test_the_calls_that_are_named_are_refused_and_no_others(machine: str) -> None:
    program, refused = seccomp_program(machine), set(REFUSED[machine].values())
    for number in range(600):
        assert verdict(program, number, MACHINES[machine]) == (REFUSE if number in refused else ALLOW)


@pytest.mark.parametrize("machine", list(MACHINES))
def test_calls_of_another_machine_are_refused(machine: str) -> None:
    assert verdict(seccomp_program(machine), 0, 0x40000003) == REFUSE  # 32 bits


def test_calls_of_x32_are_refused() -> None:
    assert verdict(seccomp_program("x86_64"), 0x40000000 + 1, MACHINES["x86_64"]) == REFUSE


def test_a_machine_whose_numbers_are_not_known_gets_no_program() -> None:
    assert seccomp_program("riscv64") == b""
