"""`scripts/admin`: the command line in `arguments`, the commands in `commands`, what they do beside this module."""

from cli.admin.arguments import main
from cli.admin.commands import change, inspect, mirror, repair, stats, view  # noqa: F401 - each adds its commands to the group

__all__ = ["main"]

if __name__ == "__main__":
    main(prog_name="admin")
