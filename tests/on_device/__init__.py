"""What is run on the simulated device, in a process of its own that `test_devices.py` starts.

The device is registered for a whole process, so pytest does not collect these files by itself.
By hand, with float64 on the device, or without as on Apple's MPS:

    SIMULATED_DEVICE=float64 python -m pytest tests/on_device/own_networks.py
    SIMULATED_DEVICE=float32 python -m pytest tests/on_device/own_networks.py
"""
