"""The commands behind `scripts/`: each module is one command, thin over code that is tested elsewhere."""
