"""HTTP/2 (RFC 9113, RFC 7541). Pure: bytes and commands in, events and bytes out.

From the wire inwards: `frames` lays them out, `huffman` and `hpack` read header blocks, `fields` knows what each field
is, `heads` which ones a message may have, `encoder` writes blocks. `stream` is the state of one stream and the memory
of closed ones, `budgets` the limits against floods. `outbound`, `control` and `connection` are the connection in
three layers: what we send, the frames that keep order, the frames that carry messages.
"""
