"""`scripts/bench`: how fast images are hashed, catalogs folded, functions started, and where the limits are."""
