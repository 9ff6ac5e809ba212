"""Exchanges as the proxy leaves them behind."""

from __future__ import annotations

from collections.abc import Callable
from types import EllipsisType

import pytest

from meshproxy.codec.events import RequestHead
from meshproxy.identity.caller import Caller, Token, Workload
from meshproxy.inference.call import Call, ModelRef, Verb
from meshproxy.proxy.exchange import AttemptRecord, Exchange, TraceContext
from meshproxy.transport.connection_info import ConnectionInfo

MakeExchange = Callable[..., Exchange]


@pytest.fixture
def make_exchange() -> MakeExchange:
    """See `exchange_maker`."""
    return exchange_maker()


def exchange_maker() -> MakeExchange:
    """A permitted predict over gRPC that took 3 ms; what is given by name is set on it."""

    def make(
        *,
        model: str = "half_plus_two",
        version: str | None = None,
        label: str | None = None,
        verb: Verb = Verb.PREDICT,
        direction: str = "inbound",
        protocol: str = "HTTP/2",
        target: bytes = b"/tensorflow.serving.PredictionService/Predict",
        headers: tuple[tuple[bytes, bytes], ...] = ((b"user-agent", b"grpc-python/1.85.1"),),
        remote: str = "10.0.0.1:40000",
        server_name: str = "",
        call: Call | EllipsisType | None = ...,
        **fields: object,
    ) -> Exchange:
        info = ConnectionInfo(
            direction=direction,
            protocol=protocol,
            remote=remote,
            local="10.0.0.2:18500",
            server_name=server_name,
            tls_version="TLSv1.3",
        )
        exchange = Exchange(RequestHead(1, b"POST", b"models:18500", target, headers, False), info, 1_000.0)
        exchange.is_grpc = True
        exchange.caller = Caller(
            Workload("spiffe://dev.example/ns/pricing/sa/quoter", "dev.example", "pricing", "quoter", 2e9),
            Token("corp", "alice", {}, 2e9),
        )
        if call is ...:
            call = Call(verb, (ModelRef(model, version, label, "serving_default"),))
        exchange.asked = exchange.forwarded = call
        exchange.rule = "finance-team"
        exchange.trace = TraceContext(b"4bf92f3577b34da6a3ce929d0e0e4736", b"", b"53995c3f42cd8ad8", False)
        exchange.upstream = "127.0.0.1:8500"
        exchange.attempts = (
            AttemptRecord("127.0.0.1:8500", 1_000.0003, 1_000.0005, 1_000.0025, 1_000.0029, None, False),
        )
        exchange.status = 200
        exchange.grpc_status = 0
        exchange.bytes_received = 60
        exchange.bytes_sent = 300
        exchange.decided = 1_000.000_25
        exchange.connected = 1_000.000_5
        exchange.first_byte = 1_000.002_5
        exchange.finished = 1_000.003
        for name, value in fields.items():
            setattr(exchange, name, value)
        return exchange

    return make
