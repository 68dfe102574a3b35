"""Diagnostics as one SARIF 2.1.0 log: what code hosts and editors show beside the lines of rule files.

Source: "Static Analysis Results Interchange Format (SARIF) Version 2.1.0", OASIS Standard, 27 March 2020.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from urllib.parse import quote

from potc import __version__
from potc.diagnostics.codes import CODES
from potc.diagnostics.diagnostic import Diagnostic
from potc.diagnostics.source import Span

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"


def render_sarif(diagnostics: Iterable[Diagnostic]) -> str:
    """The whole log with one run, as text without a final line end. Paths stay as they were given; columns count
    characters from 1, and the end column is the first behind the place.
    """
    found = tuple(diagnostics)
    codes = sorted({d.code for d in found})
    index = {code: k for k, code in enumerate(codes)}
    driver = {
        "name": "potc",
        "version": __version__,
        "rules": [_rule(code) for code in codes],
    }
    run = {
        "tool": {"driver": driver},
        "columnKind": "unicodeCodePoints",
        "results": [_result(d, index[d.code]) for d in found],
    }
    return json.dumps({"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}, indent=2)


def _rule(code: str) -> dict[str, object]:
    known = CODES.get(code)
    if known is None:
        return {"id": code}
    return {"id": code, "shortDescription": {"text": known.meaning}, "help": {"text": known.help}}


def _result(diagnostic: Diagnostic, index: int) -> dict[str, object]:
    words = [f"{diagnostic.message}."]
    if diagnostic.help is not None:
        words.append(f"Help: {diagnostic.help}.")
    if diagnostic.example is not None:
        words.append(f"Example:\n{diagnostic.example}")
    result: dict[str, object] = {
        "ruleId": diagnostic.code,
        "ruleIndex": index,
        "level": diagnostic.severity.value,
        "message": {"text": " ".join(words)},
    }
    location: dict[str, object] = {}
    if diagnostic.at is not None:
        location["physicalLocation"] = _place(diagnostic.at)
        if diagnostic.label:
            location["message"] = {"text": diagnostic.label}
    if diagnostic.node is not None:
        location["logicalLocations"] = [{"name": diagnostic.node, "kind": "element"}]
    if location:
        result["locations"] = [location]
    if diagnostic.related:
        result["relatedLocations"] = [
            {"id": k, "physicalLocation": _place(r.at), "message": {"text": r.label}}
            for k, r in enumerate(diagnostic.related)
        ]
    return result


def _place(at: Span) -> dict[str, object]:
    line, column = at.source.position(at.start)
    end_line, end_column = at.source.position(at.end)
    region = {"startLine": line, "startColumn": column, "endLine": end_line, "endColumn": end_column}
    return {"artifactLocation": {"uri": _uri(at.source.path)}, "region": region}


def _uri(path: str) -> str:
    """A path as SARIF wants it: relative ones as they are, with forward slashes; absolute ones as ``file:`` URIs."""
    plain = path.replace(os.sep, "/")
    return f"file://{'' if plain.startswith('/') else '/'}{quote(plain)}" if os.path.isabs(path) else quote(plain)
