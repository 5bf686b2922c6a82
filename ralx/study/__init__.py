"""The paper's experiments: what they compute, where it is kept, and what it says."""
