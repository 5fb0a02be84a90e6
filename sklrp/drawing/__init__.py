"""Pictures of relevance: the displays, and the picture of a map that all of them draw.

`sklrp.plotting` makes the displays public. The displays of findings are in `sklrp.diagnostics`.
"""
