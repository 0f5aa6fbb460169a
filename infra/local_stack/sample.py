"""A real image of a few kilobytes, made with Python alone: its init stays up, and `/bin/hello` says hello.

Programs are written in machine code here, since a clone has no compiler and a download would need a network. Each
is a static ELF file of one segment that makes a few system calls; the comments hold the assembly.
"""

import io
import lzma
import platform
import struct
import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

VERSION: Final = "20260101_0000"
CREATED: Final = 1767225600
"""2026-01-01 00:00 UTC, in seconds: a fixed time gives the same bytes every time."""

GREETING: Final = b"Hello from an image that travelled through S3, SQS, Lambda and CloudFront.\n"

LINUX_NAMES: Final = {"amd64": "x86_64", "arm64": "aarch64"}
_ELF_MACHINES: Final = {"amd64": 62, "arm64": 183}
_LOAD_ADDRESS: Final = 0x400000
_HEADER_BYTES: Final = 64 + 56

SIGINT, SIGTERM, SIGCHLD, SIGPWR = 2, 15, 17, 30
# The signals that init waits for: from its children, and to stop the container (LXD sends SIGPWR).
_SIGNALS: Final = sum(1 << (number - 1) for number in (SIGINT, SIGTERM, SIGCHLD, SIGPWR))


@dataclass(frozen=True, slots=True)
class Jump:
    """An instruction that refers to a label: `opcode` is amd64's byte, or arm64's word without the distance."""

    opcode: int
    label: str


Code = Iterable[bytes | str | Jump]
"""Instructions in order; a string is a label."""


def host_architecture() -> str:
    """Return this machine's architecture as in a key; amd64 if there is no sample for it."""
    return {linux: name for name, linux in LINUX_NAMES.items()}.get(platform.machine(), "amd64")


def sample_files(arch: str) -> dict[str, bytes]:
    """Return the files of the sample's one version by key; metadata comes last, so that the root has to wait for it."""
    lines = [
        f"architecture: {LINUX_NAMES[arch]}",
        f"creation_date: {CREATED}",
        "properties:",
        f"  architecture: {LINUX_NAMES[arch]}",
        "  description: Hello world, an image that only says hello",
        "  os: Hello",
        "  release: world",
        "  variant: default",
    ]
    metadata = tarball({"metadata.yaml": ("\n".join(lines) + "\n").encode()}, folders=())
    folder = f"images/hello/world/{arch}/default/{VERSION}/"
    return {folder + "rootfs.tar.xz": rootfs(arch), folder + "lxd.tar.xz": metadata}


def rootfs(arch: str) -> bytes:
    """Return a root file system that starts, as `rootfs.tar.xz`: the same bytes every time."""
    files = {
        "bin/hello": hello_program(arch),
        "sbin/init": init_program(arch),
        "etc/hostname": b"hello\n",
        "etc/passwd": b"root:x:0:0:root:/root:/bin/hello\n",
        "etc/group": b"root:x:0:\n",
    }
    return tarball(files, folders=("bin", "dev", "etc", "proc", "root", "run", "sbin", "sys", "tmp", "var"))


def tarball(files: Mapping[str, bytes], folders: Iterable[str]) -> bytes:
    """Return a tar.xz of `folders` and of files (path -> content), all owned by root and made at CREATED."""
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name in folders:
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode, entry.mtime = tarfile.DIRTYPE, 0o755, CREATED
            archive.addfile(entry)
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mtime = len(content), CREATED
            entry.mode = 0o755 if content.startswith(b"\x7fELF") else 0o644
            archive.addfile(entry, io.BytesIO(content))
    return lzma.compress(plain.getvalue(), preset=6)


def init_program(arch: str) -> bytes:
    """Return a first process: it waits for signals, reaps children, ends when told to stop."""
    code = _AMD64_INIT if arch == "amd64" else _ARM64_INIT
    jump_bytes = len(_jump(arch, 0, 0))
    places: dict[str, int] = {}
    position = 0
    for part in code:
        if isinstance(part, str):
            places[part] = position
        else:
            position += jump_bytes if isinstance(part, Jump) else len(part)
    out = b""
    for part in code:
        if isinstance(part, Jump):
            out += _jump(arch, part.opcode, places[part.label] - len(out))
        elif isinstance(part, bytes):
            out += part
    return _elf(arch, out)


def _jump(arch: str, opcode: int, distance: int) -> bytes:
    """Return a jump over `distance` bytes from its own start."""
    if arch == "amd64":
        return struct.pack("<Bb", opcode, distance - 2)  # it holds the distance from its own end in one byte
    # A branch holds its distance in words: in 26 bits, or in 19 if it has a condition.
    words = distance // 4
    return _word(opcode | (words & 0x3FFFFFF if opcode == _ALWAYS else (words & 0x7FFFF) << 5))


def hello_program(arch: str) -> bytes:
    """Return a program that prints GREETING."""
    if arch == "amd64":
        after_address = (
            _hex("ba") + struct.pack("<I", len(GREETING))  # mov edx, length
            + _SYSCALL
            + _hex("b83c000000")                         # mov eax, 60          exit(
            + _hex("31ff")                               # xor edi, edi           0)
            + _SYSCALL
        )  # fmt: skip
        return _elf(arch, (
            _hex("b801000000")                           # mov eax, 1           write(
            + _hex("bf01000000")                         # mov edi, 1             standard output,
            + _hex("488d35") + struct.pack("<i", len(after_address))  # lea rsi, [rip + …]  the text, its length)
            + after_address
            + GREETING
        ))  # fmt: skip
    text_after = 6 * 4  # bytes from the adr below to the text behind the code
    return _elf(arch, (
        _movz(8, 64)                                     #                      write(
        + _movz(0, 1)                                    #                        standard output,
        + _word(0x10000001 | (text_after >> 2) << 5)     # adr x1, text           the text,
        + _movz(2, len(GREETING))                        #                        its length)
        + _SVC
        + _movz(8, 93)                                   #                      exit(
        + _movz(0, 0)                                    #                        0)
        + _SVC
        + GREETING
    ))  # fmt: skip


def _elf(arch: str, code: bytes) -> bytes:
    """Return an executable of one readable and executable segment (System V ABI, ELF-64), entered at its code."""
    size = _HEADER_BYTES + len(code)
    identification = b"\x7fELF" + bytes([2, 1, 1]) + bytes(9)  # 64 bits, little endian, version 1
    header = struct.pack(
        "<16sHHIQQQIHHHHHH", identification, 2, _ELF_MACHINES[arch], 1,
        _LOAD_ADDRESS + _HEADER_BYTES, 64, 0, 0, 64, 56, 1, 0, 0, 0,
    )  # fmt: skip
    # Aligned for kernels with pages of 64 KiB, which arm64 has.
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, _LOAD_ADDRESS, _LOAD_ADDRESS, size, size, 0x10000)
    return header + segment + code


def _hex(text: str) -> bytes:
    return bytes.fromhex(text)


_SYSCALL: Final = _hex("0f05")
_AMD64_INIT: Final[Code] = (
    _hex("4883ec10"),                                    # sub rsp, 16
    _hex("48b8") + struct.pack("<Q", _SIGNALS),          # mov rax, the set of signals
    _hex("48890424"),                                    # mov [rsp], rax
    _hex("b80e000000"),                                  # mov eax, 14          rt_sigprocmask(
    _hex("31ff"),                                        # xor edi, edi           SIG_BLOCK,
    _hex("4889e6"),                                      # mov rsi, rsp           the set,
    _hex("31d2"),                                        # xor edx, edx           no old set,
    _hex("41ba08000000"),                                # mov r10d, 8            8 bytes)
    _SYSCALL,
    "wait",
    _hex("b880000000"),                                  # mov eax, 128         rt_sigtimedwait(
    _hex("4889e7"),                                      # mov rdi, rsp           the set,
    _hex("31f6"),                                        # xor esi, esi           no details,
    _hex("31d2"),                                        # xor edx, edx           for ever,
    _hex("41ba08000000"),                                # mov r10d, 8            8 bytes)
    _SYSCALL,
    _hex("83f811"),                                      # cmp eax, SIGCHLD
    Jump(0x74, "reap"),                                  # je reap
    _hex("85c0"),                                        # test eax, eax
    Jump(0x78, "wait"),                                  # js wait              interrupted
    _hex("b8e7000000"),                                  # mov eax, 231         exit_group(
    _hex("31ff"),                                        # xor edi, edi           0)
    _SYSCALL,
    "reap",
    _hex("b83d000000"),                                  # mov eax, 61          wait4(
    _hex("48c7c7ffffffff"),                              # mov rdi, -1            any child,
    _hex("31f6"),                                        # xor esi, esi           no status,
    _hex("ba01000000"),                                  # mov edx, WNOHANG
    _hex("4531d2"),                                      # xor r10d, r10d         no usage)
    _SYSCALL,
    _hex("85c0"),                                        # test eax, eax
    Jump(0x7F, "reap"),                                  # jg reap              one more may wait
    Jump(0xEB, "wait"),                                  # jmp wait
)  # fmt: skip


def _word(value: int) -> bytes:
    return struct.pack("<I", value)


def _movz(register: int, value: int) -> bytes:
    return _word(0xD2800000 | value << 5 | register)


_SVC: Final = _word(0xD4000001)
_EQUAL, _NEGATIVE, _GREATER, _ALWAYS = 0x54000000, 0x54000004, 0x5400000C, 0x14000000
_ARM64_INIT: Final[Code] = (
    _word(0xD10043FF),                                   # sub sp, sp, #16
    _movz(9, _SIGNALS & 0xFFFF),                         # mov x9, the set of signals
    _word(0xF2A00009 | _SIGNALS >> 16 << 5),             # movk x9, its upper half, lsl 16
    _word(0xF90003E9),                                   # str x9, [sp]
    _movz(8, 135),                                       #                      rt_sigprocmask(
    _movz(0, 0),                                         #                        SIG_BLOCK,
    _word(0x910003E1),                                   # mov x1, sp             the set,
    _movz(2, 0),                                         #                        no old set,
    _movz(3, 8),                                         #                        8 bytes)
    _SVC,
    "wait",
    _movz(8, 137),                                       #                      rt_sigtimedwait(
    _word(0x910003E0),                                   # mov x0, sp             the set,
    _movz(1, 0),                                         #                        no details,
    _movz(2, 0),                                         #                        for ever,
    _movz(3, 8),                                         #                        8 bytes)
    _SVC,
    _word(0x7100441F),                                   # cmp w0, #17          SIGCHLD
    Jump(_EQUAL, "reap"),                                # b.eq reap
    _word(0x7100001F),                                   # cmp w0, #0
    Jump(_NEGATIVE, "wait"),                             # b.mi wait            interrupted
    _movz(8, 94),                                        #                      exit_group(
    _movz(0, 0),                                         #                        0)
    _SVC,
    "reap",
    _movz(8, 260),                                       #                      wait4(
    _word(0x92800000),                                   # movn x0, #0            any child,
    _movz(1, 0),                                         #                        no status,
    _movz(2, 1),                                         #                        WNOHANG,
    _movz(3, 0),                                         #                        no usage)
    _SVC,
    _word(0x7100001F),                                   # cmp w0, #0
    Jump(_GREATER, "reap"),                              # b.gt reap            one more may wait
    Jump(_ALWAYS, "wait"),                               # b wait
)  # fmt: skip
