"""The program inside a worker process: one function, imported as Lambda imports it, one event at a time.

Run as a file, with the handler's name, and with the function's folder and the packages in PYTHONPATH. Events come as
JSON lines on standard input, {"id", "event", "deadline"}. Answers go as JSON lines to what was standard output:
{"id", "last"} and either "result" or "error", {"errorType", "errorMessage", "stackTrace"}; after the last one the
process ends. Output of the function itself goes to standard error, so it cannot disturb the answers.
"""

import importlib
import json
import os
import queue
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Handler = Callable[[Any, Any], Any]


@dataclass(frozen=True)
class Context:
    """The context of a handler, as far as aws-lambda-powertools and our functions read it."""

    aws_request_id: str
    deadline: float
    function_name: str
    memory_limit_in_mb: int
    invoked_function_arn: str
    function_version: str = "$LATEST"
    log_group_name: str = "local"
    log_stream_name: str = "local"

    def get_remaining_time_in_millis(self) -> int:
        """Return the milliseconds until the function is killed."""
        return max(0, int((self.deadline - time.time()) * 1000))


def main(handler_name: str) -> None:
    """Serve events until standard input closes."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    events: queue.Queue[str] = queue.Queue()

    def read() -> None:
        for line in sys.stdin:
            events.put(line)
        os._exit(0)  # the stack is gone: end even if the function is busy

    threading.Thread(target=read, daemon=True).start()
    module, _, name = handler_name.rpartition(".")
    broken = None
    try:
        handler: Handler = getattr(importlib.import_module(module), name)
    except Exception as error:  # noqa: BLE001  (whatever it is, the caller of each event shall read it)
        broken = {"error": _error(error)}
    while True:
        request = json.loads(events.get())
        answer = {"id": request["id"], "last": broken is not None, **(broken or _run(handler, request))}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
        if answer["last"]:
            return  # the next event gets a fresh process, so that a corrected file is seen


def _run(handler: Handler, request: dict[str, Any]) -> dict[str, Any]:
    context = Context(
        aws_request_id=request["id"],
        deadline=request["deadline"],
        function_name=os.environ["AWS_LAMBDA_FUNCTION_NAME"],
        memory_limit_in_mb=int(os.environ["AWS_LAMBDA_FUNCTION_MEMORY_SIZE"]),
        invoked_function_arn=os.environ["LOCAL_FUNCTION_ARN"],
    )
    try:
        result = handler(request["event"], context)
        json.dumps(result)  # Lambda reports a result that is not JSON as an error of the function
    except Exception as error:  # noqa: BLE001  (Lambda reports whatever a function raises)
        return {"error": _error(error)}
    return {"result": result}


def _error(error: Exception) -> dict[str, Any]:
    trace = traceback.format_exception(error)
    print("".join(trace), file=sys.stderr, flush=True)
    return {"errorType": type(error).__name__, "errorMessage": str(error), "stackTrace": trace}


if __name__ == "__main__":
    main(sys.argv[1])
