"""Bytes <-> events: both versions of HTTP, in both roles, in one vocabulary (`events`) under one set of `limits`.

Pure: no event loop, no clock, no configuration. What a peer sends never raises, it is an event.
"""
