"""Documents of other meshes -> ours: what `meshproxy import` writes. Pure.

Nothing gets lost silently: a field that no translation has read is a note by itself (`source.Source.finish`). Nothing
is widened silently: a rule about access that cannot be expressed exactly is left out, or narrowed, with a note.
"""
