"""model.tar.gz: exported, packed and verified."""
