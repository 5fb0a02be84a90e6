"""The version of the package.

The build reads it, and `save` notes it in its files.
"""

__version__ = "0.1.0"
