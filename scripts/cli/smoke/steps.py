"""The steps of a smoke test, in order."""

from typing import Final

from cli.smoke import checks, removing, uploading
from cli.smoke.clients import check_with
from cli.smoke.edge_function import edge_function
from cli.smoke.image import ALIASES, PRODUCT
from cli.smoke.run import Failed, Run, Skipped, Step
from imageserver.format import documents


def tidy(run: Run) -> str:
    """Remove what an earlier smoke test left because it was killed or kept its image."""
    left = removing.versions(run.server)
    run.wait(lambda: removing.delete(run.server) or None, lambda: _still_there(run))
    return f"removed {', '.join(sorted(left))}" if left else ""


def upload(run: Run) -> str:
    """Upload both files: through the API if the caller is a publisher, else signed with the operator's credentials."""
    if taken := run.seen_aliases & set(ALIASES):
        raise Failed(f"another product has the alias {min(taken)}, which clients would then find twice")
    answer = "without the API" if run.direct else uploading.through_api(run.server, run.image)
    run.publisher = not isinstance(answer, str)
    signed = uploading.with_own_credentials(run.server, run.image) if isinstance(answer, str) else answer
    run.sent = True
    uploading.send(run.server, run.image, signed)
    return "by the API" if run.publisher else f"signed with your own credentials: {answer}"


def withdraw(run: Run) -> str:
    """Take the image off the list."""
    if not run.sent:
        raise Skipped("nothing was uploaded")
    removing.take_off(run.server)
    return ""


def remove(run: Run) -> str:
    """Delete files and record, once the catalog no longer names them."""
    run.wait(lambda: removing.delete(run.server) or None, lambda: _still_there(run))
    return ""


def _still_there(run: Run) -> str:
    left = ", ".join(sorted(removing.versions(run.server)))
    return f"{PRODUCT.path} still has {left}; {documents.products_key(PRODUCT.stream)} may still name it (publish)"


STEPS: Final = (
    Step("tidy", "removing what an earlier smoke test left", tidy),
    Step("catalog", "reading every stream as clients do", checks.whole_catalog, can_skip=True),
    Step("upload", "uploading", upload, needs=("tidy",)),
    Step("listed", "waiting until the edge lists the image", checks.await_listed, needs=("upload",)),
    Step("entry", "comparing what the catalog says", checks.entry, needs=("listed",)),
    Step("download", "reading the files through the edge", checks.download, needs=("listed",)),
    Step("redirect", "asking over plain http", checks.redirect, can_skip=True),
    Step("missing", "asking for missing files", checks.missing, can_skip=True),
    Step("function", "running the edge's function in CloudFront", edge_function, can_skip=True),
    Step("page", "reading the page for browsers", checks.page, can_skip=True),
    Step("api", "reading the API's description", checks.api, can_skip=True),
    Step("stranger", "calling the API without credentials", checks.stranger, can_skip=True),
    Step("status", "asking the API what became of the upload", checks.status, needs=("listed",), can_skip=True),
    Step("lxc", "listing and exporting with lxc", check_with("lxc"), needs=("listed",), can_skip=True),
    Step("incus", "listing and exporting with incus", check_with("incus"), needs=("listed",), can_skip=True),
    Step("withdraw", "withdrawing", withdraw, cleans=True),
    Step("delisted", "waiting until it is off the list", checks.await_delisted, needs=("withdraw",), cleans=True),
    Step("remove", "deleting files and record", remove, needs=("withdraw",), cleans=True),
    Step("gone", "asking the edge for the deleted files", checks.gone, needs=("remove",), cleans=True),
)
