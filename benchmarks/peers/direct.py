"""No hop: the load speaks plain HTTP to the model server. What it costs is what every other figure contains."""

from __future__ import annotations

from benchmarks.peers.peer import Running, Setting


class Direct:
    name = "direct"
    checks = "nothing: no proxy, no TLS"

    def missing(self) -> str | None:
        return None

    def version(self) -> str:
        return "-"

    def start(self, setting: Setting) -> Running:
        return Running(setting.rest_upstream, setting.grpc_upstream, None, is_tls=False)
