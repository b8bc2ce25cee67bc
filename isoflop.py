"""The front door: the command line.

Joins the commands of ``commands/``, each of which imports what it needs when it runs, so that help and status answer at
once. Bad input becomes one sentence and exit status 2; a failed trial, exit status 1.
"""

from __future__ import annotations

import errno
import sys
from typing import NoReturn

import typer

from commands import data, meaning, models, paper, sweep
from trainer.refusal import is_of_a_new_folder, is_ours

app = typer.Typer(
    help="How to spend a GPU budget on turning a decoder language model into a text-embedding model.",
    epilog="SPEC is a YAML file, or a preset: quickstart, smoke, pythia. STORE is a store's folder or URI, or a "
    "sweep's name.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    # Plain help answers in half the time of rich help.
    rich_markup_mode=None,
)
for group in (data, sweep, meaning, models, paper):
    app.add_typer(group.app)


def main() -> None:
    """Entry point of the console script."""
    try:
        app(prog_name="isoflop")
    except ValueError as error:
        if not is_ours(error):
            raise
        _refuse(str(error))
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        nowhere = error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EEXIST) and is_of_a_new_folder(error)
        if not (full or nowhere or error.errno in (errno.EACCES, errno.EROFS)):
            raise
        mend = "make room, or give another folder" if full else "give another folder"
        _refuse(f"{error.filename or 'a file'} cannot be written ({error.strerror}): {mend}")


def _refuse(sentence: str) -> NoReturn:
    print(f"isoflop: {sentence}", file=sys.stderr)
    sys.exit(2)


if __name__ == "__main__":
    main()
