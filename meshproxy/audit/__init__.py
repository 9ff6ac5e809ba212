"""The audit trail as a text: the format of its lines, their chain, and what is read out of them. Pure: no files, no
clock.

What writes it is `telemetry.audit`; the commands are `cli.audit`.
"""
