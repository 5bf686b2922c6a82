"""What the rest stands on and knows nothing of: files that survive a kill or a power cut."""
