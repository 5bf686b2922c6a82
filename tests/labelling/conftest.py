"""Small labels for the labelling formats' tests, and files that are not synced."""

import pytest


@pytest.fixture(autouse=True)
def unsynced(monkeypatch):
    """Thousands of small files are written here, and no power is cut: syncing them would take minutes."""
    monkeypatch.setattr("ralx.support.files._sync", lambda descriptor: None)
