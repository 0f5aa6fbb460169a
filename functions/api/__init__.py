"""The HTTP API as it is promised: what it reads and answers, its refusals, and the description made of both. Pure."""
