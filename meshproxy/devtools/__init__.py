"""The peers of a sidecar in the demo and the tests: a model server, a token issuer, a certificate authority, clients, a
load generator. A sidecar never loads any of it.
"""
