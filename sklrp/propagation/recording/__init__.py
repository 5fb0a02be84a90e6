"""Recording a network whose forward is written by hand, for :mod:`sklrp.propagation.compilation`.

:mod:`.recorder` runs the network; the other files know what it meets, each one kind of thing.
"""
