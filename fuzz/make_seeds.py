#!/usr/bin/env python3
"""Writes seeds for the fuzz targets: small valid files and near misses.

    make_seeds.py FOLDER [TARGET]   FOLDER/<target>/<name>, targets as in fuzz_<target>.cpp; dictionaries: FOLDER/<target>.dict

Everything is made here from a few tables, so that the corpus needs no binary files in the repository; findings are kept
beside this script in regressions/<target>/ and are copied too.
"""
import hashlib, json, pathlib, re, shutil, struct, sys

HERE = pathlib.Path(__file__).resolve().parent


def compact(value):
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


# ---- safetensors

SIZES = {"F32": 32, "F16": 16, "BF16": 16, "F64": 64, "F8_E4M3": 8, "F8_E5M2": 8, "I64": 64, "I32": 32, "I16": 16, "I8": 8,
         "U64": 64, "U32": 32, "U16": 16, "U8": 8, "BOOL": 8, "F8_E8M0": 8, "F4": 4, "F6_E2M3": 6, "C64": 64}


def safetensors(tensors, metadata=None, extra=b"", tail=0):
    header, at = ({"__metadata__": metadata} if metadata is not None else {}), 0
    for name, dtype, shape in tensors:
        count = 1
        for d in shape:
            count *= d
        size = count * SIZES[dtype] // 8
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = compact(header) + extra
    return struct.pack("<Q", len(text)) + text + bytes(at + tail)


def safetensors_seeds():
    yield "empty", safetensors([])
    yield "one", safetensors([("a", "F32", [2, 3])], {"format": "pt"})
    yield "scalar", safetensors([("s", "I64", [])])
    yield "awq", safetensors([("m.qweight", "I32", [8, 2]), ("m.qzeros", "I32", [1, 2]), ("m.scales", "F16", [1, 16])])
    yield "zero", safetensors([("a", "F32", [0]), ("b", "BF16", [0, 4]), ("c", "U8", [3])])
    yield "odd", safetensors([("a", "U8", [1]), ("b", "F32", [1])])
    yield "spaces", safetensors([("a", "U8", [8])], extra=b"     ")
    yield "gap", safetensors([("a", "U8", [8])], tail=1)
    for dtype in SIZES:
        yield "dtype-" + dtype, safetensors([("t", dtype, [4])])
    yield "huge", struct.pack("<Q", 46) + b'{"a":{"dtype":"U8","shape":[4294967296,42949672'
    text = b'{"a":{"dtype":"F32","shape":[9223372036854775807,3],"data_offsets":[0,12]}}'
    yield "overflow", struct.pack("<Q", len(text)) + text + bytes(12)


# ---- GGUF

KINDS = {"u8": (0, "<B"), "i8": (1, "<b"), "u16": (2, "<H"), "i16": (3, "<h"), "u32": (4, "<I"), "i32": (5, "<i"),
         "f32": (6, "<f"), "bool": (7, "<B"), "u64": (10, "<Q"), "i64": (11, "<q"), "f64": (12, "<d")}


def gguf_string(text):
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def gguf_value(kind, value):
    if kind == "string":
        return struct.pack("<I", 8) + gguf_string(value)
    if kind.startswith("["):
        inner = kind[1:-1]
        head = struct.pack("<IIQ", 9, 8 if inner == "string" else KINDS[inner][0], len(value))
        return head + b"".join(gguf_string(v) if inner == "string" else struct.pack(KINDS[inner][1], v) for v in value)
    return struct.pack("<I", KINDS[kind][0]) + struct.pack(KINDS[kind][1], value)


def gguf(values, tensors, alignment=32, version=3):
    """tensors: (name, dims fastest first, type id, bytes of data)"""
    out = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(values))
    for key, kind, value in values:
        out += gguf_string(key) + gguf_value(kind, value)
    at = 0
    for name, dims, type_id, size in tensors:
        out += gguf_string(name) + struct.pack("<I", len(dims)) + b"".join(struct.pack("<Q", d) for d in dims)
        out += struct.pack("<IQ", type_id, at)
        at += (size + alignment - 1) // alignment * alignment
    return out + bytes(-len(out) % alignment) + bytes(at)


TYPES = [(0, 1, 4), (1, 1, 2), (2, 32, 18), (3, 32, 20), (6, 32, 22), (7, 32, 24), (8, 32, 34), (10, 256, 84), (11, 256, 110),
         (12, 256, 144), (13, 256, 176), (14, 256, 210), (20, 32, 18), (23, 256, 136), (30, 1, 2), (39, 32, 17)]


def gguf_model(arch):
    values = [("general.architecture", "string", arch), ("general.alignment", "u32", 32)]
    for key, number in [("block_count", 1), ("context_length", 64), ("embedding_length", 8), ("feed_forward_length", 8),
                        ("attention.head_count", 2), ("attention.head_count_kv", 1), ("rope.dimension_count", 4)]:
        values.append((f"{arch}.{key}", "u32", number))
    values.append((f"{arch}.attention.layer_norm_rms_epsilon", "f32", 1e-5))
    values.append((f"{arch}.rope.freq_base", "f32", 10000.0))
    return values


VOCABULARY = [("tokenizer.ggml.model", "string", "gpt2"), ("tokenizer.ggml.pre", "string", "qwen2"),
              ("tokenizer.ggml.tokens", "[string]", ["a", "b", "ab", "<s>"]), ("tokenizer.ggml.token_type", "[i32]", [1, 1, 1, 3]),
              ("tokenizer.ggml.merges", "[string]", ["a b"]), ("tokenizer.ggml.bos_token_id", "u32", 3),
              ("tokenizer.ggml.add_bos_token", "bool", 1), ("tokenizer.chat_template", "string", "{{ messages }}")]


def gguf_seeds():
    yield "empty", gguf([], [])
    yield "kinds", gguf([("k." + kind, kind, 1) for kind in KINDS] + [("k.string", "string", "x")], [])
    yield "arrays", gguf([("a." + kind, f"[{kind}]", [0, 1, 2]) for kind in KINDS] + [("a.s", "[string]", ["x", "", "y"])], [])
    yield "version2", gguf([("general.name", "string", "m")], [("t", [4], 0, 16)], version=2)
    for type_id, block, size in TYPES:
        yield f"type-{type_id}", gguf([], [("t", [block], type_id, size)])
    for arch in ("llama", "qwen2", "qwen3", "phi3"):
        yield arch, gguf(gguf_model(arch), [("token_embd.weight", [8, 4], 0, 128)])
    yield "layer", gguf(gguf_model("llama"), [("token_embd.weight", [8, 1], 0, 32), ("blk.0.attn_q.weight", [8, 8], 1, 128)])
    yield "vocab", gguf(VOCABULARY, [])
    yield "align", gguf([("general.alignment", "u32", 8)], [("t", [3], 0, 12), ("u", [1, 1, 1, 2], 1, 4)], alignment=8)
    yield "rope", gguf(gguf_model("llama"), [("token_embd.weight", [8, 4], 0, 128), ("rope_freqs.weight", [2], 0, 8)])


# ---- JSON files

LLAMA = {"model_type": "llama", "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
         "num_key_value_heads": 1, "vocab_size": 32, "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "rope_theta": 10000.0}


def config_seeds():
    yield "llama", compact(LLAMA)
    for rope in ({"rope_type": "linear", "factor": 2.0}, {"type": "dynamic", "factor": 2.0}, {"rope_type": "yarn", "factor": 4.0,
                 "original_max_position_embeddings": 16, "beta_fast": 32, "attention_factor": 1.2}, {"rope_type": "llama3", "factor": 8.0,
                 "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 16},
                 {"type": "longrope", "short_factor": [1.0, 1.0], "long_factor": [2.0, 4.0]}):
        kind = rope.get("rope_type", rope.get("type"))
        yield "rope-" + kind, compact({**LLAMA, "rope_scaling": rope})
        yield "rope5-" + kind, compact({**LLAMA, "rope_parameters": {**rope, "rope_theta": 5e5}})
    yield "qwen2", compact({**LLAMA, "model_type": "qwen2", "use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1})
    yield "qwen3", compact({**LLAMA, "model_type": "qwen3", "head_dim": 8, "attention_bias": True, "eos_token_id": [1, 2]})
    yield "mistral", compact({**LLAMA, "model_type": "mistral", "sliding_window": None, "bos_token_id": 1})
    yield "ministral", compact({**LLAMA, "model_type": "ministral", "layer_types": ["full_attention", "sliding_attention"]})
    yield "phi3", compact({**LLAMA, "model_type": "phi3", "partial_rotary_factor": 0.5, "head_dim": 8})
    awq = {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True, "version": "gemm", "modules_to_not_convert": ["lm_head"]}
    yield "awq", compact({**LLAMA, "quantization_config": awq})
    yield "awq-old", compact({"text_config": {"quantization_config": {"w_bit": 4, "q_group_size": -1, "zero_point": True}}})
    yield "fp8", compact({"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}})
    yield "float", compact({"quantization_config": {"quant_method": "compressed-tensors", "format": "float-quantized"}})
    yield "gptq", compact({"quantization_config": {"quant_method": "gptq", "bits": 4, "desc_act": False}})
    yield "deep", b"[" * 70 + b"]" * 70


def index_seeds():
    one, two = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
    yield "two", compact({"metadata": {"total_size": 12}, "weight_map": {"a.weight": one, "b.weight": two}})
    yield "empty", compact({"weight_map": {}})
    for number, name in enumerate(["../x.safetensors", "/etc/x.safetensors", "a\\b.safetensors", "x.bin", "", "\0.safetensors"]):
        yield f"refused-{number}", compact({"weight_map": {"a": name}})


def manifest_seeds():
    digest = hashlib.sha256(b"").hexdigest()
    whole = {"schema": "awq.manifest/1", "tool": "awq 0.1.0", "source": {"name": "m", "format": "BF16", "fingerprint": digest},
             "calibration": {"name": "builtin", "sha256": digest, "samples": 1, "tokens": 512}, "method": "awq", "scheme": "w4g128z",
             "format": "gemm", "options": {"bits": "4"}, "check": {"text": "t", "tokens": 1, "kl": 0.1, "kl_ci95": None,
             "top1_agreement": 0.9, "perplexity_source": 9.5, "perplexity": 9.9, "worst": "l"},
             "layers": [{"module": "l", "scheme": "w4g128z", "relative_error": 0.01, "chosen": "identity"}],
             "files": [{"name": "config.json", "bytes": 0, "sha256": digest}]}
    yield "whole", compact(whole)
    yield "bare", compact({**whole, "calibration": None, "check": None, "options": {}, "layers": [], "files": []})
    yield "leads-out", compact({**whole, "files": [{"name": "../x", "bytes": 0, "sha256": digest}]})
    yield "deep", compact({"schema": "awq.manifest/1"})[:-1] + b',"tool":' + b"[" * 200 + b"]" * 200 + b"}"


def journal_seeds():
    digest = hashlib.sha256(b"").hexdigest()
    body = compact({"done": 1, "total": 2, "identity": [{"name": "bits", "value": "4"}], "tensors": [{"name": "t", "digest": digest}],
                    "states": [{"role": "calibration", "digest": digest, "bytes": 3}], "report": "{}"})
    yield "body", body
    yield "whole", b"awq.journal/1 " + hashlib.sha256(body).hexdigest().encode() + b"\n" + body
    yield "end", compact({"done": 3, "total": 2, "identity": [], "tensors": [], "states": [], "report": ""})


def tokenizer_seeds():
    vocab = {token: i for i, token in enumerate(["a", "b", "ab", "H", "e", "l", "\u0120", "\u010a", "1", "2", "<unk>", "<0x0A>", "\u2581"])}
    added = [{"id": 13, "content": "<s>", "special": True}, {"id": 14, "content": " x", "normalized": True, "lstrip": True, "rstrip": True,
                                                              "single_word": True}]
    post = {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [], "special_tokens": {"<s>": {"id": "<s>", "ids": [13], "tokens": ["<s>"]}}}
    model = {"type": "BPE", "vocab": vocab, "merges": ["a b"]}

    def top(normalizer=None, pre=None, decoder=None, post_processor=None, tokens=(), **more):
        return compact({"added_tokens": list(tokens), "normalizer": normalizer, "pre_tokenizer": pre, "post_processor": post_processor,
                        "decoder": decoder, "model": {**model, **more}})

    sequence = lambda key, *items: {"type": "Sequence", key: list(items)}
    byte_level = {"type": "ByteLevel", "add_prefix_space": True, "use_regex": True}
    yield "bare", top()
    yield "byte-level", top(None, byte_level, byte_level, post, added)
    yield "pairs", top(merges=[["a", "b"]], ignore_merges=True)
    yield "sentencepiece", top(sequence("normalizers", {"type": "Prepend", "prepend": "\u2581"}, {"type": "Replace", "pattern": {"String": " "},
                               "content": "\u2581"}), None, sequence("decoders", {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "},
                               {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}),
                               byte_fallback=True, unk_token="<unk>", fuse_unk=True)
    yield "split", top(sequence("normalizers", *({"type": t} for t in ("NFC", "NFD", "NFKC", "NFKD", "Lowercase", "Strip", "ByteLevel"))),
                       sequence("pretokenizers", {"type": "Split", "pattern": {"Regex": "\\s+|\\p{L}+|\\p{N}{1,3}|(?!\\S)"}, "behavior": "Isolated",
                                "invert": False}, {"type": "Digits", "individual_digits": True}, {"type": "Punctuation"}, {"type": "Whitespace"},
                                {"type": "WhitespaceSplit"}, {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "first"}),
                       {"type": "Metaspace", "replacement": "\u2581", "add_prefix_space": True})
    for behavior in ("Removed", "MergedWithPrevious", "MergedWithNext", "Contiguous"):
        yield "split-" + behavior, top(None, {"type": "Split", "pattern": {"String": "l"}, "behavior": behavior, "invert": True})
    for number, regex in enumerate(["(a+)+$", "[^\\r\\n\\p{L}]?\\w+", "(?i:'s|'t)|x{,3}+", "[a-z&&[^b]]", "\\h\\v(?<n>a)\\k<n>", "(" * 40]):
        yield f"regex-{number}", top(None, {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated"})
    yield "unigram", compact({"model": {"type": "Unigram", "unk_id": 0, "byte_fallback": False,
                                        "vocab": [["<unk>", 0.0], ["a", -1.5], ["b", -2.0], ["ab", -1.0], ["\u2581", -3.0]]}})


def template_seeds():
    chatml = ("{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content']|string|trim + '<|im_end|>' + '\\n' }}"
              "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}")
    yield "chatml", chatml.encode()
    yield "generation", b"{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}"
    yield "namespace", b"{%- set ns = namespace(found=false, i=0) -%}{%- for m in messages[::-1] -%}{%- set ns.i = ns.i + 1 -%}{%- if not ns.found and m.role " \
        b"== 'user' -%}{%- set ns.found = true -%}{%- continue -%}{%- endif -%}{{ loop.index }}{%- endfor -%}{{ ns.i }}"
    yield "macro", b"{% macro f(x, y='b') %}{{ x ~ y|upper }}{% endmacro %}{{ f(bos_token) }}{{ f(1, y=messages|length) }}"
    yield "tools", b"{% if tools is defined and tools is not none %}{{ tools|tojson(indent=2) }}{% else %}{{ strftime_now('%d %b %Y') }}{% endif %}"
    yield "filters", b"{{ messages|map(attribute='role')|list|join(', ') }}{{ messages|selectattr('role','equalto','user')|list|length }}{{ 'a'|replace('a','b') }}"
    yield "calls", b"{% for c in messages[1].tool_calls %}{{ c.function.name }}{% for k, v in c.function.arguments|items %}{{ k }}={{ v|tojson }}{% endfor %}{% endfor %}"
    yield "errors", b"{{ raise_exception('roles must alternate') }}"
    yield "spaces", b"  {%- if n > 2 and n <= 3 or not n %}\n  x {# c #}\n{%- elif n in [1, 2] %}y{% else %}z{% endif -%}\n{% raw %}{{ x }}{% endraw %}"
    yield "strings", b"{{ bos_token.strip().split('s')[0] + 'a' * 3 + '%s' % n + 'ab'[::-1] + ('x' if n is odd else 'y') }}{{ {'a': [1, 2.5e3, none]}.a[-1] }}"
    yield "deep", b"{{ " + b"(" * 100 + b"1" + b")" * 100 + b" }}"


# ---- SentencePiece: protocol buffers

def varint(n):
    out = b""
    while n >= 0x80:
        out, n = out + bytes([n & 0x7F | 0x80]), n >> 7
    return out + bytes([n])


def field(number, value):
    if isinstance(value, float):
        return varint(number << 3 | 5) + struct.pack("<f", value)
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


def sentencepiece(model_type, pieces, trainer=b"", normalizer=b""):
    """pieces: (text, score, type)"""
    out = b"".join(field(1, field(1, text) + field(2, float(score)) + field(3, kind)) for text, score, kind in pieces)
    return out + field(2, field(3, model_type) + trainer) + field(3, normalizer)


def sentencepiece_seeds():
    pieces = [("<unk>", 0, 2), ("<s>", 0, 3), ("</s>", 0, 3), ("\u2581", -1, 1), ("a", -2, 1), ("b", -2.5, 1), ("ab", -3, 1), ("\u2581a", -3.5, 1)]
    octets = [(f"<0x{i:02X}>", 0, 6) for i in (0x0A, 0x62, 0xC3, 0xFF)]
    rules = field(3, 1) + field(4, 1) + field(5, 1)
    for name, model_type in (("unigram", 1), ("bpe", 2), ("word", 3), ("char", 4)):
        yield name, sentencepiece(model_type, pieces, b"", rules)
    yield "plain", sentencepiece(2, pieces + [("<x>", 0, 4), ("u", -9, 5)], field(24, 1) + field(44, " ?? "), field(3, 0) + field(4, 0) + field(5, 0))
    yield "bytes", sentencepiece(2, pieces + octets, field(35, 1), rules)
    # A compiled rule set: the size of the double array in bytes, the array, the replacements.
    yield "charsmap", sentencepiece(1, pieces, b"", field(2, struct.pack("<IIII", 12, 0, 0, 0) + b"x\0") + rules)


# ---- requests to the server

def request_seeds():
    host = b"Host: localhost:8000\r\n"
    get, post = b"GET /health HTTP/1.1\r\n" + host, b"POST /tokenize HTTP/1.1\r\n" + host
    chunked = post + b"Transfer-Encoding: chunked\r\n\r\n"
    yield "get", get + b"\r\n"
    yield "get-10", b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"
    yield "head", b"HEAD /v1/models/a%20b?x=1 HTTP/1.1\r\nhOST: [::1]:80\r\nAccept: */*\r\n\r\n"
    yield "options", b"OPTIONS * HTTP/1.1\r\n" + host + b"Origin: https://a.example\r\nAccess-Control-Request-Method: POST\r\n\r\n"
    yield "absolute", b"GET http://localhost:8000/ready?q HTTP/1.1\r\n" + host + b"\r\n"
    yield "bearer", get + b"Authorization: Bearer fuzzed-key\r\n\r\n"
    yield "basic", get + b"Authorization: Basic OmZ1enplZC1rZXk=\r\n\r\n"
    yield "length", post + b"Content-Type: application/json\r\nContent-Length: 15\r\n\r\n{\"prompt\":\"ab\"}"
    yield "expect", post + b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\n{}"
    yield "chunked", chunked + b"5\r\nhello\r\n06;ext=\"v\"\r\n world\r\nA;a;b=c\r\n0123456789\r\n0\r\nTrailer: x\r\n\r\nGET /"
    yield "two", get + b"Connection: close, te\r\n\r\n" + get + b"\r\n"
    yield "empty-lines", b"\r\n\r\n" + get + b"\r\n"
    for number, tail in enumerate([b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc", b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
                                   b"Transfer-Encoding: gzip, chunked\r\n\r\n", b"Transfer-Encoding: identity\r\n\r\n", b"Content-Length: 99999999999999999999\r\n\r\n",
                                   b"A: b\r\n c\r\n\r\n", b"A : b\r\n\r\n", b"A: b\nC: d\r\n\r\n", b"A: \0\r\n\r\n", b": x\r\n\r\n", b"Host: other\r\n\r\n"]):
        yield f"refused-{number}", post + tail
    for number, tail in enumerate([b"-1\r\n", b"0x5\r\nhello\r\n", b"5 \r\nhello\r\n", b"5;\r\nhello\r\n", b"5;a[=x\r\nhello\r\n", b"5\r\nhelloX\r\n", b"5\nhello\r\n",
                                   b"ffffffff\r\n", b"FFFFFFFFFFFFFFFF0\r\n", b"0\r\n folded: x\r\n\r\n"]):
        yield f"chunk-{number}", chunked + tail


def openai_seeds():
    schema = {"type": "object", "properties": {"name": {"type": "string", "maxLength": 9, "pattern": "^[a-z]+$"}, "age": {"type": "integer", "minimum": 0},
              "tags": {"type": "array", "items": {"enum": ["a", 1, None]}, "maxItems": 3}, "next": {"$ref": "#/$defs/n"}},
              "required": ["name"], "additionalProperties": False, "$defs": {"n": {"anyOf": [{"type": "null"}, {"const": "x"}, {"$ref": "#"}]}}}
    function = {"type": "function", "function": {"name": "weather", "description": "d", "parameters": schema}}
    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": [{"type": "text", "text": "hi"}]}, {"role": "assistant", "content": None,
                "tool_calls": [{"id": "c", "type": "function", "function": {"name": "weather", "arguments": "{}"}}]}, {"role": "tool", "content": "x", "tool_call_id": "c"}]
    sampling = {"temperature": 0.7, "top_p": 0.9, "top_k": 40, "min_p": 0.05, "presence_penalty": 1, "frequency_penalty": -1, "repetition_penalty": 1.1, "seed": 7}
    completion = lambda **fields: b"0" + compact({"model": "m", "prompt": "The tide", **fields})
    chat = lambda **fields: b"1" + compact({"model": "m", "messages": messages[1:2], **fields})
    yield "completion", completion(max_tokens=5, stop=["\n", "END"], **sampling)
    yield "tokens", b"0" + compact({"prompt": [[1, 2], [3]], "n": 2, "echo": True, "logprobs": 5, "max_tokens": 0, "best_of": 2, "suffix": ""})
    yield "bias", completion(logit_bias={"5": -100, "7": 1.5}, stop_token_ids=[2, 3], ignore_eos=True, stream=True, stream_options={"include_usage": True})
    yield "chat", b"1" + compact({"messages": messages, "max_completion_tokens": 9, "logprobs": True, "top_logprobs": 3, "chat_template_kwargs": {"think": False}})
    yield "schema", chat(response_format={"type": "json_schema", "json_schema": {"name": "n", "strict": True, "schema": schema}})
    yield "json", chat(response_format={"type": "json_object"}, add_generation_prompt=False)
    yield "tools", chat(tools=[function], tool_choice="required", parallel_tool_calls=True)
    yield "tool", chat(tools=[function], tool_choice={"type": "function", "function": {"name": "weather"}})
    for number, part in enumerate([{"type": ["string", "null"], "minLength": 1}, {"prefixItems": [{}, True], "items": False, "minItems": 1}, {"allOf": [{"type": "number", "exclusiveMaximum": 5.5}]},
                                   {"pattern": "(a|b)*c{2,5}[^\\d]\\u0041"}, {"not": {}}, {"$ref": "#/x"}]):
        yield f"schema-{number}", chat(response_format={"type": "json_schema", "json_schema": {"schema": part}})
    yield "tokenize", b"2" + compact({"prompt": "ab", "add_special_tokens": False, "tokens": [1, 2]})
    yield "tokenize-chat", b"2" + compact({"messages": messages[:2], "tokens": [0]})
    yield "call", b'3Well.\n<tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call><tool_call>{"name": "g", "arguments": {}}</tool_call>'
    yield "call-list", b'3[TOOL_CALLS] [{"name": "f", "arguments": {"x": []}}, {"name": "g", "parameters": "{}"}]'
    yield "deep", b"1" + b'{"messages":' + b"[" * 70 + b"]" * 70 + b"}"


SEEDS = {"safetensors": safetensors_seeds, "gguf": gguf_seeds, "config": config_seeds, "index": index_seeds, "manifest": manifest_seeds,
         "journal": journal_seeds, "tokenizer": tokenizer_seeds,
         "template": template_seeds, "sentencepiece": sentencepiece_seeds, "request": request_seeds, "openai": openai_seeds}


def dictionary(seeds, more=rb"[a-z][a-z_.]{3,40}"):
    """The words of the seeds: names, keys, and numbers as they stand in the text."""
    words = set()
    for data in seeds:
        words.update(re.findall(rb'"[A-Za-z_.]{2,40}"|' + more + rb'|-?[0-9][0-9.e+-]*', data))
    return "".join(f'"{word.decode().replace(chr(34), chr(92) + chr(34))}"\n' for word in sorted(words) if len(word) <= 48)


def main():
    if len(sys.argv) not in (2, 3) or sys.argv[2:] and sys.argv[2] not in SEEDS:
        sys.exit(__doc__)
    for target in sys.argv[2:] or SEEDS:
        seeds = SEEDS[target]
        folder = pathlib.Path(sys.argv[1]) / target
        folder.mkdir(parents=True, exist_ok=True)
        made = list(seeds())
        for name, data in made:
            (folder / name).write_bytes(data)
        (folder.parent / f"{target}.dict").write_text(dictionary((data for _, data in made), *[rb"[A-Za-z][A-Za-z/-]{2,40}:?"] * (target == "request")))
        for finding in sorted((HERE / "regressions" / target).glob("*")):
            shutil.copy(finding, folder / finding.name)


if __name__ == "__main__":
    main()
