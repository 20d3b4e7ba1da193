"""Writes the repository's public address into pyproject.toml, with all that hangs on it.

``python tools dev.set_address https://github.com/OWNER/mirage``: the registry's page links to the
repository, and shows its icon and banner from there. None of these can be named before the
repository has an address.
"""

from __future__ import annotations

import argparse
import re
import sys

from dev.comfy_server import PACK

ICON = "docs/images/icon.svg"
BANNER = "docs/images/banner.svg"
GITHUB = re.compile(r"https://github\.com/([\w.-]+)/([\w.-]+?)(?:\.git)?/?")


def with_address(project: str, address: str, branch: str) -> str:
    """The text of pyproject.toml with an address in place of the one that it has, if any.

    Raises:
        ValueError: The address is none of a repository on GitHub, from where pictures are shown.
    """
    found = GITHUB.fullmatch(address)
    if found is None:
        raise ValueError(f"{address} is no https://github.com/OWNER/REPOSITORY")
    owner, name = found.groups()
    home = f"https://github.com/{owner}/{name}"
    raw = f"https://raw.githubusercontent.com/{owner}/{name}/{branch}"
    urls = {"Repository": home, "Documentation": f"{home}#readme", "Issues": f"{home}/issues"}
    pictures = {"Icon": f"{raw}/{ICON}", "Banner": f"{raw}/{BANNER}"}
    return _with_keys(_with_keys(project, "project.urls", urls), "tool.comfy", pictures)


def _with_keys(project: str, table: str, keys: dict[str, str]) -> str:
    """The text with keys of a table set: at its end, but for lines that it has already."""
    head, heading, rest = project.partition(f"[{table}]\n")
    body, gap, tail = rest.partition("\n\n")
    kept = [line for line in body.split("\n") if line.partition(" ")[0] not in keys]
    lines = [*kept, *(f'{key} = "{value}"' for key, value in keys.items())]
    return head + heading + "\n".join(lines) + gap + tail


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("address", help="https://github.com/OWNER/REPOSITORY")
    parser.add_argument("--branch", default="main", help="branch that the pictures are shown from")
    given = parser.parse_args()
    path = PACK / "pyproject.toml"
    try:
        text = with_address(path.read_text(encoding="utf-8"), given.address, given.branch)
    except ValueError as error:
        parser.error(str(error))
    path.write_text(text, encoding="utf-8")
    print(f"{path} names {given.address}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
