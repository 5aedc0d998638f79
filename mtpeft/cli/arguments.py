"""What the files of the command line share."""

from __future__ import annotations

import argparse
from typing import Any, TypeAlias

#: where a file of commands adds its parsers
Commands: TypeAlias = "argparse._SubParsersAction[Any]"
