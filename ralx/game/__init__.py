"""The labelling game: how it is played, seen, learned from, and played for evaluation."""
