"""The configuration documents: `schema` defines their fields, `load` reads them and reports every problem at
once, `child` does that in a separate process. Stations compile what they need from these, once per snapshot.
"""
