"""The peers of a sidecar in the demo and the tests: a model server, a token issuer, a certificate authority, clients, a
load generator. A sidecar never loads any of it.

Who uses them starts processes while calls of grpcio run. grpcio (1.85.3) takes part in every fork, even if another
program is executed at once: now and then it went on in the child, on the sockets of the parent, whose calls then failed
(`FRAME_SIZE_ERROR`, INTERNAL). It is told not to, before anything loads it.
"""

import os

os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")
