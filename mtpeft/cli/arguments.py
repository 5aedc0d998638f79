"""What the files of the command line share."""

from __future__ import annotations

import argparse
import os
from typing import Any, TypeAlias

from mtpeft.errors import ConfigError

#: the help of --trust-imports
TRUST = "execute the modules that the run's recipe imports (key imports)"
#: where a file of commands adds its parsers
Commands: TypeAlias = "argparse._SubParsersAction[Any]"


def one_process(what: str) -> None:
    """Raise `ConfigError` where torchrun started several processes for `what` one alone can do."""
    if (number := int(os.environ.get("WORLD_SIZE", "1"))) > 1:
        raise ConfigError(f"{what} is one process's work, torchrun started {number}: run the command without torchrun")
