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
from meshproxy.sidecar.app import run_sidecar, run_worker
from meshproxy.sidecar.worker import OPTION, WorkersFailed, WorkerSlot
from meshproxy.telemetry.process_log import open_process_log

FAILURE = 1
FINDINGS = 3

logger = logging.getLogger("meshproxy.sidecar")


def main(arguments: list[str]) -> int:
    """Run until stopped by a signal. Returns the exit status: 0, 1 if it could not run, 3 if the documents have
    problems."""
    level = getattr(logging, os.environ.get("MESHPROXY_LOG_LEVEL", "INFO").upper(), logging.INFO)
    try:
        if arguments and arguments[0].startswith(OPTION):
            slot = WorkerSlot.read(arguments[0])
            open_process_log(level, worker=slot.number)
            uvloop.run(run_worker(arguments[1:], slot))
        else:
            open_process_log(level)
            uvloop.run(run_sidecar(arguments))
    except ConfigError as error:
        problems = [str(problem) for problem in error.problems]
        logger.error("configuration rejected; not starting", extra={"fields": {"problems": problems}})
        return FINDINGS
    except CertificateError as error:
        logger.error("certificate rejected; not starting", extra={"fields": {"problem": str(error)}})
        return FAILURE
    except WorkersFailed as error:
        logger.error("stopped: %s", error)
        return FAILURE
    except OSError as error:
        logger.error("cannot listen, or cannot open a file: %s", error)
        return FAILURE
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
