"""Files: written atomically, cached under a key, packed and unpacked."""
