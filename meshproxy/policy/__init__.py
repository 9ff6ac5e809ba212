"""Authorization: roles and bindings, compiled once into look-ups (`compile`, `rules`) that permit a call or raise a
`Refusal` (`decide`); and the reasons for people (`explain`).
"""
