"""The express lane: a slow path decides, a fast path repeats.

A client repeats itself: the heads of its requests differ in a few values only. Once the ordinary way (`pipeline`) has
carried two such requests of a connection well, a *plan* is made of the second: what was decided, and the bytes that are
written, cut where they differ. The next one that has the same *shape*, came whole and finds an idle connection to the
model server is a *ride*: it is sent by one function (`Lane.carry`), answered by another (`Ride.answered`), and recorded
as any other exchange.

    shape    heads, split into constant parts and the values of slots. Pure
    plan     what was decided about requests of one shape, and about answers of one shape. Pure
    carried  what a request in flight is made of, over either HTTP version
    ride     a request in flight: an `Exchange`, and what to do when its answer comes
    lane     the lane of one client connection: makes plans, and begins rides

That is REST over HTTP/1.1. `call_plan`, `call_ride` and `call_lane` are the same for gRPC; they begin above the codecs,
which know the shapes of heads (`codec.h2.shape`).

Whatever a plan does not foresee leaves the lane. Before anything was sent, the ordinary way begins with the bytes as
they came. After that the ride *unfolds* (`ActiveRequest.unfold`): it becomes the ordinary request in the state that it
would have by then, and whatever happened happens to that.

What may change from one request to the next is asked again for each: the time limits of certificate and token, whether
the token's key was withdrawn, breakers and health of the endpoint. All else that was decided stands as long as the
snapshot, the tracer and the connection that it was decided for.
"""
