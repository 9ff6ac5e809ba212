"""`python -m meshproxy.sidecar PATH...`: the sidecar without the command line's libraries in its memory.

`meshproxy sidecar` checks its options and becomes this process.
"""

from __future__ import annotations

import logging
import os
import sys

import uvloop

from meshproxy.config.problems import ConfigError
from meshproxy.identity.certificates import CertificateError
from meshproxy.sidecar.app import run_sidecar
from meshproxy.sidecar.journal import open_journal

FAILURE = 1
FINDINGS = 3

logger = logging.getLogger("meshproxy.sidecar")


def main(paths: list[str]) -> int:
    """Run until told to stop. Returns the exit status: 0, 1 if it could not run, 3 if the documents have problems."""
    open_journal(getattr(logging, os.environ.get("MESHPROXY_LOG_LEVEL", "INFO").upper(), logging.INFO))
    try:
        uvloop.run(run_sidecar(paths))
    except ConfigError as error:
        problems = [str(problem) for problem in error.problems]
        logger.error("the documents have problems: nothing was started", extra={"fields": {"problems": problems}})
        return FINDINGS
    except CertificateError as error:
        logger.error("the identity cannot be used: nothing was started", extra={"fields": {"problem": str(error)}})
        return FAILURE
    except OSError as error:
        logger.error("cannot listen or open a file: %s", error)
        return FAILURE
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
