"""The documents that people write: `schema` says what may stand in them, `load` reads them and names every problem at
once, `child` does that in a process of its own. Stations compile what they need from these, once per snapshot.
"""
