"""Events <-> sockets: the only asyncio below the proxy.

A `listener` accepts connections, a `connector` opens them; both put a driver on the socket (`h1_server`, `h1_client`,
`h2_server`, `h2_client`). A driver feeds the received bytes to its codec and passes each event to the sink of the
`stream` it belongs to; commands on a stream go the other way. `outbox` writes the output once per batch, `reaper`
enforces time limits.
"""
