"""The page of the mesh on the web port of the control plane: who calls which model, and how it is.

A route (`routes.py`, one table) is guarded (`guard.py`): a client on this host, or a session that a login began
(`login.py`), and the permission that the route needs. What a session may see is cut out of the mesh (`visible.py`)
before a page, an answer of the API or an event is made of it. It only reads: nothing in the mesh is changed here.
"""
