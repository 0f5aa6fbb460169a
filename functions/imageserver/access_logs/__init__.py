"""What the edge's access logs say: which versions are fetched, by which clients, from where."""
