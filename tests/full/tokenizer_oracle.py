#!/usr/bin/env python3
"""Our tokenizers against PyPI `tokenizers` and `sentencepiece`, and their time on monotonous text.

Trains one small tokenizer of every kind, makes a million strings (scripts, emoji, combining marks, control characters,
runs of white space, digits, special tokens and their parts, invalid UTF-8) and compares ids and decoded texts; or does
so on the text files of a folder. Needs `pip install tokenizers==0.23.3 sentencepiece==0.2.3 protobuf numpy` and the
program awq_tokenizer_batch (`ninja -C build awq_tokenizer_batch`).

  tokenizer_oracle.py [--strings N] [--kinds A,B] [--work DIR]     generated strings (default 1,000,000 per kind)
  tokenizer_oracle.py --folder DIR                                 every file of DIR, by lines and as a whole
  tokenizer_oracle.py --time                                       1 MB of one character against 1 MB of text

Exit status 1 with the first differences when there are any.
"""
import argparse
import array
import functools
import io
import json
import pathlib
import random
import re
import struct
import subprocess
import sys
import threading
import time
import unicodedata

import numpy as np
import sentencepiece
import tokenizers
from sentencepiece import sentencepiece_model_pb2 as spm_proto
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

ROOT = pathlib.Path(__file__).resolve().parents[2]
BATCH = 10_000
SPECIALS = ["<s>", "</s>", "<|end|>", "<tool>"]  # what strings contain; kinds know some of them

CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
CASED = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+%s|"
         r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*%s")
TAIL = r" ?[^\s\p{L}\p{N}]+[\r\n%s]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3 = CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|" + TAIL % ""
PATTERNS = {
    "llama3": [LLAMA3],
    "qwen2": [LLAMA3.replace("{1,3}", "")],
    "qwen35": [CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"],
    "gpt4o": [CASED % (CONTRACTIONS + "?", CONTRACTIONS + "?") + r"|\p{N}{1,3}|" + TAIL % "/"],
    "tekken": [CASED % ("", "") + r"|\p{N}|" + TAIL % "/"],
    "cl100k": [r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"],
    "deepseek3": [r"\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+",
                  r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"],
    "deepseek_coder": [r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+", r"\p{N}"],
    "kimi_k2": [r"[\p{Han}]+|" + (CASED % (CONTRACTIONS + "?", CONTRACTIONS + "?")).replace(r"\p{M}]", r"\p{M}&&[^\p{Han}]]")
                + r"|\p{N}{1,3}|" + TAIL % ""],
    "tiny_aya": [r"\d{1,3}(?=(?:\d{3})*\b)", CASED % (CONTRACTIONS + "?", CONTRACTIONS + "?") + r"|\p{N}{1,3}|" + TAIL % "/"],
    "superbpe": [r"\p{N}+", r"(?=(\d{3})+(?!\d))"],
    "exaone_moe": [CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+"],
    "bloom": [r" ?[^(\s|.,!?…。，、।۔،)]+"],
}


# ---- strings -------------------------------------------------------------------------------------------------------

def assigned(*ranges):
    """Characters of the ranges that this Python's Unicode knows, which ICU and Rust know as well."""
    return [chr(c) for first, last in ranges for c in range(first, last + 1)
            if unicodedata.category(chr(c)) not in ("Cn", "Cs", "Co")]


class Strings:
    def __init__(self, seed, words):
        self.random = random.Random(seed)
        self.words = words
        self.scripts = [assigned(r) for r in (
            (0x41, 0x7a), (0xa1, 0xff), (0x100, 0x24f), (0x370, 0x3ff), (0x400, 0x52f), (0x531, 0x58f), (0x591, 0x5f4),
            (0x600, 0x6ff), (0x700, 0x74f), (0x900, 0x97f), (0x980, 0x9ff), (0xb80, 0xbff), (0xe01, 0xe5b), (0xf00, 0xfbc),
            (0x1000, 0x109f), (0x10a0, 0x10ff), (0x1100, 0x11ff), (0x1200, 0x137f), (0x1780, 0x17f9), (0x1800, 0x18aa),
            (0x1e00, 0x1fff), (0x2070, 0x209c), (0x20a0, 0x20bf), (0x2100, 0x218b), (0x2190, 0x23ff), (0x2460, 0x24ff),
            (0x2580, 0x27bf), (0x3000, 0x30ff), (0x3200, 0x33ff), (0x4e00, 0x9fff), (0xac00, 0xd7a3), (0xf900, 0xfaff),
            (0xfb00, 0xfdff), (0xfe30, 0xfe6b), (0xff01, 0xffee), (0x10400, 0x1044f), (0x1d400, 0x1d7ff), (0x20000, 0x2a000))]
        self.emoji = assigned((0x1f300, 0x1f64f), (0x1f680, 0x1f6ff), (0x1f900, 0x1f9ff), (0x2600, 0x26ff))
        self.marks = assigned((0x300, 0x36f), (0x591, 0x5bd), (0x64b, 0x65f), (0x93a, 0x94d), (0xe31, 0xe3a), (0x1ab0, 0x1abe),
                              (0x20d0, 0x20f0), (0xfe00, 0xfe0f), (0xfe20, 0xfe2f), (0x200c, 0x200d))
        self.spaces = list(" \t\n\r\v\f\x85\xa0\u1680\u2000\u2003\u2009\u2028\u2029\u202f\u205f\u3000") + [" "] * 20 + ["\n"] * 6 + ["\r\n"] * 3
        self.controls = [chr(c) for c in (*range(0x20), *range(0x7f, 0xa0), 0xad, 0x34f, 0x61c, 0x180e, 0x200b, 0x200c, 0x200d,
                                          0x200e, 0x202e, 0x2060, 0x2066, 0xfeff, 0xfffd, 0xfff9, 0xe0041, 0xe0001)]
        self.digits = ["0123456789", "٠١٢٣٤٥٦٧٨٩", "०१२३४५६७८९", "０１２３４５６７８９", "²³¹½¾ⅧⅫ①⑳", "𝟎𝟏𝟐"]
        self.punctuation = list(".,;:!?'\"()[]{}<>/\\|@#$%^&*-_=+~`…—–“”‘’«»¿¡·•。、，！？「」（）") + ["'s", "'LL", "'re ", " 't", "''", "...", "---", "</", "->"]
        self.invalid = [b"\xff", b"\xc3", b"\xe4\xb8", b"\xf0\x9f\x98", b"\x80", b"\xed\xa0\x80", b"\xc0\xaf", b"\xf4\x90\x80\x80"]
        kinds = {"word": 30, "script": 22, "space": 16, "digits": 8, "punctuation": 10, "emoji": 5, "marks": 5, "control": 3,
                 "special": 3, "run": 4, "mixed": 4, "mark": 2, "invalid": 0.6}
        self.makers = [getattr(self, "make_" + name) for name in kinds]
        self.cumulative = list(np.cumsum(list(kinds.values())))

    def some(self, characters, most):
        return "".join(self.random.choices(characters, k=self.random.randint(1, most)))

    def make_word(self):
        r = self.random.random()
        w = self.random.choice(self.words)
        return (w if r < 0.5 else " " + w if r < 0.85 else w.upper() if r < 0.92 else w.capitalize() if r < 0.96 else w[: len(w) // 2])

    def make_script(self):
        return self.some(self.random.choice(self.scripts), 8)

    def make_space(self):
        return " " if self.random.random() < 0.6 else self.some(self.spaces, 5)

    def make_digits(self):
        return self.some(self.random.choice(self.digits) if self.random.random() < 0.3 else self.digits[0], 12)

    def make_punctuation(self):
        return self.some(self.punctuation, 3)

    def make_emoji(self):
        r = self.random.random()
        if r < 0.5:
            return self.some(self.emoji, 3)
        if r < 0.7:
            return "\u200d".join(self.random.choices(self.emoji, k=self.random.randint(2, 4))) + self.random.choice(["", "\ufe0f"])
        if r < 0.85:
            return self.random.choice(self.emoji) + chr(0x1f3fb + self.random.randrange(5))
        return "".join(chr(0x1f1e6 + self.random.randrange(26)) for _ in range(self.random.randint(1, 5)))

    def make_marks(self):
        letters = self.random.choice(self.scripts)
        return "".join(self.random.choice(letters) + self.some(self.marks, 3) for _ in range(self.random.randint(1, 3)))

    def make_mark(self):
        return self.random.choice(["▁", "▁▁", "Ġ", "##", "</w>", "<0x41>", "<unk>x"])

    def make_control(self):
        return self.some(self.controls, 3)

    def make_special(self):
        token = self.random.choice(SPECIALS)
        r = self.random.random()
        return token if r < 0.5 else " " + token + " " if r < 0.65 else token[: self.random.randint(1, len(token) - 1)] if r < 0.85 else token * 2

    def make_run(self):
        return self.random.choice(["a", " ", "\n", "é", "中", "0", "!", "\u200d", "😀", "\t", "_", "=", "ab"]) * self.random.randint(2, 40)

    def make_mixed(self):
        return "".join(self.random.choice(self.random.choice(self.scripts)) for _ in range(self.random.randint(1, 8)))

    def make_invalid(self):
        return self.random.choice(self.invalid)

    def make(self):
        k = min(1 + int(self.random.expovariate(0.25)), 40)
        parts = []
        for maker in self.random.choices(self.makers, cum_weights=self.cumulative, k=k):
            part = maker()
            parts.append(part if isinstance(part, bytes) else part.encode())
        return b"".join(parts)


def corpus():
    return [p.read_text("utf-8") for p in sorted((ROOT / "src/text/corpus").rglob("*.txt"))]


def generated(count, work):
    path = work / f"strings-{count}.bin"
    if not path.exists():
        words = sorted(set(re.findall(r"\w+", " ".join(corpus()))))
        strings = Strings(20261125, words)
        with open(path.with_suffix(".part"), "wb") as out:
            for _ in range(count):
                s = strings.make()
                out.write(struct.pack("<I", len(s)) + s)
        path.with_suffix(".part").rename(path)
    data = path.read_bytes()
    out, pos = [], 0
    while pos < len(data):
        n, = struct.unpack_from("<I", data, pos)
        out.append(data[pos + 4: pos + 4 + n])
        pos += 4 + n
    return out


def of_folder(folder):
    for path in sorted(p for p in pathlib.Path(folder).rglob("*") if p.is_file()):
        data = path.read_bytes()
        yield data
        yield from data.splitlines(keepends=True)


# ---- kinds ---------------------------------------------------------------------------------------------------------

def training_texts(work):
    strings = Strings(1, sorted(set(re.findall(r"\w+", " ".join(corpus())))))
    lines = [line for text in corpus() for line in text.split("\n") if line.strip()]
    # Few first: SentencePiece wants nearly every character as a piece.
    return lines + [strings.make().decode("utf-8", "ignore") for _ in range(6_000)]


def bpe(pre, texts, normalizer=None, ignore_merges=False, size=4000):
    t = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    if normalizer:
        t.normalizer = normalizer
    t.pre_tokenizer, t.decoder = pre, decoders.ByteLevel()
    t.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=size, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), special_tokens=["<s>", "<|end|>"]))
    t.add_tokens([AddedToken("<tool>", normalized=False)])
    t.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 0)])
    return t


def byte_level_kind(name, texts):
    steps = [pre_tokenizers.Split(Regex(p), "isolated") for p in PATTERNS[name]]
    pre = pre_tokenizers.Sequence(steps + [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    return bpe(pre, texts, normalizers.NFC() if name.startswith("qwen") else None, name in ("llama3", "tekken"))


def spm(texts, work, name, **options):
    path = work / f"{name}.model"
    if path.exists():
        return path
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(t.replace("\0", "")[:2000] for t in texts[:-5500]), model_writer=out, minloglevel=2,
        **{"vocab_size": 4000, "character_coverage": 0.995, "max_sentence_length": 10000, "num_threads": 2, **options})
    path.write_bytes(out.getvalue())
    return path


def piece_types(path, change):
    proto = spm_proto.ModelProto()
    proto.ParseFromString(path.read_bytes())
    change(proto)
    path.write_bytes(proto.SerializeToString())


def llama_json(model, legacy=True, prefix=True):
    """The tokenizer.json that transformers makes of a SentencePiece BPE model."""
    proto = spm_proto.ModelProto()
    proto.ParseFromString(model.read_bytes())
    ids = {p.piece: i for i, p in enumerate(proto.pieces)}
    merges = []
    for p in proto.pieces:
        for cut in range(1, len(p.piece)):
            if p.piece[:cut] in ids and p.piece[cut:] in ids:
                merges.append((-p.score, ids[p.piece[:cut]], ids[p.piece[cut:]], (p.piece[:cut], p.piece[cut:])))
    t = Tokenizer(models.BPE(ids, [m[3] for m in sorted(merges)], unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    if legacy:
        t.normalizer = normalizers.Sequence(([normalizers.Prepend("▁")] if prefix else []) + [normalizers.Replace(" ", "▁")])
    else:
        t.pre_tokenizer = pre_tokenizers.Metaspace("▁", "first", split=False)
    t.decoder = decoders.Sequence(steps + ([decoders.Strip(" ", 1, 0)] if prefix else []))
    t.add_special_tokens([AddedToken(p.piece, normalized=False) for p in proto.pieces if p.type in (2, 3)])
    t.add_tokens([AddedToken("<tool>", normalized=False)])
    t.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 1)])
    return t


def gguf_of(model, **extra):
    proto = spm_proto.ModelProto()
    proto.ParseFromString(model.read_bytes())
    return {"model": "llama", "tokens": [p.piece for p in proto.pieces], "token_type": [p.type for p in proto.pieces],
            "scores": [p.score for p in proto.pieces], "bos": 1, "eos": 2, "unk": 0, **extra}


def unigram_json(texts, work, byte_fallback):
    if byte_fallback:
        t = Tokenizer(models.Unigram())
        t.normalizer = normalizers.Sequence([normalizers.Nmt(), normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    else:
        charsmap = spm_proto.ModelProto.FromString(spm(texts, work, "rules").read_bytes()).normalizer_spec.precompiled_charsmap
        t = Tokenizer(models.Unigram())
        t.normalizer = normalizers.Sequence([normalizers.Precompiled(charsmap), normalizers.Strip(left=False, right=True),
                                             normalizers.Replace(Regex(" {2,}"), "▁")])
    t.pre_tokenizer, t.decoder = pre_tokenizers.Metaspace("▁", "always"), decoders.Metaspace("▁", "always")
    t.train_from_iterator(texts[:-5500], trainers.UnigramTrainer(
        vocab_size=6000, show_progress=False, unk_token="<unk>", special_tokens=["<unk>", "<s>", "</s>"]))
    if byte_fallback:
        body = json.loads(t.to_str())
        have = {token for token, _ in body["model"]["vocab"]}
        body["model"]["vocab"] += [[f"<0x{b:02X}>", -20.0] for b in range(256) if f"<0x{b:02X}>" not in have]
        body["model"]["byte_fallback"] = True
        t = Tokenizer.from_str(json.dumps(body))
        t.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    t.post_processor = processors.TemplateProcessing(single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 2)])
    return t


def bert(texts):
    t = Tokenizer(models.WordPiece(unk_token="[UNK]", max_input_chars_per_word=100))
    t.normalizer, t.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    t.decoder = decoders.WordPiece()
    t.train_from_iterator(texts, trainers.WordPieceTrainer(vocab_size=4000, show_progress=False, special_tokens=["[UNK]", "[CLS]", "[SEP]", "<s>"]))
    t.post_processor = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    return t


def word_level(texts):
    t = Tokenizer(models.WordLevel(unk_token="<unk>"))
    t.normalizer = normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents(), normalizers.Lowercase()])
    t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.CharDelimiterSplit("|"), pre_tokenizers.Whitespace()])
    t.train_from_iterator(texts, trainers.WordLevelTrainer(vocab_size=4000, show_progress=False, special_tokens=["<unk>", "</s>", "<s>"]))
    t.post_processor = processors.RobertaProcessing(("</s>", 1), ("<s>", 2))
    return t


def suffix_bpe(texts):
    t = Tokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
    t.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()])
    t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(r"'s|'t|'re|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"), "removed", invert=True),
                                               pre_tokenizers.FixedLength(12)])
    t.decoder = decoders.BPEDecoder("</w>")
    t.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=4000, limit_alphabet=400, show_progress=False, end_of_word_suffix="</w>",
                                                     special_tokens=["<unk>", "<s>", "<|end|>"]))
    return t


def prefix_bpe(texts):
    t = Tokenizer(models.BPE(unk_token="<unk>", continuing_subword_prefix="##", fuse_unk=True))
    t.pre_tokenizer, t.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece("##", cleanup=False)
    t.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=4000, limit_alphabet=300, show_progress=False, continuing_subword_prefix="##",
                                                     special_tokens=["<unk>", "<s>"]))
    return t


def ctc(texts):
    t = word_level(texts)
    t.pre_tokenizer, t.decoder = pre_tokenizers.Split(Regex("."), "isolated"), decoders.CTC("<s>", "|", True)
    return t


class Json:
    """A tokenizer.json; the oracle is `tokenizers`."""
    def __init__(self, make, path):
        if not path.exists():
            make().save(str(path))
        self.path, self.oracle = path, Tokenizer.from_file(str(path))

    def expected(self, texts):
        ids = [e.ids for e in self.oracle.encode_batch_fast(texts, add_special_tokens=False)]
        special = [e.ids for e in self.oracle.encode_batch_fast(texts)]
        return ids, special, [self.decoded(ids, skip) for skip in (False, True)]

    def decoded(self, ids, skip):
        # BPEDecoder cannot take an empty list (`tokenizers` 0.23 panics), and decode_batch fails as a whole.
        if isinstance(self.oracle.decoder, decoders.BPEDecoder):
            known = {i for i, t in self.oracle.get_added_tokens_decoder().items() if t.special} if skip else set()
            return [self.oracle.decode(i, skip_special_tokens=skip) if any(x not in known for x in i) else "" for i in ids]
        return self.oracle.decode_batch(ids, skip_special_tokens=skip)


class Spm:
    """A .model; the oracle is `sentencepiece`, which does not look for control pieces in the text."""
    def __init__(self, path, bos=None, added=None):
        self.path = path
        self.model = path / "tokenizer.model" if path.is_dir() else path
        self.oracle = sentencepiece.SentencePieceProcessor(model_file=str(self.model))
        self.special = {p: self.oracle.piece_to_id(p) for p in ("<s>", "</s>")}
        self.added = added or {}
        found = {**self.special, **self.added}
        self.split = re.compile("(" + "|".join(map(re.escape, sorted(found, key=len, reverse=True))) + ")")
        self.found, self.bos = found, bos

    def expected(self, texts):
        ids = self.oracle.encode(texts, num_threads=2)
        for i, text in enumerate(texts):
            if self.split.search(text):
                ids[i] = [x for part in self.split.split(text) if part
                          for x in ([self.found[part]] if part in self.found else self.oracle.encode(part))]
        special = [[self.bos] + i for i in ids] if self.bos is not None else ids
        # What the library shows for control pieces is nothing; compared where nothing is skipped there are none.
        control = set(self.special.values()) | set(self.added.values())
        shown = [None if control & set(i) else i for i in ids]
        texts_all = self.oracle.decode([s or [] for s in shown])
        texts_all = [None if s is None else t for s, t in zip(shown, texts_all)]
        texts_skip = self.oracle.decode([[x for x in i if x not in self.special.values()] if not set(self.added.values()) & set(i) else [] for i in ids])
        texts_skip = [None if set(self.added.values()) & set(i) else t for i, t in zip(ids, texts_skip)]
        return ids, special, [texts_all, texts_skip]


def directory(model, work):
    """A model directory without tokenizer.json."""
    folder = work / "directory"
    folder.mkdir(exist_ok=True)
    (folder / "tokenizer.model").write_bytes(model.read_bytes())
    (folder / "added_tokens.json").write_text('{"<tool>": 4000}')
    (folder / "tokenizer_config.json").write_text(json.dumps({
        "tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "add_eos_token": False,
        "bos_token": {"__type": "AddedToken", "content": "<s>", "lstrip": False, "normalized": False, "rstrip": False, "single_word": False},
        "eos_token": "</s>"}))
    return folder


@functools.cache
def texts_of(work):
    return training_texts(work)


def llama_model(work):
    return spm(texts_of(work), work, "llama", model_type="bpe", byte_fallback=True, normalization_rule_name="identity",
               remove_extra_whitespaces=False, split_digits=True, allow_whitespace_only_pieces=True)


def gguf_kind(work, **extra):
    path = work / f"g{len(extra)}.gguf-vocab.json"
    path.write_text(json.dumps(gguf_of(llama_model(work), **extra)))
    subprocess.run([PROGRAM, path], input=b"", check=True)
    kind = Json(None, pathlib.Path(f"{path}.tokenizer.json"))
    kind.path = path  # ours reads the vocabulary, the oracle what we wrote from it
    return kind


def unused_pieces(work):
    path = spm(texts_of(work), work, "unused_pieces", model_type="bpe", normalization_rule_name="nfkc", user_defined_symbols=["<tool>", "ab", "▁▁", "."])

    def change(proto):
        for i, p in enumerate(proto.pieces):
            if p.type == 1 and len(p.piece) > 1 and i % 3 == 0:
                p.type = 5
    piece_types(path, change)
    return path


def kinds(work):
    texts = lambda: texts_of(work)  # noqa: E731
    byte_level = pre_tokenizers.ByteLevel
    out = {
        "gpt2": lambda: Json(lambda: bpe(byte_level(add_prefix_space=False), texts()), work / "gpt2.json"),
        "smollm": lambda: Json(lambda: bpe(pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level(add_prefix_space=False)]),
                                   texts()), work / "smollm.json"),
    }
    for name in PATTERNS:
        out[name] = functools.partial(lambda n: Json(lambda: byte_level_kind(n, texts()), work / f"{n}.json"), name)
    out |= {
        "llama_json": lambda: Json(lambda: llama_json(llama_model(work)), work / "llama_json.json"),
        "llama_json_first": lambda: Json(lambda: llama_json(llama_model(work), legacy=False), work / "llama_json_first.json"),
        "gemma_json": lambda: Json(lambda: llama_json(llama_model(work), prefix=False), work / "gemma_json.json"),
        "unigram_json": lambda: Json(lambda: unigram_json(texts(), work, False), work / "unigram_json.json"),
        "unigram_bytes_json": lambda: Json(lambda: unigram_json(texts(), work, True), work / "unigram_bytes_json.json"),
        "bert": lambda: Json(lambda: bert(texts()), work / "bert.json"),
        "word_level": lambda: Json(lambda: word_level(texts()), work / "word_level.json"),
        "suffix_bpe": lambda: Json(lambda: suffix_bpe(texts()), work / "suffix_bpe.json"),
        "prefix_bpe": lambda: Json(lambda: prefix_bpe(texts()), work / "prefix_bpe.json"),
        "ctc": lambda: Json(lambda: ctc(texts()), work / "ctc.json"),
        "spm_bpe": lambda: Spm(llama_model(work)),
        "spm_directory": lambda: Spm(directory(llama_model(work), work), bos=1, added={"<tool>": 4000}),
        "spm_bpe_unused": lambda: Spm(unused_pieces(work)),
        "spm_unigram": lambda: Spm(spm(texts(), work, "spm_unigram")),
        "spm_unigram_bytes": lambda: Spm(spm(texts(), work, "spm_unigram_bytes", byte_fallback=True, add_dummy_prefix=False,
                                             remove_extra_whitespaces=False, normalization_rule_name="nfkc",
                                             user_defined_symbols=["<tool>", "\n", "▁▁▁", "the"])),
        "spm_suffix": lambda: Spm(spm(texts(), work, "spm_suffix", treat_whitespace_as_suffix=True, normalization_rule_name="nmt_nfkc_cf")),
        "spm_char": lambda: Spm(spm(texts(), work, "spm_char", model_type="char", vocab_size=2000, hard_vocab_limit=False)),
        "spm_word": lambda: Spm(spm(texts(), work, "spm_word", model_type="word")),
        "gguf_llama": lambda: gguf_kind(work),
        "gguf_gemma": lambda: gguf_kind(work, add_space_prefix=False),
    }
    return out


# ---- comparison ----------------------------------------------------------------------------------------------------

class Ours:
    def __init__(self, path):
        self.process = subprocess.Popen([PROGRAM, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def answers(self, strings):
        data = b"".join(struct.pack("<I", len(s)) + s for s in strings)
        writer = threading.Thread(target=lambda: (self.process.stdin.write(data), self.process.stdin.flush()))
        writer.start()
        out = [[self.part(size) for size in (4, 4, 1, 1)] for _ in strings]
        writer.join()
        return out

    def part(self, size):
        head = self.process.stdout.read(4)
        if len(head) < 4:
            sys.exit("awq_tokenizer_batch ended early")
        return self.process.stdout.read(struct.unpack("<I", head)[0] * size)


def compare(name, kind, strings, most=5):
    ours, wrong, count, size = Ours(kind.path), 0, 0, 0
    start = time.time()
    for i in range(0, len(strings), BATCH):
        batch = strings[i: i + BATCH]
        result = {}
        reader = threading.Thread(target=lambda: result.update(ours=ours.answers(batch)))
        reader.start()
        ids, special, decoded = kind.expected([s.decode("utf-8", "replace") for s in batch])
        reader.join()
        for k, (got_ids, got_special, *got_texts) in enumerate(result["ours"]):
            count, size = count + 1, size + len(batch[k])
            ok = got_ids == array.array("i", ids[k]).tobytes() and got_special == array.array("i", special[k]).tobytes()
            ok = ok and all(d[k] is None or g == d[k].encode() for g, d in zip(got_texts, decoded))
            if ok:
                continue
            wrong += 1
            if wrong <= most:
                print(f"  {name}: {batch[k][:120]!r}\n    expected {ids[k][:30]} {[d[k] and d[k][:60] for d in decoded]!r}\n    got      "
                      f"{np.frombuffer(got_ids, '<i4').tolist()[:30]} {[g[:60] for g in got_texts]!r}", flush=True)
    ours.process.stdin.close()
    ours.process.wait()
    print(f"{name}: {count} strings, {size} bytes, {wrong} differ ({time.time() - start:.0f} s)", flush=True)
    return wrong


def timing(name, kind):
    text = "\n".join(corpus()).encode()
    text = (text * (1_000_000 // len(text) + 1))[:1_000_000]
    cases = [("text", text)] + [(repr(c), c.encode() * (1_000_000 // len(c.encode()))) for c in ("a", " ", "é", "\u200d", "\n", "0", "中", "😀", "<")]
    data = b"".join(struct.pack("<I", len(c)) + c for _, c in cases for _ in range(3))
    out = subprocess.run([PROGRAM, kind.path, "time"], input=data, stdout=subprocess.PIPE, check=True).stdout.decode().split("\n")
    seconds = [float(line.split()[0]) for line in out if line]
    best = [sorted(seconds[3 * i: 3 * i + 3])[1] for i in range(len(cases))]
    ratios = " ".join(f"{c}:{s / best[0]:.2f}" for (c, _), s in zip(cases[1:], best[1:]))
    print(f"{name}: text {best[0] * 1000:.0f} ms/MB; {ratios}", flush=True)
    return max(best[1:]) > 2 * best[0]


def main():
    global PROGRAM
    parser = argparse.ArgumentParser()
    parser.add_argument("--strings", type=int, default=1_000_000)
    parser.add_argument("--kinds", default="")
    parser.add_argument("--folder")
    parser.add_argument("--time", action="store_true")
    parser.add_argument("--work", default="/tmp/awq-tokenizers")
    parser.add_argument("--program", default=ROOT / "build/tests/awq_tokenizer_batch")
    args = parser.parse_args()
    PROGRAM = str(args.program)
    work = pathlib.Path(args.work)
    work.mkdir(parents=True, exist_ok=True)
    table = kinds(work)
    chosen = args.kinds.split(",") if args.kinds else list(table)
    print(f"tokenizers {tokenizers.__version__}, sentencepiece {sentencepiece.__version__}", flush=True)
    strings = None if args.time else list(of_folder(args.folder)) if args.folder else generated(args.strings, work)
    wrong = [name for name in chosen
             if (timing(name, table[name]()) if args.time else compare(name, table[name](), strings))]
    if wrong:
        sys.exit("too slow: " * args.time + "differences: " * (not args.time) + ", ".join(wrong))


main()
