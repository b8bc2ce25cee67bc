"""A plain document of sections, sentences and tables, written as Markdown or as LaTeX.

Knows both notations and what has to be escaped in them: names and errors come from rows, and must not become markup.
Never knows what a document says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
}
_MARKDOWN = {character: f"\\{character}" for character in "\\`*_[]<>|#"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """Headings and lines of the same length; the first ``num_words`` columns hold words, the others numbers."""

    headings: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]
    num_words: int = 1

    def __post_init__(self) -> None:
        assert all(len(line) == len(self.headings) for line in self.lines)


@dataclass(frozen=True, kw_only=True, slots=True)
class Code:
    """Text that is kept as it is."""

    text: str
    language: str = ""


Block = str | Table | Code
"""A ``str`` is a paragraph."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    """A heading and what stands under it."""

    heading: str
    blocks: tuple[Block, ...]


def facts(pairs: Sequence[tuple[str, str]]) -> Table:
    """A table of two columns of words, a fact a line."""
    return Table(headings=("what", "value"), lines=tuple(pairs), num_words=2)


def to_markdown(title: str, sections: Sequence[Section]) -> str:
    """The document in Markdown (GitHub's tables)."""
    parts = [f"# {_plain(title)}"]
    for section in sections:
        parts.append(f"## {_plain(section.heading)}")
        parts += [_markdown_block(block) for block in section.blocks]
    return "\n\n".join(parts) + "\n"


def to_latex(title: str, sections: Sequence[Section]) -> str:
    """The document in LaTeX, to be pasted into an appendix: it needs the packages booktabs and longtable."""
    parts = ["% Needs \\usepackage{booktabs,longtable}", f"\\section{{{_latex(title)}}}"]
    for section in sections:
        parts.append(f"\\subsection{{{_latex(section.heading)}}}")
        parts += [_latex_block(block) for block in section.blocks]
    return "\n\n".join(parts) + "\n"


def _markdown_block(block: Block) -> str:
    match block:
        case Table():
            rule = ["---" if place < block.num_words else "---:" for place in range(len(block.headings))]
            return "\n".join(_row([_plain(cell) for cell in line]) if line is not rule else _row(rule)
                             for line in [list(block.headings), rule, *block.lines])  # fmt: skip
        case Code():
            # Longer than any run of backticks in the text, so that nothing in it closes the block.
            fence = "`" * max(
                3, 1 + max(len(run) for run in "".join(c if c == "`" else " " for c in block.text).split(" "))
            )
            return f"{fence}{block.language}\n{block.text.rstrip()}\n{fence}"
        case _:
            return _plain(block)


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _plain(text: str) -> str:
    """One line in which no character is markup."""
    return "".join(_MARKDOWN.get(character, character) for character in " ".join(text.split()))


def _latex_block(block: Block) -> str:
    match block:
        case Table():
            num_numbers = len(block.headings) - block.num_words
            # Where all is words, the last column is the one with sentences.
            columns = "l" * block.num_words + "r" * num_numbers
            columns = columns if num_numbers else f"{columns[:-1]}p{{0.6\\linewidth}}"
            body = [" & ".join(_latex(cell) for cell in line) + r" \\" for line in (block.headings, *block.lines)]
            rows = [r"\toprule", body[0], r"\midrule", *body[1:], r"\bottomrule"]
            return "\n".join([r"{\small\setlength{\tabcolsep}{4pt}", f"\\begin{{longtable}}{{{columns}}}", *rows,
                              r"\end{longtable}}"])  # fmt: skip
        case Code():
            # The text that would end the block is taken apart.
            text = block.text.rstrip().replace("end{verbatim}", "end {verbatim}")
            return f"\\begin{{verbatim}}\n{text}\n\\end{{verbatim}}"
        case _:
            return _latex(block)


def _latex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in " ".join(text.split()))
