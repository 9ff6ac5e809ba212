"""What stands around a sidecar in the demo and the tests, real enough to be its peers: a model server, a token issuer,
a certificate authority, clients, a load generator. A sidecar never loads any of it.
"""
