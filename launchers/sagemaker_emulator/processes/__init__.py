"""Jobs and models as processes: their folders, namespaces and signals."""
