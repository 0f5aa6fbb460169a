"""What goes into a package, and that its sources are up to date."""

import ast
import base64
import hashlib
import html
import re
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from gates import bundle, packages, stack
from imageserver.settings import Settings
from tests.support.deployment import grants, rules

ROOT = stack.INFRA.parent
INDEX = stack.INFRA / "page/index.html"
TAGS = ("script", "style")
PIN = re.compile(r"^([a-z0-9-]+)==(\S+)", re.MULTILINE)


@cache
def lock() -> dict[str, dict[str, Any]]:
    return {package["name"]: package for package in tomllib.loads((ROOT / "uv.lock").read_text())["package"]}


def test_requirements_match_the_lock() -> None:
    """Renew with: uv export --locked --no-default-groups --no-emit-project --no-header -o functions/requirements.txt"""
    locked = lock()
    waiting, wanted = ["serverless-simplestreams"], {}
    while waiting:
        for dependency in locked[waiting.pop()].get("dependencies", []):
            name = dependency["name"]
            if name not in wanted:
                wanted[name] = locked[name]["version"]
                waiting.append(name)
    text = (ROOT / "functions" / "requirements.txt").read_text()
    assert dict(PIN.findall(text)) == wanted


def test_requirements_carry_every_hash_of_the_lock() -> None:
    text = (ROOT / "functions" / "requirements.txt").read_text()
    names = {name for name, _ in PIN.findall(text)}
    files = [file for name in names for file in [*lock()[name].get("wheels", []), lock()[name].get("sdist")] if file]
    assert set(re.findall(r"--hash=(sha256:[0-9a-f]{64})", text)) == {file["hash"] for file in files}


@pytest.fixture
def functions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a small tree of functions."""
    for name, text in {
        "imageserver/__init__.py": "",
        "imageserver/handlers/__init__.py": "",
        "imageserver/handlers/digest.py": (
            "import os\nfrom imageserver.core import keys\ndef handler(e, c):\n    from imageserver import late\n"
        ),
        "imageserver/handlers/unused.py": "import nothing",
        "imageserver/core/page.html": "<p>",
        "imageserver/py.typed": "",
        "imageserver/core/__init__.py": "",
        "imageserver/core/keys.py": "import yaml.representer\n",
        "imageserver/core/other.py": "",
        "imageserver/late.py": "import imageserver.core.lists\n",
        "imageserver/core/lists.py": "",
        "imageserver/handlers/publish.py": "from . import x\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(bundle, "FUNCTIONS", tmp_path)
    monkeypatch.setattr(bundle, "ROOT", tmp_path.parent)
    return tmp_path


def test_a_package_has_exactly_what_its_handler_imports(functions: Path) -> None:
    found = {str(path.relative_to(functions / "imageserver")) for path in bundle.first_party("digest")}
    expected = "__init__.py handlers/__init__.py handlers/digest.py core/__init__.py core/keys.py late.py core/lists.py"
    assert found == set(expected.split())


def test_documents_next_to_the_code_are_packaged(functions: Path) -> None:
    assert list(bundle.data_files(set(bundle.first_party("digest")))) == [functions / "imageserver/core/page.html"]


def test_an_import_counts_for_its_parent_packages_too(functions: Path) -> None:
    assert bundle.imports(functions / "imageserver/core/keys.py") == {"yaml", "yaml.representer"}


def test_a_relative_import_is_refused(functions: Path) -> None:
    with pytest.raises(SystemExit, match=r"publish\.py:1: relative import"):
        list(bundle.first_party("publish"))


def test_a_function_without_handler_is_refused(functions: Path) -> None:
    with pytest.raises(SystemExit, match="no handler at"):
        list(bundle.first_party("uploads"))


def test_pruning_keeps_every_imported_module(tmp_path: Path) -> None:
    for name in (
        "botocore/data/s3/a",
        "botocore/data/ec2/a",
        "yaml/a",
        "_yaml/a",
        "backports/a",
        "bin/a",
        "x-1.dist-info/a",
    ):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    bundle.prune(tmp_path, {"yaml"})
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("a")} == {
        "botocore/data/s3/a",
        "yaml/a",
        "_yaml/a",
    }


@pytest.mark.parametrize("name", packages.NAMES)
def test_the_template_sets_exactly_the_variables_that_the_code_reads(name: str) -> None:
    variables = packages.variables(name)
    assert Settings.from_environment(variables).bucket == packages.deployed().properties("Bucket")["BucketName"]
    code = "".join(path.read_text() for path in bundle.first_party(name))
    used = {f"{field}".upper() for field in re.findall(r"\bsettings\.([a-z_]+)", code)}
    used.add("BUCKET")  # Settings needs it in every function, even redact, whose bucket is that of the logs
    from_lambda = {"MEMORY_MB"}
    assert {variable for variable in variables if not variable.startswith("POWERTOOLS_")} == used - from_lambda


def test_metrics_of_the_dashboard_match_the_code() -> None:
    trees = [ast.parse(path.read_text()) for path in (ROOT / "functions").rglob("*.py")]
    calls = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Call)]
    emitting = [call for call in calls if ast.unparse(call.func).split(".")[-1] in {"add_metric", "single_metric"}]
    assert {
        ast.literal_eval(call.args[0]) for call in emitting
    } == rules.METRICS | rules.METRICS_OF_MIRRORS | rules.METRICS_OF_DELTAS


def test_routes_of_the_template_match_the_code() -> None:
    paths = stack.deployed().properties("UploadsApi")["Body"]["paths"]
    declared = {f"{method.upper()} {path}" for path, methods in paths.items() for method in methods}
    tree = ast.parse((ROOT / "functions/imageserver/handlers/uploads.py").read_text())
    (routes,) = (n.value for n in ast.walk(tree) if isinstance(n, ast.AnnAssign) and ast.unparse(n.target) == "ROUTES")
    assert isinstance(routes, ast.Dict)
    public = {f"{method.upper()} {path}" for path, method in rules.PUBLIC_ROUTES}
    assert declared == {ast.literal_eval(key) for key in routes.keys if key} | public


def test_the_policy_header_is_as_strict_as_the_policies_of_the_built_pages() -> None:
    headers = stack.deployed().properties("PageHeadersPolicy")["ResponseHeadersPolicyConfig"]["SecurityHeadersConfig"]
    header = directives(headers["ContentSecurityPolicy"]["ContentSecurityPolicy"])
    assert header.pop("frame-ancestors") == ["'none'"]
    for name in ("index.html", "api.html"):
        page = (stack.INFRA / "page" / name).read_text()
        own = re.search(r'http-equiv="Content-Security-Policy" content="([^"]+)"', page)
        assert own
        assert directives(html.unescape(own[1])) == header
    blocks = {f"{tag}-src": re.search(rf"<{tag}[^>]*>(.*?)</{tag}>", INDEX.read_text(), re.DOTALL) for tag in TAGS}
    for name, block in blocks.items():
        assert block
        digest = base64.b64encode(hashlib.sha256(block[1].encode()).digest()).decode()
        assert header[name] == [f"'sha256-{digest}'"]


def directives(policy: str) -> dict[str, list[str]]:
    return {words[0]: words[1:] for words in (part.split() for part in policy.split(";"))}


def test_every_aws_call_is_found_and_has_one_action() -> None:
    """The table of rights is only as good as the calls that it is checked against."""
    calls = [call for call, _ in grants.calls(stack.deployed())]
    assert len(calls) == len(set(calls)) > 250
