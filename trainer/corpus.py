"""Pairs from the Python packages that are installed here: what a docstring says, and the code that does it.

The CodeSearchNet recipe (Husain et al. 2019): the query is the first sentence of a docstring, the positive is the
function without its docstring, or, where there is little code, the rest of the docstring. Files are read with ``ast``
and never imported. Knows the environment's folders; never knows tokens, splits or models. The texts keep the licences
of their packages: build the corpus where it is used, do not pass it on.
"""

from __future__ import annotations

import ast
import gc
import hashlib
import inspect
import os
import re
import sys
import sysconfig
import tokenize
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from trainer.processes import in_processes, num_usable_cores, tick
from trainer.splits import normalised

RECIPE = 1
"""Raise it when a change below changes the pairs: it is part of the fingerprint."""

QUERY_WORDS = (4, 60)
QUERY_ASCII_SHARE = 0.95
CODE_LINES, CODE_CHARACTERS = 3, 60
REST_WORDS = 12
POSITIVE_CHARACTERS = 2000
FILE_CHARACTERS = 2_000_000

SKIPPED_FOLDERS = frozenset(
    {"__pycache__", "idlelib", "lib2to3", "site-packages", "test", "testing", "tests"}
    | {"_vendor", "thirdparty_files", "vendor", "vendored"}
)
OWN_PACKAGES = frozenset({"isoflop", "commands", "trainer", "sweeps", "cluster", "analysis"})
"""This project must not enter its own corpus: each commit would make a new one."""

_FILES_PER_TASK = 64
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[^a-z0-9])")

Documented = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


class Passage(NamedTuple):
    """A pair and the module it comes from, such as ``json.decoder``."""

    query: str
    positive: str
    module: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Corpus:
    """The pairs in the order of their files, and how many candidates fell out for which reason."""

    passages: list[Passage]
    dropped: dict[str, int]


def versions() -> dict[str, str]:
    """Version by name of every installed distribution except this project, as its metadata folder spells them."""
    stems = (path.stem for folder in _site_folders() for path in folder.glob("*.dist-info"))
    pairs = (stem.partition("-") for stem in sorted(stems))
    return {name: version for name, _, version in pairs if name not in OWN_PACKAGES}


def metadata_files(packages: Set[str]) -> list[Path]:
    """METADATA of every installed distribution, or of those that bring one of these top-level packages."""
    folders = [path for folder in _site_folders() for path in sorted(folder.glob("*.dist-info"))]
    return [
        folder / "METADATA"
        for folder in folders
        if (folder / "METADATA").is_file() and (not packages or packages & _top_level(folder))
    ]


def _top_level(folder: Path) -> set[str]:
    """The top-level packages of a distribution, from the list of its files."""
    record = folder / "RECORD"
    lines = record.read_text(encoding="utf-8", errors="replace").splitlines() if record.is_file() else []
    return {line.partition("/")[0] for line in lines}


def fingerprint(packages: Sequence[str] = ()) -> str:
    """16 hex digits over all that decides the corpus: distributions and their versions, Python, recipe, choice.

    Reads folder names only, so it takes milliseconds.
    """
    parts = [f"recipe {RECIPE}", f"python {sys.version}", *sorted(packages)]
    parts += [f"{name}=={version}" for name, version in versions().items()]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def build_corpus(packages: Sequence[str], progress: Callable[[int, int], None]) -> Corpus:
    """The corpus of these top-level packages, or of all when none is named, the standard library included.

    ``progress`` gets files read and files in all. Raises ``ValueError`` for a package that is not installed.
    """
    files = list(_source_files(frozenset(packages)))
    missing = set(packages) - {module.partition(".")[0] for _, module in files}
    if missing:
        raise ValueError(
            f"data name {','.join(packages)!r}: package {min(missing)!r} is not installed here with Python sources; "
            "name installed top-level packages, or leave the name empty for all"
        )
    tasks = [files[i : i + _FILES_PER_TASK] for i in range(0, len(files), _FILES_PER_TASK)]
    parts = in_processes(
        _read_files, tasks, num_processes=num_usable_cores(), progress=lambda done: progress(done, len(files))
    )
    return _without_repeats(parts)


def _site_folders() -> list[Path]:
    paths = sysconfig.get_paths()
    return sorted({Path(paths["purelib"]), Path(paths["platlib"])})


def _source_files(packages: frozenset[str]) -> Iterator[tuple[str, str]]:
    """(path, module) of the Python files to read, in an order that depends on their names only."""
    for root in (*_site_folders(), Path(sysconfig.get_paths()["stdlib"])):
        for folder, folders, files in os.walk(root):
            relative = Path(folder).relative_to(root).parts
            top = relative[:1] or None
            folders[:] = sorted(
                name
                for name in folders
                if name not in SKIPPED_FOLDERS
                and not name.endswith((".dist-info", ".data"))
                and (top or _is_chosen(name, packages))
            )
            for name in sorted(files):
                stem = name.removesuffix(".py")
                if stem == name or stem.startswith("test_") or stem.endswith(("_test", "_pb2")) or stem == "conftest":
                    continue
                if top or _is_chosen(stem, packages):
                    yield os.path.join(folder, name), ".".join((*relative, stem))


def _is_chosen(top: str, packages: frozenset[str]) -> bool:
    return top in packages if packages else top not in OWN_PACKAGES and not top.startswith("__editable__")


def _read_files(files: Sequence[tuple[str, str]]) -> tuple[list[Passage], Counter[str]]:
    passages: list[Passage] = []
    dropped: Counter[str] = Counter()
    # Syntax trees hold no cycles, and looking for some takes a fifth of the time.
    gc.disable()
    for path, module in files:
        passages += _read_file(path, module, dropped)
        tick(1)
    return passages, dropped


def _read_file(path: str, module: str, dropped: Counter[str]) -> Iterator[Passage]:
    try:
        with tokenize.open(path) as file:
            source = file.read(FILE_CHARACTERS + 1)
        if len(source) > FILE_CHARACTERS:
            dropped["file too long"] += 1
            return
        with warnings.catch_warnings():
            # Other people's invalid escapes are no concern of whoever runs this.
            warnings.simplefilter("ignore")
            tree = ast.parse(source)
        documented = list(_documented(tree))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        dropped["file not readable as Python"] += 1
        return
    lines = source.split("\n")
    for node, docstring in documented:
        query, rest = _first_sentence(docstring)
        positive = _positive(node, rest, lines)
        reason = _why_not(query, positive)
        if reason:
            dropped[reason] += 1
        else:
            yield Passage(query, positive[:POSITIVE_CHARACTERS], module)


def _documented(tree: ast.AST) -> Iterator[tuple[Documented, str]]:
    """Functions, methods and classes with a docstring, outermost first, dunder and test names left out."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, Documented):
            special = node.name.startswith("test") or (node.name.startswith("__") and node.name.endswith("__"))
            docstring = None if special else ast.get_docstring(node, clean=False)
            if docstring:
                yield node, docstring
            yield from _documented(node)
        elif isinstance(node, ast.If | ast.Try | ast.With):
            yield from _documented(node)


def _first_sentence(docstring: str) -> tuple[str, str]:
    paragraph, _, rest = inspect.cleandoc(docstring).partition("\n\n")
    sentence, *more = _SENTENCE_END.split(" ".join(paragraph.split()), maxsplit=1)
    return sentence, "\n".join([*more, rest]).strip()


def _positive(node: Documented, rest: str, lines: list[str]) -> str:
    """The function without its docstring; the rest of the docstring for classes and short functions; else nothing."""
    if not isinstance(node, ast.ClassDef):
        docstring = node.body[0]
        start, end = docstring.lineno - 1, docstring.end_lineno
        code = lines[node.lineno - 1 : start] + lines[end : node.end_lineno]
        indent = node.col_offset
        text = "\n".join(line[indent:] if not line[:indent].strip() else line for line in code).strip()
        if start >= node.lineno and text.count("\n") + 1 >= CODE_LINES and len(text) >= CODE_CHARACTERS:
            return text
    return rest if len(rest.split()) >= REST_WORDS else ""


def _why_not(query: str, positive: str) -> str:
    """Why the pair is dropped; empty when it is kept."""
    num_words = len(query.split())
    if num_words < QUERY_WORDS[0]:
        return "query too short"
    if num_words > QUERY_WORDS[1]:
        return "query too long"
    if len(query.encode("ascii", "ignore")) < QUERY_ASCII_SHARE * len(query):
        return "query not in English letters"
    return "" if positive else "nothing to find"


def _without_repeats(parts: Sequence[tuple[list[Passage], Counter[str]]]) -> Corpus:
    """Each normalised query and each normalised positive once, the first in the order of the files."""
    dropped: Counter[str] = Counter()
    for _, part in parts:
        dropped += part
    queries: set[bytes] = set()
    positives: set[bytes] = set()
    kept = []
    for passage in (passage for passages, _ in parts for passage in passages):
        query, positive = _key(passage.query), _key(passage.positive)
        if query in queries:
            dropped["query repeated"] += 1
        elif positive in positives:
            dropped["positive repeated"] += 1
        else:
            queries.add(query)
            positives.add(positive)
            kept.append(passage)
    return Corpus(passages=kept, dropped=dict(sorted(dropped.items())))


def _key(text: str) -> bytes:
    return hashlib.blake2b(normalised(text).encode(), digest_size=12).digest()
