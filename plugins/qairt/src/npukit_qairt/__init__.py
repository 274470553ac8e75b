"""QAIRT's tools over npukit: the same flags, the same files."""
