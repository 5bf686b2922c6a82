"""The version of ralx, which every record, key and package of it names."""

__version__ = "0.1.0"
