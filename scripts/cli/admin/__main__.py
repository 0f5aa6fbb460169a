"""`scripts/admin`: `arguments` has the command line, `commands` the commands, and the other modules their work."""

from cli.admin.arguments import main
from cli.admin.commands import change, inspect, mirror, repair, stats, view  # noqa: F401 - each adds its commands to the group

__all__ = ["main"]

if __name__ == "__main__":
    main(prog_name="admin")
