"""Dead letters as real SQS delivers them: not all at once, some twice, and empty answers in between."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from cli.admin import dead_letters
from cli.admin.deployment import Deployment
from imageserver.aws import events
from imageserver.errors import StorageUnavailable
from imageserver.format.keys import parse_product
from tests.support import images
from tests.support.memory_store import MemoryStore, System
from tests.support.messages import s3_event


class Sqs:
    """Gives its answers one by one. A receive that does not wait gets nothing."""

    def __init__(self, *answers: str) -> None:
        self._answers = [[message(name) for name in answer] for answer in answers]
        self.log: list[tuple[str, str]] = []

    def receive_message(self, **asked: Any) -> dict[str, Any]:
        if not asked.get("WaitTimeSeconds") or not self._answers:
            return {}
        return {"Messages": self._answers.pop(0)}

    def send_message(self, **asked: Any) -> dict[str, Any]:
        self.log.append(("send", asked["QueueUrl"]))
        return {"MessageId": "sent"}

    def delete_message(self, **asked: Any) -> None:
        self.log.append(("delete", asked["ReceiptHandle"]))

    def change_message_visibility(self, **asked: Any) -> None:
        assert asked["VisibilityTimeout"] == 0
        self.log.append(("put back", asked["ReceiptHandle"]))


def message(name: str) -> dict[str, Any]:
    return {"MessageId": name, "ReceiptHandle": name, "Body": '{"Records": []}'}


def dead_letter_queue(sqs: Sqs) -> dead_letters.DeadLetterQueue:
    deployment = Deployment(SimpleNamespace(), "images-1")
    deployment.__dict__.update(sqs=sqs, store=MemoryStore())
    return dead_letters.DeadLetterQueue(deployment, "arrivals", "dead", "home")


def redriven(sqs: Sqs, really: bool) -> list[str]:
    found: list[str] = []
    dead_letters.read(dead_letter_queue(sqs), really, lambda letter, _: found.append(letter.receipt))
    return found


def test_an_empty_receive_does_not_end_the_redrive() -> None:
    sqs = Sqs("", "ab", "", "bc", "")
    assert redriven(sqs, really=True) == ["a", "b", "c"]
    assert [what for what, _ in sqs.log] == ["send", "delete"] * 3, "sent before it is deleted, each once"


def test_showing_messages_leaves_them_in_the_queue() -> None:
    sqs = Sqs("ab", "c")
    assert redriven(sqs, really=False) == ["a", "b", "c"]
    assert sqs.log == [("put back", "a"), ("put back", "b"), ("put back", "c")]


def test_a_dead_letter_of_a_sound_record_names_the_check_for_the_distribution() -> None:
    system, path = System(), "images/ubuntu/noble/amd64/default/20261123_10:00"
    system.upload(path, images.split_image())
    system.catch_up()
    found = dead_letter_queue(Sqs())
    found.deployment.__dict__["store"] = system.store
    assert "the log of the publish function says what failed at the edge" in found._diagnosis(f"versions/{path}.json")
    assert found._diagnosis(f"{path}/lxd.tar.xz").endswith("what failed has passed, or another message did the work")


def test_a_dead_letter_about_a_product_names_its_unreadable_record() -> None:
    system, product = System(), "images/ubuntu/noble/amd64/default"
    system.upload(f"{product}/20261123_10:00", images.split_image())
    system.catch_up()
    found = dead_letter_queue(Sqs())
    found.deployment.__dict__["store"] = system.store
    assert found._diagnosis(f"versions/{product}/").startswith(f"the records of {product} can be read now")
    assert found._diagnosis("versions/images/").startswith("no product can have these records")
    system.store.put(f"versions/{product}/20261123_10:00.json", b"{torn")
    assert "versions/images/ubuntu/noble/amd64/default/20261123_10:00.json" in found._diagnosis(f"versions/{product}/")


def test_a_queue_that_the_bucket_does_not_notify_is_an_error_of_the_product() -> None:
    deployment = Deployment(SimpleNamespace(), "images-1")
    deployment.__dict__.update(wiring={}, sqs=SimpleNamespace())
    product = parse_product("images/ubuntu/noble/amd64/default")
    with pytest.raises(StorageUnavailable, match=f"was sent about {product.path}: images-1 notifies no queue"):
        deployment.product_changed(product)


def test_a_dead_letter_about_deltas_names_the_function_that_tried() -> None:
    sqs = Sqs("")
    deployment = Deployment(SimpleNamespace(), "images-1")
    deployment.__dict__.update(sqs=sqs, store=MemoryStore(), deltas_dead_letters="dead", deltas_queue="home")
    (deltas,) = dead_letters.queues_of(deployment, "deltas")
    product = parse_product("images/alpine/3.22/amd64/default")
    sqs._answers = [[message("a") | {"Body": events.changed(product.records_prefix)}]]
    (letter,) = deltas.letters()
    assert (letter.queue, letter.keys, letter.returns) == ("deltas", [product.records_prefix], True)
    assert letter.diagnosis.endswith("can be read now; if it comes back, the log of delta says why")
    assert (deltas.answer(letter), sqs.log) == ("sent back", [("send", "home"), ("delete", "a")])


def test_a_dead_letter_about_an_access_log_names_the_log_and_goes_back() -> None:
    sqs = Sqs("")
    deployment = Deployment(SimpleNamespace(), "images-1")
    deployment.__dict__.update(sqs=sqs, access_logs_dead_letters="dead", access_logs_queue="home")
    (logs,) = dead_letters.queues_of(deployment, "access-logs")
    sqs._answers = [[message("a") | {"Body": s3_event("edge/E1.2026-11-28-01.9f.gz")}]]
    (letter,) = logs.letters()
    assert (letter.queue, letter.keys) == ("access-logs", ["edge/E1.2026-11-28-01.9f.gz"])
    assert letter.diagnosis == "it may hold tokens; the log of redact says why it was not read"
    assert (logs.answer(letter), sqs.log) == ("sent back", [("send", "home"), ("delete", "a")])
    sqs._answers = [[message("b") | {"Body": "[]"}]]
    (letter,) = logs.letters()
    assert not letter.returns
    assert letter.diagnosis.startswith("no release can read it")


@pytest.mark.parametrize(
    "body", ['{"task": ["prune"]}', '{"requestPayload": {"task": {}}}', '{"requestPayload": [', "[" * 100_000]
)
def test_a_run_of_maintain_that_was_asked_for_in_any_form_is_reported_and_removed(body: str) -> None:
    sqs = Sqs("")
    deployment = Deployment(SimpleNamespace(), "images-1")
    deployment.__dict__.update(sqs=sqs, maintain_dead_letters="dead")
    (runs,) = dead_letters.queues_of(deployment, "maintain")
    sqs._answers = [[message("a") | {"Body": body}]]
    (letter,) = runs.letters()
    assert letter.diagnosis.startswith("a task failed: the log of the maintain function says why.")
    assert (runs.answer(letter), sqs.log) == ("removed", [("delete", "a")])


def test_a_server_without_deltas_has_no_dead_letters_about_deltas() -> None:
    deployment = Deployment(SimpleNamespace(), "images-1")
    deployment.__dict__.update(deltas_dead_letters="")
    assert list(dead_letters.queues_of(deployment, "deltas")) == []
