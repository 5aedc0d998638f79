"""What the files of the command line share."""

from __future__ import annotations

import argparse
from typing import Any, TypeAlias

#: the help of --trust-imports
TRUST = "execute the modules that the run's recipe imports (key imports)"
#: where a file of commands adds its parsers
Commands: TypeAlias = "argparse._SubParsersAction[Any]"
