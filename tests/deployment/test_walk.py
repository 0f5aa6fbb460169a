"""What belongs to the walk of a page, and how its blocks run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.deployment import emulator
from tests.deployment.clone import PROJECT, copied
from tests.deployment.walk import Block, Terminal, WalkFailed, blocks
from tests.support import images
from tests.support.processes import short_folder, wait_for

PAGE = """\
# Deploy

```sh walk
cd below
export WHO=me
```

What nobody runs in a test:

```sh
## no heading
sam delete
```

## Look

1. It ends with 3:

   ```sh walk=3
   exit 3
   ```

```sh walk
echo "$WHO in $(basename "$PWD")"
```
"""


@pytest.fixture
def terminal(tmp_path: Path) -> Terminal:
    (tmp_path / "clone" / "below").mkdir(parents=True)
    (tmp_path / "state").mkdir()
    return Terminal(tmp_path / "clone", dict(os.environ), tmp_path / "state", answers="y\n")


def test_the_marked_blocks_are_found_in_their_order() -> None:
    found = [(block.heading, block.line, block.code) for block in blocks(PAGE)]
    assert found == [("Deploy", 3, 0), ("Look", 19, 3), ("Look", 23, 0)]
    assert next(iter(blocks(PAGE))).commands == "cd below\nexport WHO=me\n"


def test_a_block_without_an_end_is_an_error() -> None:
    with pytest.raises(ValueError, match="begins in line 1 has no end"):
        list(blocks("```sh walk\nls\n"))


def test_a_block_finds_the_folder_and_the_variables_of_the_one_before(terminal: Terminal) -> None:
    outputs = [terminal.run(block) for block in blocks(PAGE)]
    assert outputs == ["", "", "me in below\n"]


def test_a_block_ends_at_its_first_failure_and_says_where(terminal: Terminal) -> None:
    with pytest.raises(WalkFailed, match=r"(?s)Deploy \(line 7\): exit 1, expected 0.*before"):
        terminal.run(Block("Deploy", 7, "echo before\nfalse | cat\nfalse\necho behind\n"))
    with pytest.raises(WalkFailed, match="exit 0, expected 1"):
        terminal.run(Block("Deploy", 7, "true\n", code=1))


def test_a_page_is_walked_from_its_first_block_to_its_last(terminal: Terminal, tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text(PAGE)
    assert terminal.walk(tmp_path / "page.md")[-1] == "me in below\n"
    (tmp_path / "page.md").write_text("```sh\nls\n```\n")
    with pytest.raises(ValueError, match="no block that is marked"):
        terminal.walk(tmp_path / "page.md")


def test_a_question_is_answered(terminal: Terminal) -> None:
    assert terminal.run(Block("Deploy", 1, 'read -r said; echo "$said"\n')) == "y\n"


WALK = PROJECT / "infra" / "README.md"


@pytest.mark.skipif(
    not WALK.exists() or not list(blocks(WALK.read_text())), reason=f"{WALK.name} in infra/ has no walk yet"
)
def test_the_walk_of_the_page_on_deployment_ends_well(tooling: None) -> None:
    """Word for word, in its order, in a new account and a clone in which nothing has been built."""
    with short_folder() as folder, emulator.running(folder) as aws:
        terminal = copied(folder / "clone", aws).terminal()
        for block in blocks(WALK.read_text()):
            if block.heading == "Take it down":
                upload_an_image(aws)
            terminal.run(block)


def upload_an_image(aws: emulator.Emulator) -> None:
    """Put an image into the stack's bucket and wait until it is listed: a server that is taken down has some."""
    (stack,) = aws.client("cloudformation").describe_stacks(StackName="simplestreams")["Stacks"]
    bucket = next(o["OutputValue"] for o in stack["Outputs"] if o["OutputKey"] == "BucketName")
    s3 = aws.client("s3")
    for name, body in images.split_image().items():
        s3.put_object(Bucket=bucket, Key=f"images/walk/1/amd64/default/20261123_1000/{name}", Body=body)

    def listed() -> bool | None:
        objects = s3.list_objects_v2(Bucket=bucket, Prefix="streams/v1/images.json")
        return True if objects.get("KeyCount") else None

    wait_for(listed, "the image in the catalog")
