"""Read the edge's access logs: which versions are fetched, by which clients, from where."""
