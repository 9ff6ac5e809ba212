"""Telemetry of completed exchanges: `observer` passes each to the metrics (`request_metrics`), the access log and the
audit log. `metric_table` declares every metric. `trace` propagates the trace context while a request is in flight.
"""
