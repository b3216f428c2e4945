"""README.zh-CN.md says the same as README.md: headings, commands, tables and links match one to one."""

import re
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ENGLISH, CHINESE = ROOT / "README.md", ROOT / "README.zh-CN.md"
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
CODE_SPAN = re.compile(r"`[^`]+`")


def prose(page: Path) -> str:
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def headings(page: Path) -> list[tuple[str, list[str]]]:
    lines = re.findall(r"^(#+) (.*)$", prose(page), re.MULTILINE)
    return [(level, CODE_SPAN.findall(title)) for level, title in lines]


def blocks(page: Path) -> list[str]:
    """The code blocks without their comments: `# ...` to the end of a line, after white space."""
    found = FENCE.findall(page.read_text(encoding="utf-8"))
    return [re.sub(r"[ ]+# .*$", "", block, flags=re.MULTILINE) for block in found]


def tables(page: Path) -> list[list[list[list[str]]]]:
    """For each table, row and cell: the code spans and pictures in it."""
    found = re.findall(r"(?:^\|.*\|$\n?)+", prose(page), re.MULTILINE)
    spans = re.compile(rf"{CODE_SPAN.pattern}|!\[\]\([^)]+\)")
    return [
        [[spans.findall(cell) for cell in row.strip("|").split("|")] for row in table.strip().split("\n")]
        for table in found
    ]


def links(page: Path) -> Counter[str]:
    found = re.findall(r"\]\(([^)]+)\)|<(https?://[^>]+)>", prose(page))
    return Counter(link or bare for link, bare in found if link not in (ENGLISH.name, CHINESE.name))


def code_spans(page: Path) -> Counter[str]:
    return Counter(CODE_SPAN.findall(prose(page)))


@pytest.mark.parametrize("part", [headings, blocks, tables, links, code_spans])
def test_both_readmes_have_the_same_headings_commands_tables_and_links(part):
    assert part(ENGLISH) == part(CHINESE)
    assert part(ENGLISH)


def test_each_readme_links_the_other_at_its_top():
    for page, other in ((ENGLISH, CHINESE), (CHINESE, ENGLISH)):
        assert f"]({other.name})" in "\n".join(page.read_text(encoding="utf-8").splitlines()[:5])
