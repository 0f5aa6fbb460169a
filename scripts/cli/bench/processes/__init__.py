"""What runs in a process of its own, so that its CPU and memory are measured and nothing else."""
