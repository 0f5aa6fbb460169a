"""`stack.json` in a state folder: how other programs find a running stack."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from local_stack.errors import NotRunning

FILE_NAME = "stack.json"


@dataclass(frozen=True, slots=True)
class Stack:
    """A running stack. `base_url` is where clients find images, `api_url` the upload API.

    `view_store` is the address of the edge's key value store and `view_store_arn` its name; `edge_log` is
    the file with the log lines of the edge's function. All three are empty without views.
    `logs_bucket` is where the edge's access logs are, empty if it writes none.
    Requests to `s3_endpoint` are signed with the access key.
    """

    base_url: str
    ca_file: str
    s3_endpoint: str
    bucket: str
    region: str
    pid: int
    api_url: str
    access_key_id: str
    secret_access_key: str
    view_store: str = ""
    view_store_arn: str = ""
    edge_log: str = ""
    logs_bucket: str = ""

    def write(self, folder: Path) -> None:
        """Write the file; a reader sees the whole file or none."""
        scratch = folder / f"{FILE_NAME}.{os.getpid()}"
        scratch.write_text(json.dumps(asdict(self), indent=2) + "\n")
        scratch.replace(folder / FILE_NAME)


def read_stack(folder: Path) -> Stack:
    """Return the stack that runs with this state folder. Raise NotRunning if none does."""
    folder = folder.absolute()  # as shown in messages
    file = folder / FILE_NAME
    try:
        fields: dict[str, Any] = json.loads(file.read_text())
        stack = Stack(**fields)
    except FileNotFoundError:
        raise NotRunning(f"no local stack is running with the state folder {folder}: start ./scripts/local") from None
    except (ValueError, TypeError) as error:
        raise NotRunning(f"{file} is damaged ({error}): start ./scripts/local again") from error
    if not is_alive(stack.pid):
        raise NotRunning(f"the local stack of {folder} (process {stack.pid}) is gone: start ./scripts/local again")
    return stack


def remove_stack(folder: Path) -> None:
    """Remove the file of a stack that stops."""
    (folder / FILE_NAME).unlink(missing_ok=True)


def is_alive(pid: int) -> bool:
    """Return whether a process with this id runs, under any user."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # another user's process, but it exists
    return True
