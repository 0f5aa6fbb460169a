"""`scripts/admin`. Its commands are in *_commands.py; what they do is in the other modules beside this one."""

# Each enters the group when it is imported.
from cli.admin import change_commands, look_commands, repair_commands  # noqa: F401
from cli.admin.base import main

__all__ = ["main"]

if __name__ == "__main__":
    main(prog_name="admin")
