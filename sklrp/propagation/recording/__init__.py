"""Recording a network whose forward is written by hand; see :mod:`.recorder`."""
