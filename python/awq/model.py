"""A model in memory that generates, scores, and shows what happens inside."""
from __future__ import annotations

import json
import os
import pathlib
import queue
import threading
from typing import Any, Dict, Iterator, List, Optional, Sequence, Union

from . import _core, generation
from ._arguments import in_terms_of, refuse_unknown
from .arrays import floats_like, kind_of, like, rows_of
from .errors import BadArgumentError, CancelledError, NotFoundError
from .progress import Progress, reporter
from .tokenizer import AutoTokenizer


class ModelOutput(generation.GenerateOutput):
    """`logits` [1, tokens, vocab], and `hidden_states`, `attentions` where asked for."""


class Config(dict):
    """config.json, with its entries as attributes too."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None

    def to_dict(self) -> Dict[str, Any]:
        return dict(self)


class Model:
    """Made by awq.load(). Any number of threads may use one model."""

    def __init__(self, core: Any, checkpoint: Any, path: str) -> None:
        self._core = core
        self._checkpoint = checkpoint
        self.path = path
        self.config = Config(json.loads(checkpoint.config_json))
        self._tokenizer: Optional[AutoTokenizer] = None
        self.device: str = core.device

    @property
    def tokenizer(self) -> AutoTokenizer:
        """The checkpoint's own tokenizer, opened on first use."""
        if self._tokenizer is None:
            self._tokenizer = AutoTokenizer.from_pretrained(self.path)
        return self._tokenizer

    @property
    def bytes(self) -> int:
        """Bytes of weights in memory."""
        return self._core.bytes

    # --- forward

    def __call__(self, input_ids: Any = None, attention_mask: Any = None, output_hidden_states: bool = False,
                 output_attentions: bool = False, **others: Any) -> ModelOutput:
        """Logits [1, tokens, vocab] of one sequence, as numpy or, for a tensor, as a tensor.

        hidden_states: a tuple of layers + 1 arrays [1, tokens, hidden], the first the embedding, the last after the final
        norm. attentions: a tuple of layers arrays [1, heads, tokens, tokens]. Fusion is no obstacle to either; a model on
        the GPU shows neither (UnsupportedError)."""
        refuse_unknown("forward", set(others) - {"use_cache", "return_dict", "labels", "token_type_ids"},
                       {"input_ids", "attention_mask", "output_hidden_states", "output_attentions", "use_cache", "return_dict"})
        kind = kind_of(input_ids)
        prompts = generation.prompts_of(input_ids, attention_mask)
        if len(prompts) != 1:
            raise BadArgumentError(f"input_ids: expected one sequence, got {len(prompts)}")
        out = self._core.forward(prompts[0], output_hidden_states, output_attentions)
        return ModelOutput({n: tuple(floats_like(a, kind) for a in v) if isinstance(v, tuple) else floats_like(v, kind)
                            for n, v in out.items()})

    forward = __call__

    # --- generation

    def generate(self, inputs: Any = None, *, input_ids: Any = None, attention_mask: Any = None, **arguments: Any) -> Any:
        """Continues token ids, or a text.

        inputs or input_ids: [batch, tokens] as lists, a numpy array or a torch tensor; the result is the same kind with the
        prompt in front, rows padded to one length with pad_token_id. A str gives a str: the continuation alone.
        Arguments are transformers' (max_new_tokens, do_sample, temperature, top_k, top_p, repetition_penalty, eos_token_id,
        streamer, ...); greedy unless do_sample=True. kv_dtype: "float32", "float16", "bfloat16" or "int8", of the keys and values of
        earlier tokens. prompt_lookup_num_tokens: so many tokens, at most 7, are guessed from the text so far and checked in one
        step; assistant_model: a smaller model of the same tokenizer guesses them (num_assistant_tokens, default 4); the text stays
        what it is without. Raises TypeError for an unknown argument, BadArgumentError for an impossible value, UnsupportedError (a
        NotImplementedError) for beam search and its kin. Ctrl-C stops between two tokens."""
        ids = inputs if inputs is not None else input_ids
        if ids is None:
            raise TypeError("generate() needs inputs or input_ids")
        if isinstance(ids, str):
            tokens = self.tokenizer.encode(ids)
            row = self.generate([tokens], **arguments)[0]
            return self.tokenizer.decode(row[len(tokens):], skip_special_tokens=True)
        args = generation.merged("generate", arguments)
        kind = kind_of(ids)
        device = getattr(ids, "device", None) if kind == "torch" else None
        rows = rows_of(ids)
        prompts = generation.prompts_of(ids, attention_mask)
        copies = int(args.get("num_return_sequences", 1))
        if copies > 1 and not args.get("do_sample"):
            raise BadArgumentError("num_return_sequences: greedy continuations are all alike; set do_sample=True")
        rows = [r for r in rows for _ in range(copies)]
        prompts = [p for p in prompts for _ in range(copies)]
        settings = self._settings(args, max(len(r) for r in rows))
        streamer = args.get("streamer")
        if streamer is not None and len(rows) == 1:
            streamer.put(like(rows, kind if kind == "torch" else "numpy"))
        answers = _core.generate(self._core, prompts, settings, generation.token_callback(args, prompts, kind),
                                 generation.logits_callback(args.get("logits_processor"), kind))
        if streamer is not None:
            streamer.end()
        sequences = like(self._padded(rows, answers, args, settings), kind, device)
        if not args.get("return_dict_in_generate"):
            return sequences
        out = self._details(sequences, prompts, answers, args, kind)
        if settings["draft_tokens"] > 0:
            out.update({name: [a[name] for a in answers] for name in ("drafted", "drafts_right")})
        return out

    def _settings(self, args: Dict[str, Any], longest_prompt: int) -> Dict[str, Any]:
        settings = generation.settings(args, self._core.config["eos_token_ids"], longest_prompt)
        if settings["draft_tokens"] > 0 and "assistant_model" in args:
            settings["draft_model"] = self._assistant(args["assistant_model"])
        return settings

    def _assistant(self, given: Any) -> Any:
        """The core of a model that may guess for this one."""
        model = getattr(given, "model", given)  # AutoAWQ's class holds one
        if not isinstance(model, Model):
            raise BadArgumentError(f"assistant_model: expected a model of awq.load, got {type(given).__name__}")
        if not self.tokenizer._core.same_ids(model.tokenizer._core):
            raise BadArgumentError(f"assistant_model {model.path}: expected the tokenizer of the model it guesses for, got another one")
        return model._core

    def _padded(self, rows: List[List[int]], answers: List[Dict[str, Any]], args: Dict[str, Any], settings: Dict[str, Any]) -> Any:
        ends = settings["end_ids"]
        pad = args.get("pad_token_id")
        if pad is None:
            pad = ends[0] if ends else 0
        full = [r + a["tokens"] + ([a["stop_id"]] if a["stop_id"] >= 0 else []) for r, a in zip(rows, answers)]
        longest = max(len(r) for r in full)
        return [r + [pad] * (longest - len(r)) for r in full]

    def _details(self, sequences: Any, prompts: List[List[int]], answers: List[Dict[str, Any]], args: Dict[str, Any], kind: str) -> Any:
        """What return_dict_in_generate adds, step by step as transformers lays it out; for a batch of one."""
        out = generation.GenerateOutput(sequences=sequences)
        wanted = [n for n in ("output_hidden_states", "output_attentions", "output_scores", "output_logits") if args.get(n)]
        if not wanted:
            return out
        if len(prompts) != 1:
            raise BadArgumentError(f"{wanted[0]}: expected a batch of one, got {len(prompts)}")
        new = answers[0]["tokens"] + ([answers[0]["stop_id"]] if answers[0]["stop_id"] >= 0 else [])
        seen = self._core.forward(prompts[0] + new[:-1], bool(args.get("output_hidden_states")), bool(args.get("output_attentions")))
        n = len(prompts[0])
        steps = [(0, n)] + [(n + i, n + i + 1) for i in range(len(new) - 1)]  # positions each step computes
        if "hidden_states" in seen:
            out["hidden_states"] = tuple(tuple(floats_like(s[:, a:b].copy(), kind) for s in seen["hidden_states"]) for a, b in steps)
        if "attentions" in seen:
            out["attentions"] = tuple(tuple(floats_like(w[:, :, a:b, :b].copy(), kind) for w in seen["attentions"]) for a, b in steps)
        logits = tuple(floats_like(seen["logits"][:, b - 1].copy(), kind) for _, b in steps)
        for name in ("output_scores", "output_logits"):
            if args.get(name):
                out[name[len("output_"):]] = logits
        return out

    def stream(self, prompt: Union[str, Sequence[int]], **arguments: Any) -> Iterator[str]:
        """Pieces of text as they come. Leaving the loop early stops the generation."""
        tokens = self.tokenizer.encode(prompt) if isinstance(prompt, str) else rows_of(prompt)[0]
        args = generation.merged("stream", arguments)
        settings = self._settings(args, len(tokens))
        pieces: "queue.Queue[Any]" = queue.Queue()
        stopped = threading.Event()
        detokenizer = _core.Detokenizer(self.tokenizer._core)

        def on_token(_row: int, token: int) -> bool:
            pieces.put(detokenizer.push(token))
            return not stopped.is_set()

        def work() -> None:
            try:
                _core.generate(self._core, [tokens], settings, on_token, None)
                pieces.put(detokenizer.flush())
                pieces.put(None)
            except BaseException as error:  # handed to the thread that reads
                pieces.put(error)

        worker = threading.Thread(target=work, daemon=True)
        worker.start()
        try:
            while True:
                piece = pieces.get()
                if piece is None:
                    return
                if isinstance(piece, BaseException):
                    raise piece
                if piece:
                    yield piece
        finally:
            stopped.set()
            worker.join()

    # --- scores

    def score(self, text: Union[str, Sequence[int]]) -> Dict[str, Any]:
        """ln p of each token after the first: {"tokens", "logprobs", "sum", "perplexity"}, natural logarithms."""
        import math

        ids = self.tokenizer.encode(text) if isinstance(text, str) else rows_of(text)[0]
        if len(ids) < 2:
            raise BadArgumentError(f"score: expected at least two tokens, got {len(ids)}")
        logprobs = self._core.logprobs(ids)
        total = math.fsum(logprobs)
        return {"tokens": ids, "logprobs": logprobs, "sum": total, "perplexity": math.exp(-total / len(logprobs))}

    # --- tensors

    def tensors(self) -> List[Dict[str, Any]]:
        """What the checkpoint stores: name, dtype, shape, bytes and file of each tensor."""
        return self._checkpoint.tensors()

    def tensor(self, name: str) -> Any:
        """A stored tensor as numpy: float types as float32, integers as they are. `<module>.weight` of a quantized linear is
        dequantized. Raises NotFoundError."""
        module = name[: -len(".weight")] if name.endswith(".weight") else name
        if self._checkpoint.is_quantized(module):
            return self._checkpoint.dequantized(module)
        return self._checkpoint.tensor(name)

    def quantized(self, module: str) -> Dict[str, Any]:
        """codes uint8 [out, in], scales float32 [out, groups], zeros uint8 [out, groups] or None, scheme, bits, group_size;
        a weight is (code - zero) * scale."""
        if not self._checkpoint.is_quantized(module):
            raise NotFoundError(f"{self.path}: '{module}' is not a quantized linear")
        return self._checkpoint.quantized(module)

    def eval(self) -> "Model":
        """Itself: there is no training mode."""
        return self

    def __repr__(self) -> str:
        return f"Model({self.path!r}, {self.config.get('model_type')}, {_core.human_bytes(self.bytes)})"

    def _repr_html_(self) -> str:
        from .report import table

        return table("Model", [("path", self.path), ("architecture", self.config.get("model_type")),
                               ("weights in memory", _core.human_bytes(self.bytes)), ("stored as", self._checkpoint.format)])


def load(model: Union[str, pathlib.Path], precision: str = "exact", progress: Progress = None, *, head_bits: int = 0,
         load_in: Optional[str] = None, pack_cache: Union[str, os.PathLike, None] = None, device: str = "cpu") -> Model:
    """Loads a checkpoint: a directory, a .gguf file, or org/name in the Hugging Face cache; quantized or not.

    precision: "exact" (fp32 products), "bf16" (bfloat16 products where the machine has them) or "fast" (quantized linears meet
    activations rounded to int8, one scale per token and group: what `awq generate` does unless told otherwise). progress: True
    for a bar (tqdm when it is installed), or a function that gets {"stage", "done", "total", "unit"}.
    head_bits: 8 or 4 rounds the output layer to so many bits, 0 leaves it as stored; where it is the embedding, too, memory falls
    with "fast" only: the others keep both. load_in: "nf4", "rtn" (4 bits) or "int8" quantizes the linears of a dense model while it
    is loaded. pack_cache: a directory that keeps the prepared weights, which the next load of the same files with the same options
    maps; its files may be deleted at any time. device: "cpu" ("auto" means it, too) or "cuda", where precision and pack_cache do not
    apply: 4-bit weights meet 16-bit activations.
    Raises BadArgumentError for a word that is none of these; NotFoundError, BadFileError; UnsupportedError, also for "cuda" where
    there is no GPU or this package was built without CUDA; KeyboardInterrupt within a second of Ctrl-C."""
    path = str(model)
    options: Dict[str, Any] = {"precision": precision, "head_bits": head_bits, "device": device}
    options.update({n: v for n, v in (("load_in", load_in), ("pack_cache", pack_cache)) if v is not None})
    checkpoint = _core.Checkpoint.open(path)
    with reporter(progress) as report, in_terms_of({"--device": "device"}):
        core = _core.Model.load(path, options, report)
    return Model(core, checkpoint, path)


__all__ = ["CancelledError", "Config", "Model", "ModelOutput", "load"]
