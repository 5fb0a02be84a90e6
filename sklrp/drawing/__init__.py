"""Pictures of relevance: the panels that the displays are made of. See `sklrp.plotting`."""
