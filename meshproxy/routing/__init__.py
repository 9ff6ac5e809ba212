"""Routing: the server, version and conditions of an authorized call."""
