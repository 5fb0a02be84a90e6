"""Recording a network whose forward is written by hand: `sklrp.propagation.planning` asks for it.

:mod:`.recorder` runs the network; the other files know what it meets, each one kind of thing.
"""
