"""TensorBoard's event files: scalars, written without TensorBoard or torch.

A file is a row of records, each an `Event` message of protocol buffers. Why this is not left to a library:
docs/decisions/0044.
"""

from __future__ import annotations

import platform
import struct
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

VERSION = b"brain.Event:2"
CASTAGNOLI = 0x82F63B78  # the polynomial of CRC-32C, its bits reversed


class EventFile:
    """Scalars by step, in a new file of the folder; what stood there of an earlier try goes.

    Args:
        folder: of one run; TensorBoard reads all files in it as one.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for earlier in folder.glob("events.out.tfevents.*"):
            earlier.unlink()
        name = f"events.out.tfevents.{int(time.time()):010d}.{platform.node()}"
        self._file = (folder / name).open("wb")
        self._write(_bytes(3, VERSION))

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Adds the figures of a step, by their names; they are in the file when this returns."""
        values = (_bytes(1, name.encode()) + _float(2, value) for name, value in figures.items())
        self._write(_integer(2, step) + _bytes(5, b"".join(_bytes(1, value) for value in values)))

    def _write(self, fields: bytes) -> None:
        event = _double(1, time.time()) + fields
        length = struct.pack("<Q", len(event))
        self._file.write(length + _checksum(length) + event + _checksum(event))
        self._file.flush()

    def __enter__(self) -> EventFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self._file.close()


# --------------------------------------------------------------------------- protocol buffers


def _varint(value: int) -> bytes:
    """Seven bits a byte, the lowest first; the eighth says that more follow."""
    written = bytearray()
    while value > 0x7F:
        written.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*written, value])


def _integer(number: int, value: int) -> bytes:
    return _varint(number << 3) + _varint(value)


def _double(number: int, value: float) -> bytes:
    return _varint(number << 3 | 1) + struct.pack("<d", value)


def _bytes(number: int, value: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _float(number: int, value: float) -> bytes:
    return _varint(number << 3 | 5) + struct.pack("<f", value)


# --------------------------------------------------------------------------- checksums of records


def _divided(byte: int) -> int:
    for _ in range(8):
        byte = byte >> 1 ^ (CASTAGNOLI if byte & 1 else 0)
    return byte


_TABLE = tuple(_divided(byte) for byte in range(256))


def crc32c(data: bytes) -> int:
    """The checksum of iSCSI, TFRecord and others (RFC 3720)."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def _checksum(data: bytes) -> bytes:
    """Masked, as records have it: a checksum of data that holds checksums is a weak one."""
    crc = crc32c(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)
