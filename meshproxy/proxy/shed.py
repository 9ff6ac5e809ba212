"""The response to requests that there is no time to look at (`transport.overload`)."""

from __future__ import annotations

from meshproxy.proxy.client_side import grpc_headers, rest_headers
from meshproxy.refusal import Reason, Refusal

_REFUSAL = Refusal(Reason.OVERLOADED, "The sidecar is overloaded: retry later, elsewhere if you can.", retry_after=1)
SHED_GRPC = grpc_headers(_REFUSAL)
"""The head that is all of the response to a gRPC call."""
SHED_REST = rest_headers(_REFUSAL)[1:]
"""The same for other requests. Without a body, and so without a content type."""
