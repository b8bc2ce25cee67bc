from __future__ import annotations

import sysconfig
from collections.abc import Callable
from pathlib import Path

import pytest

from trainer.corpus import Corpus, build_corpus, fingerprint, versions

LONG_REST = "It keeps every word of the caller's text, in the order in which the words were first seen there."


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An environment of its own: an empty site folder, and a standard library without modules."""
    for name in ("site", "stdlib"):
        (tmp_path / name).mkdir()
    paths = {"purelib": str(tmp_path / "site"), "platlib": str(tmp_path / "site"), "stdlib": str(tmp_path / "stdlib")}
    monkeypatch.setattr(sysconfig, "get_paths", lambda: paths)
    return tmp_path / "site"


def write(site: Path, name: str, text: str) -> None:
    path = site / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def build(*packages: str, progress: Callable[[int, int], None] = lambda done, total: None) -> Corpus:
    return build_corpus(packages, progress)


FUNCTION = '''
class Reader:
    @cached
    def words(self, text):
        """Split a text into words
        at white space. Empty words are left out.

        Returns a list.
        """
        found = text.split()
        # a comment stays
        return [word for word in found if word]
'''


def test_a_pair_is_the_first_sentence_and_the_code_without_its_docstring(site: Path) -> None:
    write(site, "pack/text/reader.py", FUNCTION)
    (passage,) = build().passages
    assert passage.query == "Split a text into words at white space."
    assert passage.positive == (
        "def words(self, text):\n"
        "    found = text.split()\n"
        "    # a comment stays\n"
        "    return [word for word in found if word]"
    )
    assert passage.module == "pack.text.reader"


def test_classes_and_short_functions_give_the_rest_of_their_docstring(site: Path) -> None:
    write(site, "a.py", f'class A:\n    """Keeps the words of texts. {LONG_REST}"""\n')
    write(
        site, "b.py", f'def b():\n    """Returns the words of texts.\n\n    {LONG_REST} Twice.\n    """\n    return 1\n'
    )
    write(site, "c.py", 'def c():\n    """Returns nothing that could be found."""\n    return 1\n')
    corpus = build()
    assert [p.positive for p in corpus.passages] == [LONG_REST, f"{LONG_REST} Twice."]
    assert corpus.dropped == {"nothing to find": 1}


def test_files_are_read_and_never_run(site: Path) -> None:
    write(site, "danger.py", "raise SystemExit('imported')\n" + FUNCTION)
    write(site, "python2.py", "print 'old'\n")
    write(site, "latin.py", "# -*- coding: latin-1 -*-\n")
    (site / "binary.py").write_bytes(b"\xff\xfe\x00")
    corpus = build()
    assert [p.module for p in corpus.passages] == ["danger"]
    assert corpus.dropped == {"file not readable as Python": 2}


def test_what_is_no_good_pair_is_dropped_and_counted(site: Path) -> None:
    def documented(name: str, docstring: str) -> str:
        return f'def {name}(x):\n    """{docstring}"""\n    y = x + {name!r} + "some code long enough"\n    return y\n'

    texts = {
        "one": "Too short.",
        "two": "word " * 61,
        "three": "Das heißt übermäßig größere Wörter äöüäöüäöü.",
        "four": "Return the word and more.",
        "five": "Return the WORD, and more!",
        "test_six": "Return the sixth of the words.",
        "__seven__": "Return the seventh of the words.",
    }
    write(site, "m.py", "".join(documented(name, text) for name, text in texts.items()))
    write(site, "n.py", documented("four", "Return another word and more."))
    corpus = build()
    assert [p.query for p in corpus.passages] == ["Return the word and more."]
    assert corpus.dropped == {
        "positive repeated": 1,
        "query not in English letters": 1,
        "query repeated": 1,
        "query too long": 1,
        "query too short": 1,
    }


def test_tests_vendored_code_and_this_project_stay_out(site: Path) -> None:
    others = ["trainer/f.py", "isoflop.py", "__editable___other_finder.py", "kept-1.0.dist-info/g.py"]
    inside = ["kept/a.py", "kept/tests/b.py", "kept/_vendor/c.py", "kept/test_d.py", "kept/e_pb2.py"]
    for number, place in enumerate([*inside, *others]):
        write(site, place, FUNCTION.replace("found", f"found{number}").replace("Split a", f"Split {number} or a"))
    assert [p.module for p in build().passages] == ["kept.a"]


def test_order_and_progress_do_not_depend_on_who_reads_what(site: Path) -> None:
    for number in range(150):
        text = FUNCTION.replace("found", f"found{number}").replace("Split a", f"Split {number} or a")
        write(site, f"pack/m{number:03}.py", text)
    seen: list[tuple[int, int]] = []
    first, second = build(progress=lambda done, total: seen.append((done, total))), build()
    assert first == second
    assert [p.module for p in first.passages] == [f"pack.m{number:03}" for number in range(150)]
    assert seen[-1] == (150, 150) and seen == sorted(seen)


def test_chosen_packages_only(site: Path) -> None:
    for name in ("one", "two"):
        write(site, f"{name}/m.py", FUNCTION.replace("Split a", f"Split {name} or a").replace("found", name))
    assert [p.module for p in build("two").passages] == ["two.m"]
    with pytest.raises(ValueError, match=r"data name 'six,two': package 'six' is not installed"):
        build("six", "two")


def test_fingerprint_follows_the_installed_versions_but_not_this_project(site: Path) -> None:
    (site / "numpy-2.0.0.dist-info").mkdir()
    before = fingerprint()
    assert versions() == {"numpy": "2.0.0"}
    assert fingerprint() == before
    assert fingerprint(["numpy"]) != before
    (site / "isoflop-0.1.0.dist-info").mkdir()
    assert fingerprint() == before
    (site / "numpy-2.0.0.dist-info").rename(site / "numpy-2.0.1.dist-info")
    assert fingerprint() != before
