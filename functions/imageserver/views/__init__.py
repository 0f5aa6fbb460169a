"""Views: named selections of what a server publishes, private ones and release channels among them."""
