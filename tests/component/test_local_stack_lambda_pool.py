"""Functions in worker processes, run like by Lambda, with its errors."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from local_stack.lambda_pool import Pool, common_environment
from local_stack.wiring import Function

MakePool = Callable[..., Pool]


@pytest.fixture
def make_pool(tmp_path: Path) -> Iterator[MakePool]:
    """Yield a pool with the function `F`, whose module `app` has the given source."""
    pools: list[Pool] = []

    def make(source: str, timeout_s: int = 20, slots: int = 1) -> Pool:
        (tmp_path / "app.py").write_text(source)
        environment = {"COLOUR": "red"}
        function = Function("F", "arn:f", tmp_path, "app.handler", environment, timeout_s, 512)
        (tmp_path / "logs").mkdir(exist_ok=True)
        pools.append(Pool({"F": function}, common_environment("http://s3", "r"), tmp_path / "logs", {"F": slots}))
        return pools[-1]

    yield make
    for pool in pools:
        pool.stop()


def test_a_handler_gets_its_event_environment_and_context(make_pool: MakePool) -> None:
    pool = make_pool("""
import os
def handler(event, context):
    return [event, os.environ["COLOUR"], os.environ["AWS_ENDPOINT_URL"], context.function_name,
            context.memory_limit_in_mb, context.invoked_function_arn, len(context.aws_request_id),
            0 < context.get_remaining_time_in_millis() <= 20_000]
""")
    assert pool.invoke("F", {"a": 1}).result == [{"a": 1}, "red", "http://s3", "F", 512, "arn:f", 36, True]


def test_output_printed_by_a_handler_does_not_affect_its_answer(make_pool: MakePool, tmp_path: Path) -> None:
    pool = make_pool("""
import os
print("at import")
def handler(event, context):
    print("printed")
    os.write(1, b'{"id": "forged"}\\n')
    return "answer"
""")
    assert pool.invoke("F", {}).result == "answer"
    assert "printed" in pool.log_file("F").read_text()


def test_a_process_serves_many_events_and_keeps_its_state(make_pool: MakePool) -> None:
    pool = make_pool("calls = []\ndef handler(event, context):\n    calls.append(event)\n    return len(calls)\n")
    assert [pool.invoke("F", {}).result for _ in range(3)] == [1, 2, 3]


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("def handler(event, context):\n    raise ValueError('why')", "ValueError: why"),
        ("def handler(event, context):\n    return {1, 2}", "TypeError: "),
        ("import os\ndef handler(event, context):\n    os._exit(3)", "Runtime.ExitError: .* 3"),
        ("import nonexistent_module", "ModuleNotFoundError: .*nonexistent_module"),
        ("x = 1", "AttributeError: .*handler"),
    ],
)
def test_failures_are_reported_in_lambdas_form(make_pool: MakePool, source: str, error: str) -> None:
    import re

    outcome = make_pool(source).invoke("F", {})
    assert re.match(error, outcome.error)
    assert outcome.result is None


def test_a_function_that_cannot_be_imported_is_retried(make_pool: MakePool, tmp_path: Path) -> None:
    pool = make_pool("raise OSError('broken')")
    assert pool.invoke("F", {}).error == "OSError: broken"
    (tmp_path / "app.py").write_text("def handler(event, context):\n    return 'corrected'\n")
    assert pool.invoke("F", {}).result == "corrected"


def test_a_function_over_its_time_is_killed_and_the_next_event_gets_a_new_process(make_pool: MakePool) -> None:
    source = "import time\ndef handler(event, context):\n    time.sleep(event)\n    return 'done'\n"
    pool = make_pool(source, timeout_s=2)
    assert pool.invoke("F", 60).error == "Sandbox.Timedout: Task timed out after 2.00 seconds"
    assert pool.invoke("F", 0).result == "done"


def test_slots_bound_how_many_run_at_once(make_pool: MakePool, tmp_path: Path) -> None:
    from tests.support.servers.s3 import at_once

    pool = make_pool(
        f"""
import os, time
def handler(event, context):
    mine = {str(tmp_path)!r} + f"/running-{{event}}"
    open(mine, "w").close()
    time.sleep(0.2)
    running = len([name for name in os.listdir({str(tmp_path)!r}) if name.startswith("running-")])
    os.remove(mine)
    return [running, os.getpid()]
""",
        slots=2,
    )
    results = [outcome.result for outcome in at_once(6, lambda index: pool.invoke("F", index))]
    assert max(running for running, _ in results) == 2
    assert len({pid for _, pid in results}) == 2


def test_nothing_of_the_local_stack_is_importable_from_a_function(make_pool: MakePool) -> None:
    source = "import importlib.util\ndef handler(event, context):\n    return importlib.util.find_spec(event) is None\n"
    pool = make_pool(source)
    assert pool.invoke("F", "local_stack").result
    assert pool.invoke("F", "mappings").result
    assert pool.invoke("F", "cli").result
    assert not pool.invoke("F", "boto3").result


def test_stopping_ends_running_functions(make_pool: MakePool) -> None:
    import threading

    pool = make_pool("import time\ndef handler(event, context):\n    time.sleep(60)\n")
    outcomes: list[str] = []
    thread = threading.Thread(target=lambda: outcomes.append(pool.invoke("F", {}).error))
    thread.start()
    while not pool.log_file("F").exists():
        time.sleep(0.01)
    pool.stop()
    thread.join(timeout=10)
    assert outcomes[0].startswith("Runtime.ExitError")
    assert pool.invoke("F", {}).error.startswith("Runtime.Stopped")
