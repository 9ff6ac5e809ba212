"""How a model server that ignores SIGTERM ends: its `preStop` hook.

TensorFlow Serving does in its image, where the first process is a shell that forwards no signals, and it does not
drain. A native sidecar is stopped after it. So the hook waits for the endpoint to be removed from the Service, lets the
sidecar drain, waits until that is done, and ends the model server. Without it the pod hangs until it is killed. So does
one whose model server is the first process itself: nothing in the container can end that one.
"""

from __future__ import annotations

import math
from typing import Any

from meshproxy.injection.settings import ADMIN

BEFORE = 5
"""Seconds until every client has heard that the endpoint is gone."""
AFTER = 10
"""Seconds for the model server to end, and what is between."""


def drain_hook(drain_timeout: float) -> dict[str, Any]:
    """The value of `lifecycle.preStop`. It takes bash, and nothing else of the image."""
    # By the clock of bash: on a busy machine each turn takes longer than its pause, and the grace period would be over.
    end = BEFORE + math.ceil(drain_timeout) + BEFORE
    script = f"""\
sleep {BEFORE}
if exec 3<>/dev/tcp/127.0.0.1/{ADMIN}; then
  printf 'POST /drain HTTP/1.1\\r\\nhost: localhost\\r\\ncontent-length: 0\\r\\n\\r\\n' >&3
  while ((SECONDS < {end})) && (exec 4<>/dev/tcp/127.0.0.1/{ADMIN}) 2>/dev/null; do sleep 0.1; done
fi
[[ -z $(</proc/1/task/1/children) ]] || kill $(</proc/1/task/1/children)
"""
    return {"exec": {"command": ["/bin/bash", "-c", script]}}


def grace_period(drain_timeout: float) -> int:
    """Seconds that the pod must have for its end (`terminationGracePeriodSeconds`)."""
    return BEFORE + math.ceil(drain_timeout) + AFTER
