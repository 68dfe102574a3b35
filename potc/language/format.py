"""`potc fmt`: one style, no options. Law: ``parse(format_file(p)) == p``; formatting twice changes nothing.

What is decided by content alone: line breaks, indentation, columns, short rules on one line. What is left to the author:
remarks, and single blank lines between statements. Graphs of tests stay as they are, byte for byte.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from potc.language import syntax as s
from potc.language.format_statements import INDENT, WIDTH, parts_of_lines, statement
from potc.language.text import number, quoted, text

COLUMN = 56  # conditions up to this length line up their `else`
_HEADER = re.compile(r"(?:\s|#[^\n]*\n)*potc\s+[0-9]+")
_BLANK = re.compile(r"[ \t\r\f]*\n[ \t\r\f]*\n\s*")


def format_file(file: s.File) -> str:
    """Canonical text of a file. Remarks are kept: above their statement, or behind it where they stood on its line."""
    writer = _Writer(list(file.comments), file.source.text)
    if file.version is not None:
        header = _HEADER.match(file.source.text)
        end = header.end() if header is not None else 0
        writer.remarks(end, 0)
        writer.lines.append(f"potc {number(file.version)}")
        writer.behind(end)
    writer.statements(file.items, 0)
    writer.remarks(None, 0)
    return "".join(f"{line}\n" for line in writer.finished())


class _Writer:
    """Lines so far, remarks that are not written yet, and up to where the source is written."""

    def __init__(self, comments: list[s.Comment], source: str) -> None:
        self.lines: list[str] = []
        self._comments = comments
        self._source = source
        self._done = 0
        self._opening = 0  # how many lines there were when the innermost block began
        self._behind: dict[int, str] = {}  # remarks behind lines, by place of the line

    def statements(self, items: Sequence[Any], depth: int) -> None:
        """Statements below one another. What takes several lines stands apart; else the author's blank lines are kept."""
        columns, short = _columns(items), self._short_ones(items, depth)
        tall = False  # does the statement before stand apart?
        for k, item in enumerate(items):
            lines = short.get(k) or _lines(item, columns)
            apart = _stands_apart(item, lines)
            first = self._comments[0].span.start if self._comments else item.span.start
            forced = k > 0 and (tall or apart or _other_kind(items[k - 1], item, depth))
            self._gap(min(first, item.span.start), forced and not _together(items[k - 1], item))
            self.statement(item, lines, depth)
            tall = apart

    def remarks(self, before: int | None, depth: int, hang: str = "") -> None:
        """Writes the remarks that come before an offset (None: all), each on its own line. ``hang``: further indentation."""
        while self._comments and (before is None or self._comments[0].span.start < before):
            comment = self._comments.pop(0)
            self._gap(comment.span.start)
            self.lines.append(INDENT * depth + hang + self._remark(comment))
            self._done = max(self._done, comment.span.end)

    def statement(self, node: Any, lines: Sequence[str], depth: int) -> None:
        """One statement below its remarks and documentation. Remarks from the middle of a line come above it."""
        parts = (
            parts_of_lines(node) if any(node.span.start < c.span.start < node.span.end for c in self._comments) else []
        )
        several = parts or isinstance(node, s.Device | s.RuleDefinition | s.RewriteDefinition | s.Test)
        self.remarks(node.span.start if several else node.span.end, depth)
        self._gap(node.span.start)
        for line in getattr(node, "doc", "").splitlines():
            self.lines.append(INDENT * depth + f"## {line}".rstrip())
        self._done = max(self._done, node.span.start)
        if isinstance(node, s.Test):
            self._test(node, depth)
        elif parts:
            self._parts(lines, parts, depth)
        elif lines:
            self.lines.extend(INDENT * depth + line for line in lines)
        else:
            self._block(node, depth)
        self.behind(node.span.end)

    def _parts(self, lines: Sequence[str], parts: Sequence[Any], depth: int) -> None:
        """The lines of a statement that has remarks between them: they stay where they are."""
        for line, part in zip(lines, parts, strict=True):
            if part is not None:
                inside = INDENT if isinstance(part, s.Block) else line[: len(line) - len(line.lstrip())]
                self.remarks(part.span.end, depth, inside)
            self.lines.append(INDENT * depth + line)
            if part is not None:
                self.behind(part.span.end)
            elif line.endswith("{"):
                self._behind_brace(self._source.find("{", self._done) + 1)

    def behind(self, end: int) -> None:
        """A remark behind the statement that ends here, on its last line, stays there."""
        self._done = max(self._done, end)
        if self._comments and not self._comments[0].own_line:
            start = self._comments[0].span.start
            if not self._source[end:start].strip(" \t,"):
                self._attach()

    def _behind_brace(self, opening: int) -> None:
        """A remark on the line of an opening brace, which ends at the offset, stays there."""
        first = self._comments[0] if self._comments else None
        if first is not None and not first.own_line and not self._source[opening : first.span.start].strip(" \t"):
            self._attach()
        self._done = max(self._done, opening)

    def _attach(self) -> None:
        comment = self._comments.pop(0)
        self._behind[len(self.lines) - 1] = self._remark(comment)
        self._done = max(self._done, comment.span.end)

    def _remark(self, comment: s.Comment) -> str:
        """As it was written, with a blank behind the mark: what is further in may be a list or a table."""
        inner = self._source[comment.span.start + 1 : comment.span.end].rstrip()
        return f"#{inner}" if inner[:1] in ("", " ", "#") else f"# {inner}"

    def finished(self) -> list[str]:
        """All lines. Remarks behind neighbouring lines stand below one another, as far as they fit."""
        lines = list(self.lines)
        for place, remark in self._behind.items():
            run = [place]
            while run[0] - 1 in self._behind:
                run.insert(0, run[0] - 1)
            while run[-1] + 1 in self._behind:
                run.append(run[-1] + 1)
            widest = max(len(self.lines[k]) for k in run)
            fits = all(widest + 2 + len(self._behind[k]) <= WIDTH for k in run)
            width = widest if fits else len(lines[place])
            lines[place] = f"{lines[place]:<{width}}  {remark}"
        return lines

    def _gap(self, start: int, forced: bool = False) -> None:
        """A blank line where the author left one or more in front of an offset, or where one must be."""
        between = self._source[self._done : start].split("##", 1)[0]
        author = not between.strip() and _BLANK.match(between) is not None
        if (forced or author) and len(self.lines) != self._opening and self.lines[-1]:
            self.lines.append("")

    def _open(self, line: str) -> None:
        self.lines.append(line)
        self._opening = len(self.lines)

    def _short_ones(self, items: Sequence[Any], depth: int) -> Mapping[int, list[str]]:
        """The lines of short rules and devices, by place. The braces of neighbours stand below one another if that fits."""
        short = {k: inner for k, item in enumerate(items) if (inner := self._short(item, depth))}
        runs: list[list[int]] = []
        for k in short:
            between = self._source[items[k - 1].span.end : items[k].span.start] if k else ""
            if runs and k - 1 == runs[-1][-1] and between.isspace() and _BLANK.match(between) is None:
                runs[-1].append(k)
            else:
                runs.append([k])
        lines: dict[int, list[str]] = {}
        for run in runs:
            column = max(len(_head(items[k])) for k in run)
            fits = all(len(INDENT * depth) + column + len(short[k]) + 5 <= WIDTH for k in run)
            width = column if fits else 0
            lines |= {k: [f"{_head(items[k]):<{width}} {{ {short[k]} }}"] for k in run}
        return lines

    def _short(self, node: Any, depth: int) -> str:
        """What stands between the braces of a rule of one or two short statements, or of a device with one setting, if it
        all fits on a line and no remark is inside."""
        if not isinstance(node, s.Device | s.RuleDefinition):
            return ""
        kinds = tuple(type(item) for item in node.items)
        if kinds not in ((s.SetFeature,), (s.Match,), (s.Match, s.Quant), (s.Match, s.Note)):
            return ""
        if any(node.span.start < c.span.start < node.span.end for c in self._comments):
            return ""
        inner = [statement(item) for item in node.items]
        line = "   ".join(lines[0] for lines in inner)
        fits = len(INDENT * depth + _head(node)) + len(line) + 5 <= WIDTH
        return line if fits and all(len(lines) == 1 for lines in inner) else ""

    def _test(self, node: s.Test, depth: int) -> None:
        devices = f" for {', '.join(node.devices)}" if node.devices else ""
        self._open(f"test {quoted(node.title)}{devices} {{")
        self.remarks(node.graph_start, depth + 1)
        self.lines.extend(f"  graph {{{node.graph}}}".split("\n"))
        self.behind(node.graph_start + len(node.graph) + 1)
        self.statements(node.expects, depth + 1)
        self.remarks(node.span.end, depth + 1)
        self.lines.append("}")

    def _block(self, node: s.Device | s.RuleDefinition | s.RewriteDefinition, depth: int) -> None:
        head = INDENT * depth + _head(node)
        if not node.items and not (self._comments and self._comments[0].span.start < node.span.end):
            self.lines.append(f"{head} {{}}")
            return
        self._open(f"{head} {{")
        opening = self._source.find("{", node.span.start, node.span.end) + 1
        self._behind_brace(opening)
        self.statements(node.items, depth + 1)
        self.remarks(node.span.end, depth + 1)
        self.lines.append(INDENT * depth + "}")


def _other_kind(before: Any, item: Any, depth: int) -> bool:
    """On the level of the file, each kind of statement is a paragraph; in a device, what follows `prefer` begins one."""
    return type(before) is not type(item) if depth == 0 else isinstance(before, s.PreferStatement)


def _together(before: Any, item: Any) -> bool:
    """`prefer` may stand below the rule that it is about, and tests below one another."""
    return isinstance(item, s.PreferStatement) or (isinstance(before, s.Test) and isinstance(item, s.Test))


def _stands_apart(item: Any, lines: Sequence[str]) -> bool:
    """Blocks and definitions of several lines; inside of a rule, nothing does."""
    if isinstance(item, s.Device | s.RuleDefinition | s.RewriteDefinition | s.Test):
        return len(lines) != 1
    return isinstance(item, s.PatternDefinition) and len(lines) > 1


def _head(node: s.Device | s.RuleDefinition | s.RewriteDefinition) -> str:
    if isinstance(node, s.Device):
        extends = f" extends {', '.join(node.parents)}" if node.parents else ""
        return f"{'abstract ' if node.abstract else ''}device {node.name}{extends}"
    if isinstance(node, s.RewriteDefinition):
        return f"rewrite {node.name}{' once' if node.once else ''}"
    return f"{'override ' if node.override else ''}{'float' if node.is_float else 'rule'} {node.name}"


# ---------------------------------------------------------------------------------------------- columns


def _columns(items: Sequence[Any]) -> Mapping[int, int]:
    """By place of a statement's text: how wide the part before its `else` or `=` is written, so that those line up."""
    widths: dict[int, int] = {}
    run: list[Any] = []
    for item in (*items, None):
        if run and type(item) is not type(run[0]):
            widest = max((w for w in (_width(i) for i in run if len(statement(i)) == 1) if w <= COLUMN), default=0)
            widths |= {i.span.start: widest for i in run}
            run = []
        if isinstance(item, s.RequireStatement | s.QTypeDefinition):
            run.append(item)
    return widths


def _width(item: s.RequireStatement | s.QTypeDefinition) -> int:
    return len(text(item.condition) if isinstance(item, s.RequireStatement) else item.name)


def _lines(node: Any, columns: Mapping[int, int]) -> list[str]:
    """The lines of a statement without inner statements; none for others."""
    if isinstance(node, s.Device | s.RuleDefinition | s.RewriteDefinition | s.Test):
        return []
    return statement(node, columns.get(node.span.start, 0))
