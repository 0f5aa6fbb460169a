"""`scripts/admin`: look at a server, check it, repair it. A module for each group of commands, over functions/."""
