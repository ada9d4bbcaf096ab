"""Takes from this process what it will never need: files outside of a few folders, the network,
other programs and other processes.

Landlock (Linux 5.13; TCP since 6.7) decides about files, seccomp about system calls. Both hold for
the calling thread and for the threads and processes that it begins afterwards, so a process
confines itself before a library begins threads. Nothing gives back what was taken. Sources: Linux,
Documentation/userspace-api/landlock.rst and seccomp_filter.rst;
include/uapi/linux/{landlock,seccomp,filter,audit}.h.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import sys
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same numbers on every architecture
_ASK_VERSION: Final = 1
_PATH_BENEATH: Final = 1

_READ: Final = 1 << 0 | 1 << 2 | 1 << 3  # execute (a library is mapped so), read file, read folder
_OF_A_FILE: Final = (
    1 << 0 | 1 << 1 | 1 << 2 | 1 << 14 | 1 << 15
)  # execute, write, read, truncate, ioctl: what a rule on a file may name
_FILE_RIGHTS: Final = {
    1: 13,
    2: 14,
    3: 15,
    4: 15,
}  # how many rights of files each version knows; 16 since the fifth
_TCP_SINCE: Final = 4
_SCOPES_SINCE: Final = 6
_BOTH: Final = 0b11  # bind and connect; abstract sockets and signals

_NO_NEW_PRIVILEGES: Final = 38
_SET_SECCOMP: Final = 22
_FILTER: Final = 2
_ALLOW: Final = 0x7FFF0000
_REFUSE: Final = 0x00050000 | 1  # EPERM
_OTHER_INTERFACE: Final = 0x40000000  # x32 on x86-64: other numbers for the same calls
_LOAD, _JUMP_IF_EQUAL, _JUMP_IF_NOT_LESS, _RETURN = 0x20, 0x15, 0x35, 0x06

# socket, execve, execveat, ptrace, process_vm_readv, process_vm_writev, open_by_handle_at,
# io_uring_setup, pidfd_getfd
_REFUSED: Final = {
    "x86_64": (0xC000003E, (41, 59, 322, 101, 310, 311, 304, 425, 438)),
    "aarch64": (0xC00000B7, (198, 221, 281, 117, 270, 271, 265, 425, 438)),
}


@dataclass(frozen=True, slots=True)
class Confinement:
    """What confines a process: the version of Landlock (0: none, files are open), and whether
    system calls are filtered.
    """

    landlock: int
    seccomp: bool

    @property
    def files(self) -> bool:
        """Whether files outside of the given folders are out of reach."""
        return self.landlock > 0

    @property
    def network(self) -> bool:
        """Whether the network is out of reach."""
        return self.seccomp or self.landlock >= _TCP_SINCE

    @property
    def words(self) -> str:
        """What it is, for a person."""
        parts = ([f"Landlock {self.landlock}"] if self.landlock else []) + (
            ["seccomp"] if self.seccomp else []
        )
        return " and ".join(parts) or "nothing"


def offered() -> Confinement:
    """What this kernel offers; nothing is changed."""
    if sys.platform != "linux":
        return Confinement(0, seccomp=False)
    version = _libc().syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), _ASK_VERSION)
    return Confinement(
        max(version, 0),
        seccomp=platform.machine() in _REFUSED and Path("/proc/sys/kernel/seccomp").exists(),
    )


def confine(*, write: Iterable[Path], read: Iterable[Path]) -> Confinement:
    """Confine this thread, and all that it begins from now on, to these folders and files.

    Gives what the kernel lets it do.

    Raises:
        OSError: the kernel offers it and then refuses it.
    """
    kernel = offered()
    if kernel.landlock or kernel.seccomp:
        # the kernel demands it of users without privileges: a setuid program must not run confined
        _checked(_libc().prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0))
    if kernel.landlock:
        _landlock(kernel.landlock, write, read)
    if kernel.seccomp:
        _seccomp(*_REFUSED[platform.machine()])
    return kernel


def _landlock(version: int, write: Iterable[Path], read: Iterable[Path]) -> None:
    # all that this kernel knows: a right that no rule set names stays allowed everywhere
    every = (1 << _FILE_RIGHTS.get(version, 16)) - 1
    wanted = struct.pack("=QQQ", every, _BOTH, _BOTH)
    # an older kernel refuses a structure with fields that it does not know (E2BIG)
    size = 24 if version >= _SCOPES_SINCE else 16 if version >= _TCP_SINCE else 8
    ruleset = _checked(_libc().syscall(_CREATE_RULESET, wanted, ctypes.c_size_t(size), 0))
    try:
        for path, rights in [*((path, every) for path in write), *((path, _READ) for path in read)]:
            # machines differ in which of these files they have
            with suppress(FileNotFoundError):
                _allow(ruleset, path, rights)
        _checked(_libc().syscall(_RESTRICT_SELF, ruleset, 0))
    finally:
        os.close(ruleset)


def _allow(ruleset: int, path: Path, rights: int) -> None:
    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        # the kernel refuses a rule that names rights of folders for a file (EINVAL)
        rights = rights if path.is_dir() else rights & _OF_A_FILE
        _checked(
            _libc().syscall(
                _ADD_RULE, ruleset, _PATH_BENEATH, struct.pack("=Qi", rights, descriptor), 0
            )
        )
    finally:
        os.close(descriptor)


def _seccomp(architecture: int, refused: tuple[int, ...]) -> None:
    count = len(refused)
    steps = [  # a jump counts from the step behind it
        # asked first: on another architecture the same number is another call
        (_LOAD, 0, 0, 4),  # the architecture
        (_JUMP_IF_EQUAL, 0, count + 3, architecture),
        (_LOAD, 0, 0, 0),  # the call's number
        (_JUMP_IF_NOT_LESS, count + 1, 0, _OTHER_INTERFACE),
        *((_JUMP_IF_EQUAL, count - place, 0, number) for place, number in enumerate(refused)),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _REFUSE),
    ]
    # held by a name: the header below has only its address
    program = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in steps))
    header = struct.pack("HxxxxxxP", len(steps), ctypes.addressof(program))
    _checked(_libc().prctl(_SET_SECCOMP, _FILTER, header, 0, 0))


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
