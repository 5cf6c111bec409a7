#!/usr/bin/env python3
"""Records what jinja2 makes of each template in tests/data/chat_templates with each conversation beside them.

    python3 -m venv /tmp/venv && /tmp/venv/bin/pip install jinja2 && /tmp/venv/bin/python tests/oracle/record_templates.py

Writes expected.json: {template: [{"text", "generation"} or {"error"}, ...]}; tests/unit/tokenizer/chat_template_test.cpp
compares. --check fails where the file differs from what jinja2 says now."""
import json
import pathlib
import sys

import jinja_chat

FOLDER = pathlib.Path(__file__).parent.parent / "data" / "chat_templates"


def outcome(env, source, context):
    try:
        text, spans = jinja_chat.render(env, source, context)
        return {"text": text, "generation": spans}
    except Exception as error:  # noqa: BLE001: whatever stops jinja2 is its refusal
        return {"error": f"{type(error).__name__}: {error}"}


def main():
    env = jinja_chat.environment()
    conversations = json.loads((FOLDER / "conversations.json").read_text())
    expected = {f.name: [outcome(env, f.read_text(), c) for c in conversations] for f in sorted(FOLDER.glob("*.jinja"))}
    text = json.dumps({"now": jinja_chat.NOW, "expected": expected}, ensure_ascii=False, indent=1) + "\n"
    target = FOLDER / "expected.json"
    if "--check" in sys.argv:
        sys.exit(target.read_text() != text)
    target.write_text(text)
    results = [r for rs in expected.values() for r in rs]
    print(f"{len(expected)} templates x {len(conversations)} conversations: {sum('text' in r for r in results)} texts, {sum('error' in r for r in results)} refusals")


if __name__ == "__main__":
    main()
