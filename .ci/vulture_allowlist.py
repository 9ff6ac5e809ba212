# Names that vulture takes for unused: one a line, with what uses it. A name that nothing uses is deleted, not listed.
# ruff: noqa

# Called or read by a library.
_.get_buffer  # asyncio.BufferedProtocol
sizehint  # the argument of get_buffer
_.buffer_updated  # asyncio.BufferedProtocol
_.datagram_received  # asyncio.DatagramProtocol
traceback  # the third argument of __aexit__
dev  # click command
print_crds  # click command
_.unraisablehook  # sys
_.mtime  # tarfile.TarInfo
_.num_tickets  # ssl.SSLContext
_.ignore_aliases  # yaml.Dumper
_.map_entry  # protobuf descriptors
_.oneof_index  # protobuf descriptors
_.type_name  # protobuf descriptors
api_version  # msgspec: a field of every document
annotations  # msgspec: Kubernetes metadata that we accept and do not read

# Read by name.
change_count  # audit/review.html
spec_bytes  # inference/body_scan: BodyKind.limit names it
config_bytes  # inference/body_scan: BodyKind.limit names it

# Members of enumerations that are used as a whole.
LINGERING  # ServerState of transport/h1_server is unpacked in one line
_.SETTINGS_TIMEOUT  # RFC 9113 section 7
_.CONNECT_ERROR  # RFC 9113 section 7
_.INADEQUATE_SECURITY  # RFC 9113 section 7
_.PRIORITY  # RFC 9113 section 6
_.PUSH_PROMISE  # RFC 9113 section 6

# Read by tests only, to see what cannot be seen otherwise.
RESULTS  # proxy/mirror: every result has its metric
max_difference  # inference/answers: how far two answers are apart

_.__context__  # proxy/client_side, as the next one: cleared, so that no reference circle is left
_.__traceback__
_.is_idempotent  # inference/call: config, which lies below, has the same verbs as words; a test compares them
EITHER  # transport/listener: made from the word of the document
ABORT  # rollout/steps.Command: made from the word of the command
DUE  # transport/h2.Departure, as the next two: the members are unpacked into globals
ANNOUNCED
FINAL

# Members of JSON that pages and scripts read: view/graph.py.
unused_models
unused_bindings
open_callers
allowed_by
denied_by
refused_by
model_seconds
network_seconds

# Fields of ModelRollout: config/rollouts.py.
threshold_range
max_increase
false_alarm
min_calls
step_windows
automatic
secret_file
analysis
rollback
progress_deadline
paused

# The fleet as the controller of rollouts sees it: rollout/link.py.
Fleet
_.collect
_.publish
_.sidecars

# html.parser.HTMLParser calls them.
handle_starttag
handle_endtag
handle_data
