"""Write schema.json and the English texts anew from the code, after a change that is meant.

    <ComfyUI's python> tests/nodes/run_checks.py <ComfyUI> tests/nodes/update_schema.py report.json

Then look at the difference before committing it, and bring locales/zh and web/docs up to date.
"""

import json
from pathlib import Path

from jodi_pack.tests.nodes.snapshot import contract, texts

ROOT = Path(__file__).resolve().parents[2]


def check_written():
    write("tests/nodes/schema.json", contract())
    write("locales/en/nodeDefs.json", texts())


def write(path: str, values: dict) -> None:
    (ROOT / path).parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(values, indent=2, ensure_ascii=False)
    (ROOT / path).write_text(text + "\n", encoding="utf-8")
