"""`meshproxy`, and `python -m meshproxy`: the command line, or the sidecar without it.

What a pod runs, `meshproxy sidecar --config PATH` with or without `--log-level`, becomes the sidecar at once: the
libraries of the command line, and a Python that is started again to be rid of them, are a tenth of a start
(docs/decisions/0041-what-a-start-takes.md). Everything else, what is wrong among it, is the command line's.
"""

from __future__ import annotations

import os
import sys

from meshproxy.first import settle
from meshproxy.log_level import LEVELS, VARIABLE


def main() -> None:
    """Run the command. Raises SystemExit with its exit status."""
    settle()
    path, level = "", os.environ.get(VARIABLE, "info")
    match sys.argv[1:]:
        case ["sidecar", "--config", path]:
            pass
        case ["sidecar", "--config", path, "--log-level", level]:
            pass
    if level in LEVELS and os.access(path, os.R_OK):
        settle(reloads=True)
        from meshproxy.sidecar.__main__ import main as sidecar

        os.environ[VARIABLE] = level
        sys.exit(sidecar([path]))
    from meshproxy.cli.main import main as command_line

    command_line()


if __name__ == "__main__":
    main()
