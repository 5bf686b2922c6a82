"""Runs: what is computed (stages, in plans), where it is kept (a store), and what runs it (an engine)."""
