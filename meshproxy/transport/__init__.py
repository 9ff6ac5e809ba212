"""Events <-> sockets: the only asyncio below the proxy.

A `listener` accepts connections, a `connector` opens them; both put a driver (`h1`, `h2`, `h2_client`) on the socket.
A driver feeds the received bytes to its codec and passes each event to the sink of the `stream` it belongs to; commands
on a stream go the other way. `outbox` writes the output once per batch, `reaper` enforces time limits.
"""
