"""Tests, and the figures that the documentation prints.

Run by ``python -m pytest``; what tests share is in ``tests.helpers``.
"""
