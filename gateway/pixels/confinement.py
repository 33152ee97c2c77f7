"""What a decoding process gives up for good before it sees a stranger's frame: network, programs, files, rank.

It keeps what it has open, memory, and reading code, as codecs are loaded when they are first needed. Limits hold
everywhere; on Linux of x86-64 and AArch64 the kernel refuses system calls (seccomp) and reading anything but code
(Landlock), where it can. Nothing here fails where it cannot: ``confine`` tells what holds. H15, H16.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import platform
import resource
import struct
import sys
import sysconfig
from collections.abc import Callable, Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path

from gateway.pixels.codecs import DECODED_WITH
from gateway.pixels.fonts import FONTS
from gateway.pixels.protocol import CALLS, FILES, LIMITS

_OPEN_FILES = 64
_PACKAGES = Path(__file__).resolve().parents[2]
_LOADER_CACHE = Path("/etc/ld.so.cache")
_MAPPED, _TASKS = Path("/proc/self/maps"), Path("/proc/self/task")

_NO_NEW_PRIVILEGES = 38  # prctl(2)

# System calls by name, with their number on x86-64 and on AArch64, which lacks some of the old ones.
_MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # column of the table, AUDIT_ARCH
_REFUSED = (
    # Network. What is open is read and written with recvfrom and sendto.
    "socket 41 198, socketpair 53 199, connect 42 203, bind 49 200, listen 50 201, accept 43 202, accept4 288 242, "
    "sendmsg 46 211, recvmsg 47 212, sendmmsg 307 269, recvmmsg 299 243, shutdown 48 210, setsockopt 54 208, "
    # Programs, and other processes
    "fork 57 -, vfork 58 -, execve 59 221, execveat 322 281, tkill 200 130, rt_sigqueueinfo 129 138, "
    "rt_tgsigqueueinfo 297 240, ptrace 101 117, process_vm_readv 310 270, process_vm_writev 311 271, kcmp 312 272, "
    "shmget 29 194, shmat 30 196, shmctl 31 195, semget 64 190, semop 65 193, semctl 66 191, semtimedop 220 192, "
    "msgget 68 186, msgsnd 69 189, msgrcv 70 188, msgctl 71 187, mq_open 240 180, mq_unlink 241 181, "
    "add_key 248 217, request_key 249 218, keyctl 250 219, move_pages 279 239, migrate_pages 256 238, "
    # Files
    "creat 85 -, truncate 76 45, ftruncate 77 46, fallocate 285 47, rename 82 -, renameat 264 38, renameat2 316 276, "
    "mkdir 83 -, mkdirat 258 34, rmdir 84 -, link 86 -, linkat 265 37, symlink 88 -, symlinkat 266 36, unlink 87 -, "
    "unlinkat 263 35, mknod 133 -, mknodat 259 33, chmod 90 -, fchmod 91 52, fchmodat 268 53, chown 92 -, "
    "lchown 94 -, fchown 93 55, fchownat 260 54, utime 132 -, utimes 235 -, futimesat 261 -, utimensat 280 88, "
    "setxattr 188 5, lsetxattr 189 6, fsetxattr 190 7, removexattr 197 14, lremovexattr 198 15, fremovexattr 199 16, "
    "name_to_handle_at 303 264, open_by_handle_at 304 265, memfd_create 319 279, sendfile 40 71, splice 275 76, "
    "tee 276 77, vmsplice 278 75, copy_file_range 326 285, inotify_init 253 -, inotify_init1 294 26, "
    "fanotify_init 300 262, chroot 161 51, pivot_root 155 41, mount 165 40, umount2 166 39, quotactl 179 60, "
    "swapon 167 224, swapoff 168 225, acct 163 89, io_setup 206 0, io_submit 209 2, "
    # Rank
    "setuid 105 146, setgid 106 144, setreuid 113 145, setregid 114 143, setresuid 117 147, setresgid 119 149, "
    "setfsuid 122 151, setfsgid 123 152, setgroups 116 159, capset 126 91, setpriority 141 140, "
    "sched_setparam 142 118, sched_setscheduler 144 119, sched_setattr 314 274, ioprio_set 251 30, "
    "setrlimit 160 164, setns 308 268, unshare 272 97, "
    # Rare parts of the kernel
    "init_module 175 105, finit_module 313 273, delete_module 176 106, kexec_load 246 104, kexec_file_load 320 294, "
    "reboot 169 142, sethostname 170 161, setdomainname 171 162, iopl 172 -, ioperm 173 -, modify_ldt 154 -, "
    "bpf 321 280, perf_event_open 298 241, userfaultfd 323 282, personality 135 92, lookup_dcookie 212 18, "
    "uselib 134 -, ustat 136 -, sysfs 139 -, _sysctl 156 -, vhangup 153 58, syslog 103 116, settimeofday 164 170, "
    "adjtimex 159 171, clock_settime 227 112, clock_adjtime 305 266"
)
_CONDITIONAL = "open 2 -, openat 257 56, clone 56 220, kill 62 129, tgkill 234 131, prlimit64 302 261"
_SECCOMP = (317, 277)
_FIRST_RECENT = 424  # from here on numbers are the same everywhere, and libraries do without what is not there

# Landlock, of which rights a kernel knows the more the newer it is: by its version, all of them as bits.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_RIGHTS = (0x1FFF, 0x3FFF, 0x7FFF, 0x7FFF, 0xFFFF)
_READ_FILE, _READ_FOLDER = 1 << 2, 1 << 3

# Classic BPF over ``struct seccomp_data``: number, architecture, instruction pointer, six arguments of eight bytes.
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCHITECTURE = 0, 4
_ALLOW, _KILL, _ERROR = 0x7FFF0000, 0x80000000, 0x00050000
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_THREAD = 0x00010000  # CLONE_THREAD
_Instruction = tuple[int, int, int, int]
_REFUSE: _Instruction = (_RETURN, 0, 0, _ERROR | errno.EPERM)
_ACCEPT: _Instruction = (_RETURN, 0, 0, _ALLOW)


class _Program(ctypes.Structure):
    """``struct sock_fprog``"""

    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def confine() -> frozenset[str]:
    """Give all of it up, for this process and its threads; returns what holds, of ``CONFINED``.

    Called once, when everything is open that the process needs, but code. With several threads there is no ``FILES``.
    """
    _limit()
    held = {LIMITS}
    column, architecture = _MACHINES.get(platform.machine(), (-1, 0))
    if sys.platform == "linux" and column >= 0 and struct.calcsize("P") == 8:
        library = ctypes.CDLL(None, use_errno=True)
        if library.prctl(_NO_NEW_PRIVILEGES, *map(ctypes.c_ulong, (1, 0, 0, 0))) == 0:
            held |= {FILES} if _is_alone() and _refuse_files(library, _code()) else set()
            held |= {CALLS} if _refuse_calls(library, column, architecture) else set()
    return frozenset(held)


def _is_alone() -> bool:
    return len(list(_TASKS.iterdir())) == 1


def _limit() -> None:
    """No file can grow, no further process or thread starts, few files are open; a privileged user may start some."""
    for name, most in (("RLIMIT_FSIZE", 0), ("RLIMIT_NOFILE", _OPEN_FILES), ("RLIMIT_NPROC", 0)):
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(getattr(resource, name), (most, most))


# Files


def _code() -> set[Path]:
    """Where there is code - the standard library, what decodes, our own, what is loaded by now - and fonts."""
    paths = sysconfig.get_paths()
    found = {Path(paths["stdlib"]), Path(paths["platstdlib"]), _PACKAGES / "gateway", _PACKAGES / "storage"}
    for name in {*DECODED_WITH.values(), "numpy", "PIL", "orjson"}:
        spec = find_spec(name)
        found |= {Path(place).parent for place in (spec and spec.submodule_search_locations) or ()}
    with contextlib.suppress(OSError):
        lines = _MAPPED.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
        found |= {Path(line[line.index("/") :]).parent for line in lines if ".so" in line and "/" in line}
    return found | {_LOADER_CACHE, *FONTS}


def _refuse_files(library: ctypes.CDLL, readable: Iterable[Path]) -> bool:
    """Nothing can be opened, made or removed any more, but read what lies in those folders. landlock(7)"""
    version = library.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint(1))
    if version < 1:
        return False
    handled = struct.pack("Q", _RIGHTS[min(version, len(_RIGHTS)) - 1])
    ruleset = library.syscall(_CREATE_RULESET, handled, ctypes.c_size_t(len(handled)), ctypes.c_uint(0))
    if ruleset < 0:
        return False
    try:
        for path in readable:
            with contextlib.suppress(OSError):
                _permit(library, ruleset, path)
        return bool(library.syscall(_RESTRICT_SELF, ctypes.c_int(ruleset), ctypes.c_uint(0)) == 0)
    finally:
        os.close(ruleset)


def _permit(library: ctypes.CDLL, ruleset: int, path: Path) -> None:
    """Raises OSError when it is not there."""
    rights = _READ_FILE | _READ_FOLDER if path.is_dir() else _READ_FILE
    place = os.open(path, os.O_PATH | os.O_CLOEXEC)  # type: ignore[attr-defined, unused-ignore]
    try:
        rule = struct.pack("=Qi", rights, place)
        library.syscall(_ADD_RULE, ctypes.c_int(ruleset), ctypes.c_int(1), rule, ctypes.c_uint(0))
    finally:
        os.close(place)


# System calls


def _refuse_calls(library: ctypes.CDLL, column: int, architecture: int) -> bool:
    """Those of the table fail from now on, with EPERM. seccomp(2)"""
    instructions = list(_filter(column, architecture, os.getpid()))
    code = b"".join(struct.pack("HBBI", *instruction) for instruction in instructions)
    program = _Program(len(instructions), code)
    operation, all_threads = ctypes.c_uint(1), ctypes.c_uint(1)  # SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC
    number = ctypes.c_long(_SECCOMP[column])
    return bool(library.syscall(number, operation, all_threads, ctypes.byref(program)) == 0)


def numbers(text: str, column: int) -> dict[str, int]:
    """System calls of a table above by name, those that the machine has."""
    rows = (row.split() for row in text.split(","))
    return {name: int(places[column]) for name, *places in rows if places[column] != "-"}


def _argument(index: int, *, upper: bool = False) -> _Instruction:
    """Load half of an argument; both machines are little endian."""
    return _LOAD, 0, 0, 16 + 8 * index + 4 * upper


def _filter(column: int, architecture: int, pid: int) -> Iterator[_Instruction]:
    yield _LOAD, 0, 0, _ARCHITECTURE
    yield _EQUAL, 1, 0, architecture
    yield _RETURN, 0, 0, _KILL  # a call of another machine has other numbers
    yield _LOAD, 0, 0, _NUMBER
    yield _AT_LEAST, 0, 1, _FIRST_RECENT
    yield _RETURN, 0, 0, _ERROR | errno.ENOSYS
    for number in numbers(_REFUSED, column).values():
        yield _EQUAL, 0, 1, number
        yield _REFUSE
    for name, number in numbers(_CONDITIONAL, column).items():
        rule = _RULES[name](pid)
        yield _EQUAL, 0, len(rule), number
        yield from rule
    yield _ACCEPT


def _unless_bits(index: int, bits: int) -> list[_Instruction]:
    return [_argument(index), (_ANY_BIT, 0, 1, bits), _REFUSE, _ACCEPT]


def _only_with_bits(index: int, bits: int) -> list[_Instruction]:
    return [_argument(index), (_ANY_BIT, 1, 0, bits), _REFUSE, _ACCEPT]


def _only_itself(pid: int) -> list[_Instruction]:
    """What abort(3) needs."""
    return [_argument(0), (_EQUAL, 1, 0, pid), _REFUSE, _ACCEPT]


def _limits_of_itself(_: int) -> list[_Instruction]:
    """Its own limits can be looked at, and of those only that of processor time changed: it is set for each request."""
    return [
        _argument(0),
        (_EQUAL, 0, 6, 0),
        _argument(1),
        (_EQUAL, 5, 0, resource.RLIMIT_CPU),
        _argument(2),
        (_EQUAL, 0, 2, 0),
        _argument(2, upper=True),
        (_EQUAL, 1, 0, 0),
        _REFUSE,
        _ACCEPT,
    ]


_RULES: dict[str, Callable[[int], list[_Instruction]]] = {
    "open": lambda _: _unless_bits(1, _WRITING),
    "openat": lambda _: _unless_bits(2, _WRITING),
    "clone": lambda _: _only_with_bits(0, _THREAD),
    "kill": _only_itself,
    "tgkill": _only_itself,
    "prlimit64": _limits_of_itself,
}
