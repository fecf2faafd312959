"""Fixtures of the runtime's tests."""

import os

import pytest


@pytest.fixture
def disk_calls(monkeypatch):
    """Each fsync, with the inode of its file or folder, and each replacement, with its path."""
    calls, fsync, replace = [], os.fsync, os.replace

    def recorded_fsync(descriptor):
        calls.append(("sync", os.fstat(descriptor).st_ino))
        fsync(descriptor)

    def recorded_replace(old, new):
        calls.append(("replace", new))
        replace(old, new)

    monkeypatch.setattr(os, "fsync", recorded_fsync)
    monkeypatch.setattr(os, "replace", recorded_replace)
    return calls
