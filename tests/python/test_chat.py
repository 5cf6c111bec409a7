"""apply_chat_template as transformers does it, and conversations as calibration data."""
import pathlib
import shutil

import pytest

import awq
from awq.errors import BadArgumentError, NotFoundError

TEMPLATE = ("{% for m in messages %}<{{ m.role }}>{{ m.content }}</{{ m.role }}>\n{% endfor %}{% for t in tools or [] %}{{ t | tojson }}{% endfor %}"
            "{% if add_generation_prompt %}<assistant>{{ '<think>' if thinking }}{% endif %}")
MESSAGES = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello  "}]


@pytest.fixture
def tokenizer(model, tmp_path):
    folder = tmp_path / "chat"
    shutil.copytree(model, folder)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return awq.AutoTokenizer.from_pretrained(folder)


def test_text_and_ids(tokenizer):
    text = tokenizer.apply_chat_template(MESSAGES, tokenize=False)
    assert text == "<user>Hi</user>\n<assistant>Hello  </assistant>\n"
    assert tokenizer.apply_chat_template(MESSAGES) == tokenizer.encode(text, add_special_tokens=False)
    assert tokenizer.apply_chat_template(MESSAGES[:1], tokenize=False, add_generation_prompt=True, thinking=True).endswith("<assistant><think>")
    assert tokenizer.apply_chat_template([MESSAGES, MESSAGES[:1]], tokenize=False)[1] == "<user>Hi</user>\n"
    encoded = tokenizer.apply_chat_template(MESSAGES, return_tensors="np", return_dict=True)
    assert encoded.input_ids.shape == encoded.attention_mask.shape


def test_continue_final_message(tokenizer):
    assert tokenizer.apply_chat_template(MESSAGES, tokenize=False, continue_final_message=True) == "<user>Hi</user>\n<assistant>Hello  "
    with pytest.raises(BadArgumentError, match="not possible together"):
        tokenizer.apply_chat_template(MESSAGES, continue_final_message=True, add_generation_prompt=True)


def test_tools_from_functions(tokenizer):
    def add(x: int, tags: list[str], y: float = 1.0):
        """Adds.

        Args:
            x: the first
            tags: some
                names
        """

    text = tokenizer.apply_chat_template(MESSAGES[:1], tools=[add], tokenize=False)
    assert text.endswith('{"type": "function", "function": {"name": "add", "description": "Adds.", "parameters": {"type": "object", "properties": '
                         '{"x": {"type": "integer", "description": "the first"}, "tags": {"type": "array", "items": {"type": "string"}, '
                         '"description": "some names"}, "y": {"type": "number"}}, "required": ["x", "tags"]}}}')


def test_templates_given_and_refused(tokenizer):
    assert tokenizer.apply_chat_template(MESSAGES, chat_template="{{ messages | length }}", tokenize=False) == "2"
    with pytest.raises(BadArgumentError, match="line 1: the template says: no"):
        tokenizer.apply_chat_template(MESSAGES, chat_template="{{ raise_exception('no') }}")
    tokenizer.chat_template = None
    with pytest.raises(NotFoundError):
        tokenizer.apply_chat_template(MESSAGES)
