"""transformers' generation arguments, turned into what the engine understands."""
from __future__ import annotations

import random
from typing import Any, Callable, Dict, List, Optional

from . import _core
from ._arguments import refuse_unknown, without_effect
from .arrays import kind_of, like, rows_of
from .errors import BadArgumentError, UnsupportedError

HONOURED = {
    "max_new_tokens", "max_length", "min_new_tokens", "min_length", "do_sample", "temperature", "top_k", "top_p", "min_p",
    "repetition_penalty", "eos_token_id", "pad_token_id", "num_return_sequences", "seed", "streamer", "logits_processor",
    "stopping_criteria", "generation_config", "return_dict_in_generate", "output_hidden_states", "output_attentions",
    "output_scores", "output_logits", "prompt_lookup_num_tokens", "assistant_model", "num_assistant_tokens", "kv_dtype",
}
WITHOUT_EFFECT = {
    "use_cache": "keys and values are always cached",
    "past_key_values": "each call has a cache of its own",
    "cache_implementation": "keys and values are always cached in pages",
    "bos_token_id": "prompts are taken as they are",
    "early_stopping": "there is no beam search",
    "length_penalty": "there is no beam search",
    "synced_gpus": "there is one process",
    "token_type_ids": "decoders have none",
    "trust_remote_code": "no code of a checkpoint is ever run",
    "position_ids": "positions follow from the attention mask",
    "renormalize_logits": "probabilities always sum to 1",
    "disable_compile": "nothing is compiled",
    "tokenizer": "only stop_strings needs it",
}
REFUSED = {
    "num_beams": 1, "num_beam_groups": 1, "penalty_alpha": None, "typical_p": 1.0, "epsilon_cutoff": 0.0, "eta_cutoff": 0.0,
    "no_repeat_ngram_size": 0, "bad_words_ids": None, "force_words_ids": None, "constraints": None, "guidance_scale": None,
    "encoder_repetition_penalty": 1.0, "diversity_penalty": 0.0,
    "forced_bos_token_id": None, "forced_eos_token_id": None, "suppress_tokens": None, "begin_suppress_tokens": None,
    "stop_strings": None, "prefix_allowed_tokens_fn": None, "inputs_embeds": None, "negative_prompt_ids": None,
    "sequence_bias": None, "exponential_decay_length_penalty": None, "dola_layers": None, "watermarking_config": None,
}
KNOWN = HONOURED | set(WITHOUT_EFFECT) | set(REFUSED) | {"input_ids", "inputs", "attention_mask"}


class GenerateOutput(dict):
    """`sequences` and what else was asked for, as items and as attributes."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


def from_config(config: Any) -> Dict[str, Any]:
    """What a generation_config object or dict sets, by the names generate() takes."""
    if config is None:
        return {}
    values = config if isinstance(config, dict) else {n: getattr(config, n) for n in HONOURED if hasattr(config, n)}
    return {n: v for n, v in values.items() if n in HONOURED and v is not None and n != "generation_config"}


def merged(function: str, arguments: Dict[str, Any]) -> Dict[str, Any]:
    """The arguments over those of their generation_config; unknown and impossible ones refused."""
    refuse_unknown(function, set(arguments) - KNOWN, KNOWN)
    without_effect(function, arguments, WITHOUT_EFFECT)
    for name, neutral in REFUSED.items():
        if name in arguments and arguments[name] is not None and arguments[name] != neutral:
            raise UnsupportedError(f"{function}: '{name}' is not supported; got {arguments[name]!r}")
    given = {n: v for n, v in arguments.items() if v is not None}
    return {**from_config(given.pop("generation_config", None)), **given}


def end_ids(arguments: Dict[str, Any], own: List[int]) -> List[int]:
    stated = arguments.get("eos_token_id")
    if stated is None:
        return own
    return rows_of(stated if hasattr(stated, "__iter__") or hasattr(stated, "tolist") else [stated])[0]


def settings(arguments: Dict[str, Any], own_end_ids: List[int], longest_prompt: int) -> Dict[str, Any]:
    """The engine's settings. Without do_sample the likeliest token is taken each time, whatever temperature says."""
    out: Dict[str, Any] = {"end_ids": end_ids(arguments, own_end_ids)}
    out["max_tokens"] = _max_tokens(arguments, longest_prompt)
    least = arguments.get("min_new_tokens", max(0, arguments.get("min_length", 0) - longest_prompt))
    out["min_tokens"] = int(least)
    out["draft_tokens"] = _draft_tokens(arguments)
    if "kv_dtype" in arguments:
        out["kv_dtype"] = arguments["kv_dtype"]
    out["repetition_penalty"] = float(arguments.get("repetition_penalty", 1.0))
    if arguments.get("do_sample"):
        out["temperature"] = float(arguments.get("temperature", 1.0))
        if not out["temperature"] > 0:
            raise BadArgumentError(f"temperature {out['temperature']}: expected more than 0 with do_sample=True")
        out["top_k"] = int(arguments.get("top_k", 50))
        out["top_p"] = float(arguments.get("top_p", 1.0))
        out["min_p"] = float(arguments.get("min_p", 0.0))
        seed = arguments.get("seed")
        out["seed"] = int(seed) if seed is not None else random.getrandbits(63)
    return out


def _draft_tokens(arguments: Dict[str, Any]) -> int:
    """Tokens to guess ahead. More than the kernels check at once are as many as those: the text is the same with any number."""
    if "assistant_model" in arguments:
        if "prompt_lookup_num_tokens" in arguments:
            raise BadArgumentError("expected prompt_lookup_num_tokens or assistant_model, got both")
        name, wanted = "num_assistant_tokens", int(arguments.get("num_assistant_tokens", _core.model_drafts))
    else:
        name, wanted = "prompt_lookup_num_tokens", int(arguments.get("prompt_lookup_num_tokens", 0))
    if wanted < 0:
        raise BadArgumentError(f"{name}: expected 0 or more, got {wanted}")
    return min(wanted, _core.most_drafts)


def _max_tokens(arguments: Dict[str, Any], longest_prompt: int) -> int:
    if "max_new_tokens" in arguments:
        wanted = int(arguments["max_new_tokens"])
    elif "max_length" in arguments:
        wanted = int(arguments["max_length"]) - longest_prompt
    else:
        wanted = 20  # transformers' default
    if wanted < 1:
        raise BadArgumentError(f"max_new_tokens: expected at least 1 after a prompt of {longest_prompt} tokens, got {wanted}")
    return wanted


def prompts_of(ids: Any, mask: Any) -> List[List[int]]:
    """Each row without the positions its attention mask leaves out."""
    rows = rows_of(ids)
    if mask is None:
        return rows
    masks = rows_of(mask)
    if [len(m) for m in masks] != [len(r) for r in rows]:
        raise BadArgumentError("attention_mask: expected the shape of input_ids")
    return [[t for t, keep in zip(row, m) if keep] for row, m in zip(rows, masks)]


def token_callback(arguments: Dict[str, Any], rows: List[List[int]], kind: str) -> Optional[Callable[[int, int], bool]]:
    """Feeds a streamer and asks stopping criteria; None when there is neither."""
    streamer, criteria = arguments.get("streamer"), arguments.get("stopping_criteria")
    if streamer is not None and len(rows) > 1:
        raise BadArgumentError("streamer: expected a batch of one")
    if streamer is None and not criteria:
        return None
    so_far = [list(r) for r in rows]
    array = kind if kind == "torch" else "numpy"

    def on_token(row: int, token: int) -> bool:
        so_far[row].append(token)
        if streamer is not None:
            streamer.put(like([[token]], array)[0])
        return not any(_says_stop(c, like([so_far[row]], array)) for c in criteria or ())

    return on_token


def _says_stop(criterion: Callable[..., Any], ids: Any) -> bool:
    said = criterion(ids, None)
    return bool(said.all()) if hasattr(said, "all") else bool(said)


def logits_callback(processors: Any, kind: str) -> Optional[Callable[..., Any]]:
    """transformers' logits processors: called with ids [1, tokens] and scores [1, vocab]."""
    if not processors:
        return None

    def process(_row: int, tokens: List[int], logits: Any) -> Any:
        import numpy

        ids = like([tokens], kind if kind == "torch" else "numpy")
        scores = logits[None]
        if kind == "torch":
            import torch

            scores = torch.from_numpy(scores)
        for processor in processors:
            scores = processor(ids, scores)
        result = scores.numpy() if kind_of(scores) == "torch" else scores
        return numpy.ascontiguousarray(result[0], dtype=numpy.float32)

    return process
