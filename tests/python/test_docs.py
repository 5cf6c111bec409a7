"""Every python block of the pages runs, in order, in a folder of its own."""
import pathlib
import re

import pytest

import tiny

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
PAGES = ["README.md", "docs/python.md", "docs/migration.md"]


@pytest.mark.parametrize("page", PAGES)
def test_code_blocks_run(page, tmp_path, monkeypatch):
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(), re.M | re.S)
    assert blocks, page
    monkeypatch.chdir(tmp_path)
    names = {"MODEL": tiny.write_model(tmp_path / "model", num_hidden_layers=2), "TEXTS": tiny.TEXTS}
    for block in blocks:
        exec(compile(block.replace('"./Qwen2.5-1.5B-Instruct"', "MODEL"), f"{page}", "exec"), names)
