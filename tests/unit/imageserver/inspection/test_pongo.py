"""Templates that pongo2 does not parse. Each row was tried with its versions 4 and 6, between the daemons' two tags."""

import pytest

from imageserver.inspection.pongo import problem


@pytest.mark.parametrize(
    "body",
    [
        "",
        "{{ container.name }}\n",
        '{{ config_get("user.x", "") }}',
        "{{ 'a}}' }} {{ \"%}\" }} {% if '\\'}' %}{% endif %}",
        "{%- if a -%}x{%- endif -%}\n",
        "{# c #}{#}#}",
        "}} %} #} } %",
        "{ {\n%}",
        "${{ x }}",
        "{% verbatim %}{# {{\n{% {% endverbatim %}{{ a }}",
        "\xe9{{ a }}",
    ],
)
def test_a_template_that_pongo2_parses_has_no_problem(body: str) -> None:
    assert problem(body.encode("latin-1")) == ""


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("a\n${#list[@]}\n", "opens '{#list[@]}' in line 2, expected #} behind it in the same line"),
        ("{# a\n#}", "opens '{# a' in line 1, expected #}"),
        ("{#}", "opens '{#}' in line 1"),
        ("{{ a", "opens '{{ a' in line 1, expected }}"),
        ("{{ a\n}}", "opens '{{ a' in line 1, expected }}"),
        ("{{ a %}", "opens '{{ a %}' in line 1, expected }}"),
        ("{{ a }", "opens '{{ a }' in line 1"),
        ("{{ 'a }}", "expected }}"),
        ('{{ "a\n" }}', "expected }}"),
        ("{% if a }}", "opens '{% if a }}' in line 1, expected %}"),
        ("{% verbatim %}{{ a }}", "opens '{% verbatim %}{{ a }}' in line 1"),
        ("{{ a }}\n\nx{", "opens '{' in line 3"),
        ("{{" * 1000, "in line 1"),
    ],
)
def test_a_template_that_pongo2_does_not_parse_has_its_line(body: str, message: str) -> None:
    assert message in problem(body.encode())
