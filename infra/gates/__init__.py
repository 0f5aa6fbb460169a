"""The checks before a deployment, and the tools that build it; see `python -m gates --help`."""
