"""Calibration data in the forms AutoAWQ's scripts hold it in, as a name, a digest and token ids."""
from __future__ import annotations

import hashlib
import json
import os
from typing import Any, Iterable, List, NamedTuple, Optional

from . import _core
from ._arguments import say_once
from .errors import BadArgumentError
from .tokenizer import AutoTokenizer

# A list of texts is what a .jsonl file of this name with one {"text": ...} per line is to the command line.
LIST_NAME = "calib_data.jsonl"
# Characters a token stands for at most, on average: where reading an endless iterable may stop.
CHARS_PER_TOKEN = 8


class Calibration(NamedTuple):
    name: str
    sha256: str
    ids: List[int]


def json_lines(texts: Iterable[Any]) -> str:
    return "".join(json.dumps(t if isinstance(t, dict) else {"text": t}, ensure_ascii=False) + "\n" for t in texts)


def _texts_of(data: Iterable[Any], text_column: str, enough_chars: int) -> List[Any]:
    endless = not hasattr(data, "__len__")
    out, chars = [], 0
    for i, item in enumerate(data):
        if isinstance(item, dict):
            if text_column not in item and isinstance(item.get("messages"), (list, tuple)):
                out.append({k: item[k] for k in ("messages", "tools") if k in item})  # a conversation, for the template
                chars += len(json.dumps(out[-1], ensure_ascii=False))
                if endless and chars >= enough_chars:
                    break
                continue
            if text_column not in item:
                raise BadArgumentError(f"calib_data[{i}]: expected a key '{text_column}' (text_column), got {sorted(item)}")
            item = item[text_column]
        if hasattr(item, "tolist"):
            item = item.tolist()
        if not isinstance(item, str):
            if not (isinstance(item, (list, tuple)) and all(isinstance(t, int) for t in item)):
                raise BadArgumentError(f"calib_data[{i}]: expected a string, token ids or a dict with '{text_column}', got {type(item).__name__}")
        if len(item):
            out.append(item)
            chars += len(item)
        if endless and chars >= enough_chars:
            break
    if not out:
        raise BadArgumentError("calib_data: expected text, got none")
    return out


def _ids_of_text(text: Any, tokenizer: Any) -> List[int]:
    """The texts' tokens in order, nothing between them and no special tokens around them."""
    core = getattr(tokenizer, "_core", None)
    if core is not None:
        return core.stream(text)
    ids: List[int] = []
    for sample in text.samples:
        ids += [int(i) for i in tokenizer.encode(sample, add_special_tokens=False)]
    return ids


def collect(data: Any, tokenizer: Any, model: str, split: Optional[str] = "train", text_column: str = "text", samples: int = 128,
            seq_len: int = 512) -> Calibration:
    """data: "builtin", a .txt or .jsonl file, or an iterable of strings, of token ids, of dicts with `text_column`,
    or of conversations {"messages": [...]}, which go through the model's chat template; a dict
    of such iterables (datasets.DatasetDict) is looked up by `split`. AutoAWQ's default name "pileval" means the built-in set.
    tokenizer: ours, transformers' (its encode is called), or None for the model's own."""
    if data is None:
        data = "builtin"
    if isinstance(data, (str, os.PathLike)):
        data = os.fspath(data)
        if data == "pileval":
            say_once("calib.pileval", "calib_data 'pileval' is not downloaded: the built-in calibration text is used instead")
            data = "builtin"
        elif data != "builtin" and not os.path.exists(data):
            raise BadArgumentError(f"calib_data '{data}': expected a list of texts or token ids, 'builtin', or a .txt or .jsonl file; for a "
                                   "data set of a hub pass datasets.load_dataset(...)")
        return _of_text(_core.load_text(data, False, model), tokenizer, model)
    if isinstance(data, dict) and data and not isinstance(next(iter(data.values())), str):
        if split not in data:
            raise BadArgumentError(f"split '{split}': expected one of {sorted(data)}")
        data = data[split]
    items = _texts_of(data, text_column, CHARS_PER_TOKEN * samples * seq_len)
    if all(isinstance(i, (str, dict)) for i in items):
        return _of_text(_core.parse_json_lines(json_lines(items), LIST_NAME, model), tokenizer, model)
    if any(isinstance(i, (str, dict)) for i in items):
        raise BadArgumentError("calib_data: expected all texts or all token ids, got both")
    ids = [int(t) for row in items for t in row]
    digest = hashlib.sha256(json.dumps([list(map(int, r)) for r in items]).encode()).hexdigest()
    return Calibration("calib_data.ids", digest, ids)


def _of_text(text: Any, tokenizer: Any, model: str) -> Calibration:
    if tokenizer is None:
        tokenizer = AutoTokenizer.from_pretrained(model)
    return Calibration(text.name, text.sha256, _ids_of_text(text, tokenizer))
