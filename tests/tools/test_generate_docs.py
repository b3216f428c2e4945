"""The generated pages are current."""

import pytest

from tools.generate_docs import FOLDER, PAGES


@pytest.mark.parametrize("name", PAGES)
def test_a_generated_page_is_current(name: str):
    assert (FOLDER / name).read_text(encoding="utf-8") == PAGES[name](), "run `python -m tools.generate_docs`"
