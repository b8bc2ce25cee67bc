"""Under which licences the texts of a source are stated to be.

Knows the cards of Hub data sets and the metadata of installed packages. Never judges what a licence allows: it repeats
what is stated, and says where nothing is.
"""

from __future__ import annotations

import email
from collections import Counter
from pathlib import Path

from trainer.corpus import metadata_files
from trainer.data import Origin
from trainer.sources import is_file

NANO = "nano"


def stated_licences(origin: Origin) -> dict[str, int]:
    """Licences as they are written, with how many packages or cards state each, the most frequent first.

    Of ``nano`` those of the installed packages; of a Hub data set that of its card, from the Hub or its cache, and none
    where neither can be read; of files none, since no file format has a place for one.
    """
    if origin.source == NANO:
        chosen = {name.strip() for name in origin.name.split(",")} - {""}
        counts = Counter(_of_package(path) for path in metadata_files(chosen))
        return dict(sorted(counts.items(), key=lambda one: (-one[1], one[0])))
    if is_file(origin.source):
        return {}
    return _of_card(origin.source)


def _of_package(path: Path) -> str:
    """The licence that a distribution's METADATA states: its SPDX expression, else its classifier, else its words."""
    headers = email.message_from_string(path.read_text(encoding="utf-8", errors="replace"))
    expression = headers.get("License-Expression")
    if expression:
        return str(expression)
    classified = [
        str(line).rpartition("::")[2].strip()
        for line in headers.get_all("Classifier", [])
        if str(line).startswith("License ::")
    ]
    if classified:
        return " and ".join(classified)
    lines = str(headers.get("License", "")).strip().splitlines()
    return lines[0][:60] if lines else "not stated"


def _of_card(name: str) -> dict[str, int]:
    from huggingface_hub import DatasetCard, hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError

    try:
        card = DatasetCard.load(hf_hub_download(name, "README.md", repo_type="dataset"))
    except (EntryNotFoundError, LocalEntryNotFoundError, HfHubHTTPError, OSError):
        return {"the card could not be read": 1}
    licence = card.data.to_dict().get("license")
    stated = licence if isinstance(licence, list) else [licence or "not stated on the card"]
    return dict.fromkeys(map(str, stated), 1)
