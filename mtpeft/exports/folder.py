"""A folder that is there whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mtpeft.errors import ConfigError, MtpeftError

#: the file by which a folder is known to be an export
EXPORT = "export.json"


@contextmanager
def new_folder(path: str | os.PathLike[str], force: bool = False) -> Iterator[Path]:
    """A temporary folder beside `path`, which takes its place when the block ends without an error.

    `force` replaces an earlier export. Raises `ConfigError` for a place that is taken, `MtpeftError` where nothing can be
    written.
    """
    target = Path(os.path.abspath(path))
    _check(target, force)
    made: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
        yield made
        _open_to_others(made)
        _replace(made, target)
    except OSError as error:
        raise MtpeftError(
            f"cannot write {path}: {error.strerror or error}; what was there before is unchanged"
        ) from error
    finally:
        if made is not None:
            shutil.rmtree(made, ignore_errors=True)


def _check(target: Path, force: bool) -> None:
    if not target.exists():
        return
    if not target.is_dir():
        raise ConfigError(f"{target} is a file; give a folder that is empty or not there yet")
    if not any(target.iterdir()):
        return
    if not force:
        raise ConfigError(f"{target} is not empty; give another folder, or --force to replace an earlier export")
    if not (target / EXPORT).is_file():
        raise ConfigError(f"{target} is no export (it has no {EXPORT}), so it is not replaced; give another folder")


def _open_to_others(made: Path) -> None:
    """Give the folder and its files the rights of new ones: temporary folders and safetensors are for their owner alone."""
    umask = os.umask(0)
    os.umask(umask)
    os.chmod(made, 0o777 & ~umask)
    for file in made.iterdir():
        os.chmod(file, 0o666 & ~umask)


def _replace(made: Path, target: Path) -> None:
    """Put `made` in the place of `target`."""
    if not target.exists() or not any(target.iterdir()):
        os.replace(made, target)  # over an empty folder too
        return
    old = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    os.replace(target, old)
    try:
        os.replace(made, target)
    except OSError:
        os.replace(old, target)
        raise
    shutil.rmtree(old, ignore_errors=True)
