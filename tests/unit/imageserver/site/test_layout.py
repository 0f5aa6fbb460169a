"""The pages that a server makes for people."""

from imageserver.operations.runs import Run
from imageserver.site.layout import PAGE_KEY, lay_out
from tests.support.memory_store import MemoryStore

ADDRESS = "https://images.example.org"


def test_a_browser_without_javascript_is_shown_the_address_of_the_server() -> None:
    store = MemoryStore()
    lay_out(store, Run(), ADDRESS)
    page = store.objects[PAGE_KEY].body.decode()
    assert f"incus remote add my-images {ADDRESS} --protocol=simplestreams" in page
    assert "https://…" not in page


def test_a_page_is_made_again_only_if_the_server_has_another_address() -> None:
    store, runs = MemoryStore(), [Run() for _ in range(3)]
    for run, address in zip(runs, (ADDRESS, ADDRESS, "https://other.example.org"), strict=True):
        lay_out(store, run, address)
    assert [[task.path for task in run.tasks] for run in runs[1:]] == [[], [PAGE_KEY]]
