"""Views: named selections of what a server publishes, including private views and release channels."""
