"""`scripts/smoke`: upload a tiny image to a live server, read it back as clients do, and take it away again."""
