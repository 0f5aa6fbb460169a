"""Programs that run in separate processes, so that only their own CPU and memory are measured."""
