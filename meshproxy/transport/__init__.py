"""Events <-> sockets: the only asyncio under the proxy.

A `listener` accepts connections and shakes hands, a `connector` opens them; either puts a driver (`h1`, `h2`) on the
socket. A driver feeds bytes to its codec and hands each event to the `Sink` of the stream it belongs to; commands on a
`Stream` go the other way. `outbox` writes what they leave behind once per batch, `reaper` ends what waits too long.
"""
