"""Start the simulated device where the environment asks for it, and nowhere else."""

import os

from tests.helpers import simulated_device

if os.environ.get(simulated_device.VARIABLE) in simulated_device.WAYS:
    simulated_device.start(simulated_device.build())
