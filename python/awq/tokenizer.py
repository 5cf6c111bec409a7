"""The tokenizer of a checkpoint, without transformers."""
from __future__ import annotations

import inspect
import json
import pathlib
import re
import typing
from typing import Any, Dict, List, Optional, Sequence, Union

from . import _core
from ._arguments import refuse_unknown
from .arrays import like, rows_of
from .errors import BadArgumentError, NotFoundError, UnsupportedError


class BatchEncoding(dict):
    """`input_ids` and `attention_mask`, as items and as attributes."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None

    def to(self, _device: Any) -> "BatchEncoding":
        """Itself: the ids stay where they are."""
        return self


def _settings(checkpoint: Any) -> Dict[str, Any]:
    files = checkpoint.side_files()
    settings: Dict[str, Any] = {}
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        if name in files:
            for key, value in json.loads(files[name].decode()).items():
                settings.setdefault(key, value)
    return settings


def _token_text(value: Any) -> Optional[str]:
    return value.get("content") if isinstance(value, dict) else value


class AutoTokenizer:
    """Text to token ids and back, exactly as the model's own tokenizer defines it.

    >>> tokenizer = AutoTokenizer.from_pretrained(path)        # a directory, a .gguf file, or org/name in the cache
    >>> tokenizer("The sea is", return_tensors="np").input_ids # int64 [1, tokens]
    """

    def __init__(self, core: Any, checkpoint: Any) -> None:
        self._core = core
        self._checkpoint = checkpoint
        self._settings = _settings(checkpoint)
        self.padding_side = self._settings.get("padding_side", "left")
        self._chat = checkpoint.chat_source()
        templates = {t["name"]: t["source"] for t in self._chat["templates"]}
        # A string, a dict of named ones, or None, as in transformers; may be replaced.
        self.chat_template = templates.get("default") if set(templates) <= {"default"} else templates
        self._renderer: Any = None
        self._eos_of_config = json.loads(checkpoint.config_json).get("eos_token_id")

    @classmethod
    def from_pretrained(cls, model: Union[str, pathlib.Path], **accepted: Any) -> "AutoTokenizer":
        """model: directory, .gguf file or org/name. transformers' arguments (use_fast, trust_remote_code, ...) are accepted.

        Raises NotFoundError (a FileNotFoundError) when there is no tokenizer."""
        known = {"use_fast", "trust_remote_code", "revision", "cache_dir", "token", "local_files_only", "padding_side", "legacy",
                 "force_download", "subfolder", "tokenizer_type", "use_auth_token", "add_bos_token"}
        refuse_unknown("from_pretrained", set(accepted) - known, known)
        tokenizer = cls(_core.Tokenizer.from_model(str(model)), _core.Checkpoint.open(str(model)))
        tokenizer.padding_side = accepted.get("padding_side") or tokenizer.padding_side
        return tokenizer

    # --- text to ids

    def encode(self, text: str, add_special_tokens: bool = True, return_tensors: Optional[str] = None, **_: Any) -> Any:
        """Ids of one text: a list, or [1, tokens] with return_tensors 'np' or 'pt'."""
        ids = self._core.encode(text, add_special_tokens)
        return ids if return_tensors is None else like([ids], _kind(return_tensors))

    def __call__(self, text: Union[str, Sequence[str]], add_special_tokens: bool = True, padding: Any = False, truncation: Any = False,
                 max_length: Optional[int] = None, return_tensors: Optional[str] = None, **others: Any) -> BatchEncoding:
        """input_ids and attention_mask of one text or several; lists, or [batch, tokens] with return_tensors 'np' or 'pt'.

        Padding is on `padding_side` with pad_token_id. Raises BadArgumentError for texts of different length that are asked
        for as one array without padding."""
        refuse_unknown("__call__", set(others) - {"return_attention_mask", "return_token_type_ids", "verbose"},
                       {"text", "add_special_tokens", "padding", "truncation", "max_length", "return_tensors", "return_attention_mask"})
        single = isinstance(text, str)
        rows = [self._core.encode(t, add_special_tokens) for t in ([text] if single else text)]
        if truncation and max_length is not None:
            rows = [r[:max_length] for r in rows]
        masks = [[1] * len(r) for r in rows]
        if padding:
            rows, masks = self._padded(rows, masks, max_length if padding == "max_length" else None)
        if return_tensors is None:
            return BatchEncoding(input_ids=rows[0] if single else rows, attention_mask=masks[0] if single else masks)
        if len({len(r) for r in rows}) > 1:
            raise BadArgumentError("texts of different length do not make one array: pass padding=True")
        kind = _kind(return_tensors)
        return BatchEncoding(input_ids=like(rows, kind), attention_mask=like(masks, kind))

    def _padded(self, rows: List[List[int]], masks: List[List[int]], length: Optional[int]) -> Any:
        longest = length or max(len(r) for r in rows)
        pad = self.pad_token_id
        if pad is None:
            raise BadArgumentError("padding: this tokenizer has neither a pad token nor an end-of-text token")
        left = self.padding_side == "left"

        def fill(row: List[int], value: int) -> List[int]:
            extra = [value] * (longest - len(row))
            return extra + row if left else row + extra

        return [fill(r, pad) for r in rows], [fill(m, 0) for m in masks]

    # --- ids to text

    def decode(self, ids: Any, skip_special_tokens: bool = False, **_: Any) -> str:
        """The text of one sequence of ids (list, array or tensor). Invalid UTF-8 becomes U+FFFD."""
        row = [ids] if isinstance(ids, int) else rows_of(ids)[0]
        return self._core.decode(row, skip_special_tokens)

    def batch_decode(self, sequences: Any, skip_special_tokens: bool = False, **_: Any) -> List[str]:
        """The texts of several sequences."""
        return [self._core.decode(row, skip_special_tokens) for row in rows_of(sequences)]

    # --- tokens

    def convert_tokens_to_ids(self, token: str) -> Optional[int]:
        return self._core.id_of(token)

    def __len__(self) -> int:
        return self._core.vocab_size

    @property
    def vocab_size(self) -> int:
        return self._core.vocab_size

    def _special(self, name: str) -> Optional[str]:
        return _token_text(self._settings.get(name))

    @property
    def bos_token(self) -> Optional[str]:
        return self._special("bos_token")

    @property
    def eos_token(self) -> Optional[str]:
        return self._special("eos_token")

    @property
    def pad_token(self) -> Optional[str]:
        return self._special("pad_token")

    @pad_token.setter
    def pad_token(self, token: str) -> None:
        self._settings["pad_token"] = token

    def _id(self, token: Optional[str]) -> Optional[int]:
        return None if token is None else self._core.id_of(token)

    @property
    def bos_token_id(self) -> Optional[int]:
        return self._id(self.bos_token)

    @property
    def eos_token_id(self) -> Optional[int]:
        own = self._id(self.eos_token)
        if own is not None:
            return own
        stated = self._eos_of_config
        return stated[0] if isinstance(stated, list) and stated else stated

    @property
    def pad_token_id(self) -> Optional[int]:
        own = self._id(self.pad_token)
        return own if own is not None else self.eos_token_id

    # --- conversations

    def apply_chat_template(self, conversation: Any, tools: Optional[Sequence[Any]] = None, documents: Optional[Sequence[Any]] = None,
                            chat_template: Optional[str] = None, add_generation_prompt: bool = False, continue_final_message: bool = False,
                            tokenize: bool = True, padding: Any = False, truncation: Any = False, max_length: Optional[int] = None,
                            return_tensors: Optional[str] = None, return_dict: bool = False, return_assistant_tokens_mask: bool = False,
                            **kwargs: Any) -> Any:
        """The conversation, or several, in the model's chat template: token ids, or text with tokenize=False.

        conversation: [{"role": ..., "content": ...}, ...]. tools: JSON descriptions of functions, or functions whose annotations
        and docstring describe them. chat_template: the name of one of the model's templates, or a template. Further keyword
        arguments are variables of the template (enable_thinking=False). With return_dict the result is a BatchEncoding.

        The template runs in a sandbox. Raises BadArgumentError when it refuses the conversation, NotFoundError when the
        model has none."""
        if return_assistant_tokens_mask:
            raise UnsupportedError("apply_chat_template: return_assistant_tokens_mask is not supported")
        batch = bool(conversation) and isinstance(conversation[0], (list, tuple))
        settings = {
            "tools": json.dumps(None if tools is None else [_tool(t) for t in tools], ensure_ascii=False),
            "variables": json.dumps({"documents": documents, **kwargs}, ensure_ascii=False),
            "add_generation_prompt": bool(add_generation_prompt),
            "continue_final_message": bool(continue_final_message),
        }
        renderer, settings["template_name"] = self._chat_renderer(chat_template)
        texts = [renderer.render(json.dumps(list(c), ensure_ascii=False), settings) for c in (conversation if batch else [conversation])]
        if not tokenize:
            return texts if batch else texts[0]
        encoded = self(texts if batch else texts[0], add_special_tokens=False, padding=padding, truncation=truncation, max_length=max_length,
                       return_tensors=return_tensors)
        return encoded if return_dict else encoded["input_ids"]

    def get_chat_template(self, chat_template: Optional[str] = None, tools: Any = None) -> str:
        """The source of the template that apply_chat_template would use."""
        if isinstance(self.chat_template, dict):
            name = chat_template or ("tool_use" if tools is not None and "tool_use" in self.chat_template else "default")
            return self.chat_template.get(name, chat_template)
        if chat_template is None and self.chat_template is None:
            raise NotFoundError(f"{self._checkpoint.path}: expected a chat template, got none")
        return chat_template if chat_template is not None else self.chat_template

    def _chat_renderer(self, chat_template: Optional[str]) -> Any:
        """A renderer, and the name of the template to use ("": its own choice)."""
        templates = self.chat_template if isinstance(self.chat_template, dict) else {"default": self.chat_template} if self.chat_template else {}
        name = chat_template if chat_template in templates else ""
        if chat_template is not None and not name:
            templates = {"default": chat_template}
        known = (tuple(templates.items()), self.bos_token, self.eos_token, self.pad_token)
        if self._renderer is None or self._renderer[0] != known:
            special = dict(json.loads(self._chat["special_tokens"]))
            special.update({k: v for k, v in (("bos_token", self.bos_token), ("eos_token", self.eos_token), ("pad_token", self.pad_token)) if v})
            renderer = _core.ChatRenderer(list(templates.items()), json.dumps(special, ensure_ascii=False), self._checkpoint.path)
            self._renderer = (known, renderer)
        return self._renderer[1], name

    # --- files

    def save_pretrained(self, folder: Union[str, pathlib.Path], **_: Any) -> List[str]:
        """Writes the tokenizer's files as the checkpoint carries them (made from metadata for GGUF); returns their paths.

        A file that is already there with the same content is left alone."""
        out = pathlib.Path(folder)
        out.mkdir(parents=True, exist_ok=True)
        names = [n for n in self._checkpoint.side_files()
                 if n.startswith("tokenizer") or n in ("special_tokens_map.json", "added_tokens.json", "chat_template.jinja",
                                                       "chat_template.json", "vocab.json", "merges.txt")]
        if not names:
            raise NotFoundError(f"{self._checkpoint.path}: expected tokenizer files, got none")
        files = self._checkpoint.side_files()
        written = []
        for name in names:
            target = out / name
            if not target.exists() or target.read_bytes() != files[name]:
                target.write_bytes(files[name])
            written.append(str(target))
        return written

    def __repr__(self) -> str:
        return f"AutoTokenizer({self._checkpoint.path!r}, vocab_size={self.vocab_size})"


_JSON_TYPES = {str: "string", int: "integer", float: "number", bool: "boolean", list: "array", dict: "object"}


def _tool(tool: Any) -> Any:
    """A tool's JSON description: given as such, or made from a function's annotations and docstring (Google style)."""
    if not callable(tool):
        return tool
    hints = typing.get_type_hints(tool)
    summary, arguments = _documented(inspect.getdoc(tool) or "")
    properties: Dict[str, Any] = {}
    required = []
    for name, parameter in inspect.signature(tool).parameters.items():
        kind = hints.get(name)
        base = _JSON_TYPES.get(typing.get_origin(kind) or kind)
        if base is None:
            raise BadArgumentError(f"tools: function '{tool.__name__}': expected an annotation of str, int, float, bool, list or dict for '{name}', got {kind}")
        properties[name] = {"type": base}
        if base == "array" and typing.get_args(kind) and typing.get_args(kind)[0] in _JSON_TYPES:
            properties[name]["items"] = {"type": _JSON_TYPES[typing.get_args(kind)[0]]}
        if name in arguments:
            properties[name]["description"] = arguments[name]
        if parameter.default is inspect.Parameter.empty:
            required.append(name)
    schema: Dict[str, Any] = {"type": "object", "properties": properties}
    if required:
        schema["required"] = required
    return {"type": "function", "function": {"name": tool.__name__, "description": summary, "parameters": schema}}


def _documented(text: str) -> Any:
    """The summary of a docstring and what its "Args:" say of each argument."""
    head, _, rest = text.partition("Args:")
    arguments: Dict[str, str] = {}
    name = None
    for line in re.split(r"\n\s*(?:Returns|Raises|Yields):", rest)[0].splitlines():
        match = re.match(r"\s*(\w+)\s*(?:\([^)]*\))?:\s*(.*)", line)
        if match:
            name = match[1]
            arguments[name] = match[2]
        elif name and line.strip():
            arguments[name] += " " + line.strip()
    return re.split(r"\n\s*Returns:", head)[0].strip(), arguments


def _kind(return_tensors: str) -> str:
    if return_tensors == "pt":
        try:
            import torch  # noqa: F401
        except ImportError:
            raise ImportError("return_tensors='pt' needs torch: pip install torch, or use return_tensors='np'") from None
        return "torch"
    if return_tensors == "np":
        return "numpy"
    raise BadArgumentError(f"return_tensors '{return_tensors}': expected 'np', 'pt' or None")
