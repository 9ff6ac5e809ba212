# Names that vulture takes for unused: one a line, with what uses it. A name that nothing uses is deleted, not listed.
# ruff: noqa

# Called by a library.
_.pause_writing  # asyncio.Protocol
_.resume_writing  # asyncio.Protocol
_.get_buffer  # asyncio.BufferedProtocol
sizehint  # the argument of get_buffer
_.buffer_updated  # asyncio.BufferedProtocol
_.datagram_received  # asyncio.DatagramProtocol
_.error_received  # asyncio.DatagramProtocol
dev  # click command

# Read by a library.
_.num_tickets  # ssl.SSLContext
_.PyJWKClient  # jwt, when it imports its submodule
_.map_entry  # protobuf descriptors
_.oneof_index  # protobuf descriptors
_.type_name  # protobuf descriptors
api_version  # msgspec: a field of every document
annotations  # msgspec: Kubernetes metadata that we accept and do not read
enabled  # msgspec: read from the settings as a dict

# Members of enumerations that are used as a whole.
DONE  # State of codec/h1 is unpacked in one line
TLS  # Security(mtls) finds it by value
_.SETTINGS_TIMEOUT  # RFC 9113 section 7
_.CONNECT_ERROR  # RFC 9113 section 7
_.INADEQUATE_SECURITY  # RFC 9113 section 7
_.PRIORITY  # RFC 9113 section 6
_.PUSH_PROMISE  # RFC 9113 section 6

# Read by tests only, to see what cannot be seen otherwise.
RESULTS  # proxy/mirror: every result has its metric
max_difference  # inference/answers: how far two answers are apart
intermediate  # devtools/ca: certificates below an intermediate authority

# Dead, and about to be deleted with the work on its folder. Each line goes with it.
IDENTITY  # codec/grpc
_.open_streams  # codec/h2/outbound
_.resets_received  # codec/h2/budgets.Statistics, as the next four: counted and read by nothing
_.resets_sent
_.streams_refused
_.heads_malformed
_.heads_rejected
_.hits  # identity/tokens
_.misses  # identity/tokens
_.complete  # inference/tfserving_grpc
DRAINING  # refusal
has_sent  # transport/connector
_.last_failure  # upstream/breaker
StoreDiscovery  # upstream/slices
_.__context__  # proxy/client_side, as the next one: cleared, so that no reference circle is left
_.__traceback__
