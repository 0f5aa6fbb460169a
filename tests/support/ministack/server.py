"""One deployed stack, as its operator, its publishers and its clients see it."""

from __future__ import annotations

import contextlib
import json
import shlex
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from tests.support import PROJECT
from tests.support.client_rules import Image, read_catalog
from tests.support.ministack.clone import Clone
from tests.support.ministack.emulator import ACCOUNT, OPERATOR, REGION, Emulator
from tests.support.processes import short_folder, wait_for
from tests.support.real_clients import Client, client

T = TypeVar("T")
PATIENCE_S = 120
"""An upload is listed after two seconds on an otherwise idle machine."""
PAUSE_S = 0.5
"""A look at the catalog starts curl three times, and asks the emulator while it should work."""


@dataclass(frozen=True)
class Answer:
    """The status of an HTTP answer and its body."""

    status: int
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Server:
    """A stack of the name `stack`, deployed from `clone`."""

    clone: Clone
    stack: str

    @property
    def emulator(self) -> Emulator:
        return self.clone.emulator

    @property
    def description(self) -> dict[str, Any]:
        """Return CloudFormation's description of the stack."""
        (stack,) = self.emulator.client("cloudformation").describe_stacks(StackName=self.stack)["Stacks"]
        return dict(stack)

    @cached_property
    def outputs(self) -> dict[str, str]:
        return {output["OutputKey"]: output["OutputValue"] for output in self.description["Outputs"]}

    @property
    def parameters(self) -> dict[str, str]:
        return {p["ParameterKey"]: p["ParameterValue"] for p in self.description["Parameters"]}

    def resources(self) -> dict[str, str]:
        """Return the logical id → physical id of every resource."""
        found = self.emulator.client("cloudformation").describe_stack_resources(StackName=self.stack)
        return {r["LogicalResourceId"]: r["PhysicalResourceId"] for r in found["StackResources"]}

    # ── the operator ──

    def admin(self, *arguments: str, code: int = 0) -> str:
        """Run `scripts/admin --stack` with the operator's credentials; return its standard output."""
        command = [str(PROJECT / "scripts/admin"), "--stack", self.stack, *arguments]
        done = self.run(command, OPERATOR)
        assert done.returncode == code, f"{arguments}: exit {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout

    def json_of(self, *arguments: str, code: int = 0) -> Any:
        """Return what `scripts/admin --json` prints."""
        return json.loads(self.admin("--json", *arguments, code=code))

    def wrong(self) -> list[str]:
        """Return what `admin doctor` finds except alarms: an earlier test may have failed a function on purpose.

        An alarm of the emulator also counts what happened to the functions of other stacks.
        """
        done = self.run([str(PROJECT / "scripts/admin"), "--stack", self.stack, "--json", "doctor"], OPERATOR)
        assert done.returncode in (0, 1), done.stderr
        found = [str(finding["what"]) for finding in json.loads(done.stdout)]
        return [what for what in found if " is in alarm: " not in what]

    def run(self, command: Sequence[str], who: tuple[str, str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, env=self.emulator.environment(who) | {"SIMPLESTREAMS_API": self.outputs["ApiUrl"]},
            stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=300,
        )  # fmt: skip

    def refusal(self, **values: str) -> str:
        """Return how CloudFormation refuses to update the stack with these parameters."""
        cloudformation = self.emulator.client("cloudformation")
        given = [
            {"ParameterKey": name, "ParameterValue": values[name]}
            if name in values
            else {"ParameterKey": name, "UsePreviousValue": True}
            for name in self.parameters
        ]
        capabilities = ["CAPABILITY_IAM", "CAPABILITY_AUTO_EXPAND"]  # update_stack expands the transform by itself
        try:
            cloudformation.update_stack(
                StackName=self.stack, UsePreviousTemplate=True, Parameters=given, Capabilities=capabilities
            )
        except cloudformation.exceptions.ClientError as error:
            return str(error)
        raise AssertionError(f"CloudFormation takes {values}")

    def invoke(self, function: str, event: Mapping[str, Any]) -> Any:
        """Run a function of the stack, named by its logical id, as its schedule does; return its answer."""
        name = self.resources()[function]
        answer = self.emulator.client("lambda").invoke(FunctionName=name, Payload=json.dumps(event).encode())
        body = json.loads(answer["Payload"].read())
        assert "FunctionError" not in answer, body
        return body

    # ── publishers ──

    def upload(self, who: tuple[str, str], to: str, version: str, folder: Path) -> dict[str, Any]:
        """Run `scripts/upload` on the files of a folder, waiting for the listing; return its JSON."""
        command = [str(PROJECT / "scripts/upload"), "--to", to, "--version", version, "--json", str(folder)]
        done = self.run(command, who)
        assert done.returncode == 0, f"exit {done.returncode}\n{done.stdout}{done.stderr}"
        report: dict[str, Any] = json.loads(done.stdout)
        return report

    def api(self, who: tuple[str, str] | None, method: str, path: str, body: Any = None, *options: str) -> Answer:
        """Send a request to the upload API by curl, signed unless `who` is None."""
        signed = ["--aws-sigv4", f"aws:amz:{REGION}:execute-api", "--user", ":".join(who)] if who else []
        sent = ["--data", json.dumps(body)] if body is not None else []
        return self.curl(*signed, *sent, *options, "--request", method, f"{self.outputs['ApiUrl']}{path}")

    def curl(self, *arguments: str) -> Answer:
        """Send an HTTP request by curl."""
        command = ["curl", "--silent", "--show-error", "--max-time", "60", "--write-out", "%{http_code}", *arguments]
        done = subprocess.run(command, env=self.emulator.environment(), capture_output=True, check=False, timeout=90)
        assert done.returncode == 0, f"{shlex.join(command)}: exit {done.returncode}: {done.stderr.decode()}"
        return Answer(int(done.stdout[-3:]), done.stdout[:-3])

    # ── clients ──

    def get(self, path: str) -> Answer:
        """Return the answer of the edge for a path."""
        return self.curl(f"{self.outputs['Address']}/{path}")

    def images(self) -> list[Image]:
        """Return what LXD would list, read from the documents of the edge by an independent reader."""
        index = self.get("streams/v1/index.json")
        assert index.status == 200, index
        paths = [entry["path"] for entry in index.json["index"].values()]
        return read_catalog(index.body, {path: self.get(path).body for path in paths})

    def listed(self, path: str) -> dict[str, str]:
        """Return the fingerprints that are listed below a path, by path of the version."""
        return {
            version: image.fingerprint
            for image in self.images()
            for version in {download.path.rpartition("/")[0] for download in image.files.values()}
            if version.startswith(path)
        }

    def wait(self, look: Callable[[], T | None], what: str) -> T:
        """Return the first answer of `look` that is neither None nor False; on a timeout show the emulator's log."""
        try:
            return wait_for(look, what, PATIENCE_S, PAUSE_S)
        except TimeoutError as error:
            raise AssertionError(f"{error}\n{self.emulator.log[-8000:]}") from error

    def is_laid_out(self) -> bool | None:
        """Return whether clients can add the server, as they can after a deployment."""
        return self.get("streams/v1/index.json").status == 200 or None

    @contextlib.contextmanager
    def client(self, program: str) -> Iterator[Client]:
        """Yield `lxc` or `incus` with only this server as its remote `here:`."""
        with short_folder() as folder:
            made = client(program, folder, str(self.emulator.ca_file))
            made.env.update({n: v for n, v in self.emulator.environment().items() if n.lower().endswith("_proxy")})
            made.add_remote(self.outputs["Address"])
            yield made


def publisher(emulator: Emulator, name: str) -> tuple[str, str]:
    """Create an IAM user that may only call HTTP APIs of the account; return its access key and secret."""
    iam = emulator.client("iam")
    iam.create_user(UserName=name)
    resource = f"arn:aws:execute-api:{REGION}:{ACCOUNT}:*/*"
    statement = {"Effect": "Allow", "Action": "execute-api:Invoke", "Resource": resource}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    iam.put_user_policy(UserName=name, PolicyName="upload", PolicyDocument=policy)
    key = iam.create_access_key(UserName=name)["AccessKey"]
    return key["AccessKeyId"], key["SecretAccessKey"]


def written(folder: Path, files: Mapping[str, bytes]) -> Path:
    """Make `folder` with these files, and return it."""
    folder.mkdir(parents=True)
    for name, body in files.items():
        (folder / name).write_bytes(body)
    return folder
