"""What is checked before a deployment, and what a deployment is built with; `python -m gates --help`."""
