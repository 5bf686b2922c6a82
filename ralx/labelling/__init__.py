"""Somebody's own images: what is asked, who labels it, and what is learnt from it."""
