"""The page's build: the artefact matches its source, and its policy allows exactly that."""

import re
from pathlib import Path

import pytest

from imageserver.api.openapi import document
from page import build


def inline(element: str) -> str:
    found = re.search(rf"<{element}[^>]*>(.*?)</{element}>", build.ARTEFACT.read_text("utf-8"), re.DOTALL)
    assert found
    return found.group(1)


def test_the_committed_page_is_the_one_its_source_builds() -> None:
    assert build.ARTEFACT.read_text("utf-8") == build.render(), "index.html is stale: .venv/bin/python -m page.build"


def test_the_page_about_the_api_and_the_header_are_what_the_build_writes() -> None:
    stale = "stale: .venv/bin/python -m page.build"
    assert build.API_ARTEFACT.read_text("utf-8") == build.render_api(), f"api.html is {stale}"
    template = build.TEMPLATE.read_text("utf-8")
    assert template == build.header(template), f"the header in infra/template.yaml is {stale}"


def test_the_page_about_the_api_names_every_route() -> None:
    page = build.API_ARTEFACT.read_text("utf-8")
    for path, methods in document()["paths"].items():
        for method in methods:
            assert f"<code>{method.upper()} {path}</code>" in page
    assert "<script" not in page


def test_the_policy_allows_only_the_inline_script_and_style() -> None:
    declared = re.search(r'http-equiv="Content-Security-Policy" content="([^"]+)"', build.ARTEFACT.read_text("utf-8"))
    assert declared
    policy = dict(part.split(" ", 1) for part in declared.group(1).split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == f"'{build.csp_hash(inline('script'))}'"
    assert policy["style-src"] == f"'{build.csp_hash(inline('style'))}'"
    assert "unsafe" not in declared.group(1)


def test_the_page_names_no_other_host() -> None:
    hosts = set(re.findall(r"https?://([\w.-]+)", build.ARTEFACT.read_text("utf-8")))
    assert hosts == {"www.w3.org"}, "only the SVG namespace, which nothing fetches"


@pytest.mark.parametrize(
    "way", ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function"]
)
def test_the_source_has_no_way_to_turn_text_into_markup_or_code(way: str) -> None:
    assert [file.name for file in build.SOURCE.iterdir() if way in file.read_text("utf-8")] == []


def test_modules_are_joined_without_imports_and_exports() -> None:
    sources = {
        "a": "export const one = 1;\n",
        "b": 'import {\n  one,\n} from "./a.js";\nexport async function two() {}\n',
    }
    assert build.join_modules(sources) == "const one = 1;\n\nasync function two() {}\n"


@pytest.mark.parametrize(
    "line", ["export default one;", 'import * as a from "./a.js";', 'import "https://example.org/x.js";']
)
def test_a_module_that_cannot_be_joined_is_refused_by_name(line: str) -> None:
    with pytest.raises(build.BuildError, match=r"^b\.js: cannot join"):
        build.join_modules({"b": f"{line}\n"})


def test_a_closing_tag_in_a_block_is_refused(tmp_path: Path) -> None:
    for file in build.SOURCE.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "main.js").write_text('const tag = "</script>";\n')
    with pytest.raises(build.BuildError, match="closing tag"):
        build.render(tmp_path)
