"""SARIF: the shape that the standard's schema demands, and places that a reader finds again."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from potc.diagnostics.codes import CODES
from potc.diagnostics.diagnostic import Diagnostic, Related, Severity
from potc.diagnostics.render_json import render_json
from potc.diagnostics.render_sarif import render_sarif
from potc.diagnostics.render_text import render
from potc.diagnostics.source import Source, Span

SOURCE = Source("rules/my npu.rules", "potc 1\n# ü 𝒳 remark\nrule conv { }\nrule any { }\n")


def at(word: str) -> Span:
    start = SOURCE.text.index(word)
    return Span(SOURCE, start, start + len(word))


def log(*diagnostics: Diagnostic) -> dict:
    document = json.loads(render_sarif(diagnostics))
    assert document["version"] == "2.1.0"
    assert len(document["runs"]) == 1
    return document["runs"][0]


def test_nothing_found_is_a_log_as_well() -> None:
    run = log()
    assert run["results"] == run["tool"]["driver"]["rules"] == []


def test_each_code_is_one_rule_with_help() -> None:
    both = Diagnostic("overlapping-rules", "two match", at=at("conv"), related=(Related(at("any"), "this too"),))
    run = log(both, Diagnostic("unused-capture", "one", Severity.WARNING), both)
    rules = run["tool"]["driver"]["rules"]
    assert [r["id"] for r in rules] == ["overlapping-rules", "unused-capture"]
    assert rules[0]["help"]["text"] == CODES["overlapping-rules"].help
    for result in run["results"]:
        assert rules[result["ruleIndex"]]["id"] == result["ruleId"]
    assert [r["level"] for r in run["results"]] == ["error", "warning", "error"]
    assert "locations" not in run["results"][1]


def test_places_count_characters_from_one() -> None:
    found = Diagnostic("unused-capture", "n", at=at("𝒳 remark"), label="here", related=(Related(at("any"), "there"),))
    result = log(found)["results"][0]
    place = result["locations"][0]
    assert place["physicalLocation"]["artifactLocation"] == {"uri": "rules/my%20npu.rules"}
    assert place["physicalLocation"]["region"] == {"startLine": 2, "startColumn": 5, "endLine": 2, "endColumn": 13}
    assert place["message"] == {"text": "here"}
    other = result["relatedLocations"][0]
    assert (other["message"]["text"], other["physicalLocation"]["region"]["startLine"]) == ("there", 4)


def test_absolute_paths_and_nodes_of_models() -> None:
    source = Source("/a b/c.rules", "x")
    result = log(Diagnostic("cyclic-graph", "n", at=Span(source, 0, 1), node="/conv"))["results"][0]
    assert result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == "file:///a%20b/c.rules"
    assert result["locations"][0]["logicalLocations"] == [{"name": "/conv", "kind": "element"}]


def test_an_example_is_shown_by_every_rendering() -> None:
    found = Diagnostic(
        "overlapping-rules", "two match", at=at("conv"), help="narrow one", example="g {\n\ty = Relu(x)\n}"
    )
    assert "g {\n\ty = Relu(x)\n}" in log(found)["results"][0]["message"]["text"]
    assert json.loads(render_json(found))["example"] == found.example
    assert render(found).endswith("  = example:\n  |   g {\n  |       y = Relu(x)\n  |   }\n  = help: narrow one")


@given(st.text(), st.text(), st.integers(0, 50), st.integers(0, 50))
def test_any_place_in_any_text(text: str, label: str, start: int, length: int) -> None:
    span = Span(Source(label or "a", text), min(start, len(text)), min(start + length, len(text)))
    result = log(Diagnostic("usage", label, at=span, label=label, node=label, help=label, example=text))["results"][0]
    region = result["locations"][0]["physicalLocation"]["region"]
    assert (1, 1) <= (region["startLine"], region["startColumn"]) <= (region["endLine"], region["endColumn"])
