"""A folder that one process writes to at a time.

The lock is the operating system's, on an empty file (`fcntl`): it goes with the process that holds it, however that ends,
and a process forked for reading data does not have it. Where there is no fcntl (Windows), nothing is locked.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from mtpeft.errors import ConfigError, MtpeftError

try:
    import fcntl
except ImportError:  # not a POSIX system
    fcntl = None  # type: ignore[assignment]

#: in a run folder, held by the process that trains
TRAINING = "checkpoints/lock"
#: seconds to wait: a process that was killed, or its workers, may take a moment to go
PATIENCE = 20.0


class Lock:
    """A lock held from the constructor to `release`, or to the end of the process."""

    def __init__(self, file: Path, what: str) -> None:
        """Raises `ConfigError` when another process still holds it after `PATIENCE` seconds; `what` is meant in messages."""
        self._handle: int | None = None
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            self._handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise MtpeftError(f"cannot write {file}: {error.strerror or error}") from None
        until = time.monotonic() + PATIENCE
        while not self._taken():
            if time.monotonic() > until:
                self.release()
                raise ConfigError(f"{what} is being written by another process; wait for it, or give another --out")
            time.sleep(0.2)

    def _taken(self) -> bool:
        if fcntl is None:
            return True
        assert self._handle is not None
        try:
            fcntl.lockf(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True

    def release(self) -> None:
        """Give it back."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def __del__(self) -> None:
        self.release()


def locked(file: Path) -> bool:
    """Whether another process holds the lock. The caller's own does not count, and is lost by asking."""
    if fcntl is None:
        return False
    try:
        with open(file, "rb") as stream:
            fcntl.lockf(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False
