"""The load generator: open loop (a schedule kept by the clock) and closed loop, REST and gRPC, over mTLS.

`frames` and `rest`/`grpc` speak the protocols, `schedule` sets the times, `generator` drives one against the other, and
`figures` computes the results. `meshproxy bench` points it at a user's own deployment, `benchmarks/` at the peers.
"""
