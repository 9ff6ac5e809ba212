"""What a sidecar's process does from its arguments to its exit status."""

from __future__ import annotations

import logging
import os
import resource
from typing import TYPE_CHECKING

import uvloop

from meshproxy.config.problems import ConfigError
from meshproxy.identity.certificates import CertificateError
from meshproxy.log_level import VARIABLE
from meshproxy.sidecar.app import run_sidecar, run_worker
from meshproxy.sidecar.worker import WorkersFailed, WorkerSlot
from meshproxy.telemetry.process_log import open_process_log

if TYPE_CHECKING:
    from meshproxy.config.child import OwnLoad

FAILURE = 1
FINDINGS = 3
FEWEST_FILES = 64
"""The lowest limit of open files that a sidecar starts with: half of them are its own (`clusters.OWN_DESCRIPTORS`), and
21 connections of clients with 10 to the model server are the other half."""

logger = logging.getLogger("meshproxy.sidecar")


def run(arguments: list[str], documents: OwnLoad | None) -> int:
    """Run until stopped by a signal; a worker without `documents`, whose supervisor has them. Returns the exit
    status."""
    level = getattr(logging, os.environ.get(VARIABLE, "info").upper(), logging.INFO)
    try:
        if documents is None:
            slot = WorkerSlot.read(arguments[0])
            open_process_log(level, worker=slot.number)
            uvloop.run(run_worker(arguments[1:], slot))
        else:
            open_process_log(level)
            limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
            if 0 <= limit < FEWEST_FILES:  # -1: none
                logger.error(
                    "not starting: the limit of open files (RLIMIT_NOFILE, ulimit -n) is %d, and each connection needs "
                    "one or two: raise it to %d at least, and to 1024 or more for traffic",
                    *(limit, FEWEST_FILES),
                )
                return FAILURE
            uvloop.run(run_sidecar(arguments, documents.result(), documents.watch))
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
