"""What each setting of a training means, from the documentation of the settings themselves."""

from __future__ import annotations

import dataclasses
import inspect
import re

from .settings import TrainingSettings


def setting_texts() -> dict[str, str]:
    """What each setting means, on one line, as the documentation of `TrainingSettings` says it.

    Returns:
        Texts by name of the setting; none of them is missing.
    """
    section = (inspect.getdoc(TrainingSettings) or "").partition("Attributes:")[2]
    section = section.partition("Raises:")[0]
    entries = re.findall(r"^    (\w+): (.*(?:\n {8}.*)*)", section, re.MULTILINE)
    texts = {name: " ".join(text.replace("`", "").split()) for name, text in entries}
    return {f.name: texts.get(f.name, "") for f in dataclasses.fields(TrainingSettings)}
