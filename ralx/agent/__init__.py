"""The agent: its query network, what it remembers, how it learns, and its policy as a file."""
