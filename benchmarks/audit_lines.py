"""What the audit trail costs: `python -m benchmarks.audit_lines`.

CPU time of this process, the least of several rounds. A line of a permitted call: on the way of the request (format it,
and leave it in the queue), and in the thread that writes it (number, hash, one write for many). And how many lines a
second `meshproxy audit verify` reads.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from benchmarks.log_lines import make_exchange, make_refused
from meshproxy.audit.verify import Verifier
from meshproxy.telemetry.audit import AuditLog
from meshproxy.telemetry.audit_sink import AuditFile
from meshproxy.telemetry.audit_writer import AuditWriter
from meshproxy.telemetry.log_encoding import UtcClock
from meshproxy.telemetry.sidecar_metrics import SidecarMetrics

ROUNDS = 15
CALLS = 4_000
"""Of one round: fewer than the queue holds."""
LINES = 200_000


def main() -> None:
    """Measure and print."""
    ordinary = [make_exchange(number) for number in range(64)]
    refused = [make_refused(number) for number in range(64)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "audit.jsonl"
        file = AuditFile(path, fsync="never")
        writer = AuditWriter(file, "benchmark", file=file)
        log = AuditLog(writer.write, UtcClock(1.7e9), SidecarMetrics().audit_events, allowed=1.0)
        ridden = log.repeat(ordinary[0])
        assert ridden is not None
        print(f"{'microseconds a line':28}{'request':>10}{'thread':>10}{'sum':>10}")
        for name, observe, exchanges in (
            ("allowed", log, ordinary),
            ("allowed, express lane", ridden, ordinary),
            ("denied", log, refused),
        ):
            spent = []
            for _ in range(ROUNDS):
                began = time.process_time()
                for number in range(CALLS):
                    observe(exchanges[number & 63])
                queued = time.process_time()
                writer.write_waiting()
                spent.append(((queued - began) / CALLS * 1e6, (time.process_time() - queued) / CALLS * 1e6))
            request, thread = min(each[0] for each in spent), min(each[1] for each in spent)
            print(f"{name:28}{request:10.2f}{thread:10.2f}{request + thread:10.2f}")
        while len(path.read_bytes()) < LINES * 900:
            for number in range(CALLS):
                log(ordinary[number & 63])
            writer.write_waiting()
        assert writer.dropped == 0
        rates = []
        for _ in range(3):
            verifier = Verifier()
            began = time.process_time()
            with path.open("rb", buffering=1 << 20) as lines:
                verifier.read("audit.jsonl", lines)
            verifier.finish()
            (chain,) = verifier.chains.values()
            rates.append(chain.lines / (time.process_time() - began))
            assert not verifier.problem_count
        print(f"verify: {max(rates):,.0f} lines a second, of {path.stat().st_size / chain.lines:.0f} bytes")
        writer.close()


if __name__ == "__main__":
    main()
