"""Folders that tests read."""

from pathlib import Path

SUPPORT = Path(__file__).parent
TESTS = SUPPORT.parent
GOLDEN = TESTS / "golden"
ROOT = TESTS.parent
"""The root of the repository."""
