#!/usr/bin/env python3
"""Records what PyPI `tokenizers` makes of awkward texts, for tests/unit/tokenizer.

Trains small tokenizers of the published families and writes, for each, the tokenizer.json and the ids and decoded
texts it gives; one file of variants, each a change of one base tokenizer; and SentencePiece models with what PyPI
`sentencepiece` makes of the texts. Needs `pip install tokenizers sentencepiece` (recorded with 0.23 and 0.2.3).
Usage: record_tokenizer_fixtures.py [FOLDER]
"""
import copy
import io
import json
import pathlib
import sys
import tempfile

import sentencepiece
from sentencepiece import sentencepiece_model_pb2
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
LLAMA3 = CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN2 = LLAMA3.replace("{1,3}", "")

TRAINING = [
    "The river was slow in summer, and the boats waited at the old mill until the water rose again.",
    "She'll say it's fine; they've said so since 1987, and we're sure he'd agree. I'm not, though: don't ask!",
    "for (int i = 0; i < 10; ++i) {\n    total += values[i] * 2.5;\n}\nreturn total;\n\n",
    "Numbers 0 12 345 6789 10000, 3.14159 and 2024-01-31; prices $19.99, 5% off, call 555-0199.",
    "Der Fluß fließt langsam, die Mühle läuft über Nacht. Où est l'école ? Çà et là, déjà vu, naïve café.",
    "Река течёт медленно. 河水流得很慢,磨坊整夜运转。川はゆっくり流れ、水車は夜通し回る。강물이 천천히 흐른다.",
    "Great news 😀🎉 👩‍👩‍👧‍👦 — “quoted” … x² + y² = z², ½ cup, Ⅷ, ﬁne, Å.",
    "ทดสอบ हिन्दी में लिखा है العربية مكتوبة עברית",
]
TEXTS = [
    "", " ", "  ", "\n", "\t\t", " \n \n\n  x", "a", "Hello, world!", "   leading and trailing   ", "a  b   c    d",
    "tabs\tand\r\nCRLF\r\n\r\nlines\n\n\n", "It's I'LL we'Ve don'T 'S 's' ''s she'd'd", "CamelCase snake_case kebab-case",
    "1 12 123 1234 12345678901 1,234.5 ٣٤٥ १२३ x² ½ Ⅷ ①", "naïve café cafe\u0301 A\u030a \u212b ﬁ ㎏ ①",
    "e\u0301\u0327\u0300\u0300 \u0301alone n\u0303", "中文字符混合English和123数字。日本語テキスト、カタカナ。한국어 문장",
    "😀 😀😀 👩‍👩‍👧‍👦 🏳️‍🌈 👍🏽 🇩🇪🇫🇷", "\x00\x01\x07\x1b[0m\x7f\x85", "zero\u200bwidth\u200djoin\ufeffbom",
    "no\u00a0break\u2003em\u3000wide\u2028line\u180emongol", "\u202eright to left\u202c עִבְרִית العَرَبِيَّة हिन्दी ภาษาไทย",
    "--- === *** !!! ??? ... …… —— “” «»", "<|end|>", "a<|end|>b", " <|end|> ", "<|end|><|end|>", "<|end", "<|end|>\n<|begin|>",
    "<|begin|>user\nHi<|end|>\n", "<tool> x <tool>y", "word<tool>word", "for (int i = 0; i < 10; ++i) {\n\treturn x[i];\n}\n",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    " " * 70 + "x" + "\n" * 20, "\U0001f9ff\U00010400\U0002070e\U000e0041", "ǅ İ ı ſ ß ẞ 'ſ K",
]


def byte_level(regex, prefix=False):
    return pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=regex)


def split(pattern, behavior="isolated", invert=False):
    return pre_tokenizers.Split(Regex(pattern), behavior, invert)


def trained(pre_tokenizer, size, normalizer=None):
    tokenizer = Tokenizer(models.BPE())
    if normalizer:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|begin|>", "<|end|>"])
    tokenizer.train_from_iterator(TRAINING * 3, trainer)
    tokenizer.add_tokens([AddedToken("<tool>", normalized=False)])
    return tokenizer


def cases(tokenizer, texts):
    for text in texts:
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        yield {
            "text": text, "ids": ids, "special_ids": tokenizer.encode(text).ids,
            "decoded": tokenizer.decode(ids, skip_special_tokens=False), "decoded_skip": tokenizer.decode(ids),
        }


def families():
    sequence = pre_tokenizers.Sequence
    yield "gpt2", trained(byte_level(True), 500)
    llama3 = trained(sequence([split(LLAMA3), byte_level(False)]), 500)
    llama3.post_processor = processors.Sequence([
        processors.ByteLevel(trim_offsets=False),
        processors.TemplateProcessing(single="<|begin|> $A", pair="<|begin|> $A <|begin|> $B", special_tokens=[("<|begin|>", 0)])])
    yield "llama3", llama3
    yield "qwen2", trained(sequence([split(QWEN2), byte_level(False)]), 500, normalizers.NFC())
    yield "smollm", trained(sequence([pre_tokenizers.Digits(individual_digits=True), byte_level(True)]), 500)


def added(base, contents, **options):
    """Added tokens with the ids `tokenizers` would give them."""
    vocab = base["model"]["vocab"]
    free = len(vocab)
    tokens = []
    for content in contents:
        if content not in vocab:
            free += 1
        token = {"id": vocab.get(content, free - 1), "content": content, "single_word": False, "lstrip": False,
                 "rstrip": False, "normalized": False, "special": False}
        tokens.append({**token, **options})
    return sorted(tokens, key=lambda token: token["id"])


def byte_variants(base):
    """Changes of a byte-level tokenizer whose merges cross every boundary, so that each cut shows in the ids."""
    raw = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    words = {**raw, "use_regex": True}

    def sequence(*steps):
        return {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [*steps, raw]}}

    for behavior in ("Isolated", "Removed", "MergedWithPrevious", "MergedWithNext", "Contiguous"):
        for invert in (False, True):
            yield f"split {behavior} invert={invert}", sequence(
                {"type": "Split", "pattern": {"Regex": r"\s|\d|x*"}, "behavior": behavior, "invert": invert})
        yield f"punctuation {behavior}", sequence({"type": "Punctuation", "behavior": behavior})
    yield "split on a string", sequence(
        {"type": "Split", "pattern": {"String": ". "}, "behavior": "MergedWithPrevious", "invert": False})
    for pattern in (r"\w+|[^\w\s]+", r"\b", r"\p{Han}+|\p{Thai}+", r"\p{N}{1,3}+", r"^.|.$", r"\h+", r"[^\S\n]+",
                    r"\d{1,3}(?=(?:\d{3})*\b)", r"(?i:world|É)", r"[^\r\n\p{L}\p{N}]?+\p{L}++|\s+(?!\S)|\s"):
        yield f"regex {pattern}", sequence({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False})
    yield "whitespace", sequence({"type": "Whitespace"})
    yield "whitespace split", sequence({"type": "WhitespaceSplit"})
    yield "digits in runs", sequence({"type": "Digits", "individual_digits": False})
    for scheme in ("always", "first", "never"):
        yield f"metaspace {scheme}", sequence(
            {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": scheme != "first"})
    yield "prefix space", {"pre_tokenizer": {**words, "add_prefix_space": True}}
    yield "byte level in the middle", {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [
        {"type": "Punctuation", "behavior": "Contiguous"}, words, {"type": "Digits", "individual_digits": False}]}}
    yield "no pre-tokenizer", {"pre_tokenizer": None}
    for step in ({"type": "NFC"}, {"type": "NFD"}, {"type": "NFKC"}, {"type": "NFKD"}, {"type": "Lowercase"},
                 {"type": "Prepend", "prepend": "a "}, {"type": "Replace", "pattern": {"String": "  "}, "content": "_"},
                 {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "},
                 {"type": "Strip", "strip_left": True, "strip_right": False},
                 {"type": "Strip", "strip_left": False, "strip_right": True}):
        yield "normalizer " + json.dumps(step), {"normalizer": step}
    yield "normalizers", {"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFD"}, {"type": "Lowercase"}, {"type": "NFC"}]}}
    contents = ["word", "中", "  ", "<|end|>", "\n", "ABC"]
    for options in ({}, {"special": True}, {"normalized": True}, {"lstrip": True}, {"rstrip": True},
                    {"lstrip": True, "rstrip": True}, {"single_word": True}):
        yield f"added {options}", {"added_tokens": added(base, contents, **options), "pre_tokenizer": words}
    yield "added, normalized", {"added_tokens": added(base, ["abc"], normalized=True), "normalizer": {"type": "Lowercase"}}
    yield "merges as pairs", {"model": {**base["model"], "merges": [m if isinstance(m, list) else m.split(" ") for m in base["model"]["merges"]]}}
    yield "merges as strings", {"model": {**base["model"], "merges": [" ".join(m) for m in base["model"]["merges"]]}}
    few = [" ".join(m) for m in base["model"]["merges"][5:]]
    yield "merges ignored", {"model": {**base["model"], "merges": few, "ignore_merges": True}, "pre_tokenizer": words}
    yield "merges not ignored", {"model": {**base["model"], "merges": few}, "pre_tokenizer": words}


def character_variants():
    """A tokenizer of characters with byte fallback, as made from SentencePiece models."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    trainer = trainers.BpeTrainer(
        vocab_size=420, show_progress=False, limit_alphabet=60,
        special_tokens=["<unk>", "<s>"] + [f"<0x{b:02X}>" for b in range(256)])
    tokenizer.train_from_iterator(TRAINING[:4], trainer)
    base = json.loads(tokenizer.to_str())
    base["added_tokens"] = base["added_tokens"][:2]
    base["normalizer"] = {"type": "Sequence", "normalizers": [
        {"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]}
    base["decoder"] = {"type": "Sequence", "decoders": [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}
    yield "byte fallback", base
    without = copy.deepcopy(base)
    without["model"]["byte_fallback"] = False
    yield "unknown, fused", without
    without = copy.deepcopy(without)
    without["model"]["fuse_unk"] = False
    without["decoder"] = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    yield "unknown, one each", without
    without = copy.deepcopy(without)
    without["model"]["unk_token"] = None
    without["decoder"] = None
    yield "unknown dropped", without


def other_families():
    """Models other than BPE of bytes, and the components that come with them."""
    corpus = TRAINING * 3
    unigram = Tokenizer(models.Unigram())
    unigram.normalizer = normalizers.Sequence([
        normalizers.Precompiled(normalizer_of(CHARSMAP_RULES)), normalizers.Nmt(), normalizers.Replace(Regex(" {2,}"), " ")])
    unigram.pre_tokenizer, unigram.decoder = pre_tokenizers.Metaspace("▁", "first"), decoders.Metaspace("▁", "first")
    unigram.train_from_iterator(corpus, trainers.UnigramTrainer(
        vocab_size=330, show_progress=False, unk_token="<unk>", special_tokens=["<|begin|>", "<|end|>", "<unk>"]))
    unigram.post_processor = processors.TemplateProcessing(single="$A <|end|>", pair="$A $B <|end|>", special_tokens=[("<|end|>", 1)])
    yield "unigram", unigram
    bert = Tokenizer(models.WordPiece(unk_token="[UNK]", max_input_chars_per_word=30))
    bert.normalizer, bert.pre_tokenizer, bert.decoder = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()
    bert.train_from_iterator(corpus, trainers.WordPieceTrainer(vocab_size=400, show_progress=False, special_tokens=["<|begin|>", "<|end|>", "[UNK]"]))
    bert.post_processor = processors.BertProcessing(("<|end|>", 1), ("<|begin|>", 0))
    yield "bert", bert
    words = Tokenizer(models.WordLevel(unk_token="<unk>"))
    words.normalizer = normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents(), normalizers.Lowercase()])
    words.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.CharDelimiterSplit("a"), pre_tokenizers.UnicodeScripts(), pre_tokenizers.Whitespace()])
    words.decoder = decoders.CTC("<unk>", "e", True)
    words.train_from_iterator(corpus, trainers.WordLevelTrainer(vocab_size=300, show_progress=False, special_tokens=["<|begin|>", "<|end|>", "<unk>"]))
    words.post_processor = processors.RobertaProcessing(("<|end|>", 1), ("<|begin|>", 0))
    yield "word_level", words
    clip = Tokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
    clip.pre_tokenizer, clip.decoder = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.FixedLength(9)]), decoders.BPEDecoder("</w>")
    clip.train_from_iterator(corpus, trainers.BpeTrainer(
        vocab_size=400, limit_alphabet=120, show_progress=False, end_of_word_suffix="</w>", special_tokens=["<|begin|>", "<|end|>", "<unk>"]))
    yield "word_suffix", clip
    prefix = Tokenizer(models.BPE(unk_token="<unk>", continuing_subword_prefix="##", fuse_unk=True))
    prefix.pre_tokenizer, prefix.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece("##", cleanup=False)
    prefix.train_from_iterator(corpus, trainers.BpeTrainer(
        vocab_size=400, limit_alphabet=120, show_progress=False, continuing_subword_prefix="##", special_tokens=["<|begin|>", "<|end|>", "<unk>"]))
    yield "subword_prefix", prefix


# Small stand-ins for the rules of NFKC, which take a quarter of a megabyte.
CHARSMAP_RULES = [("ﬁ", "fi"), ("㎏", "kg"), ("①", "1"), ("½", "1/2"), ("\u00a0", " "), ("\u3000", " "), ("\t", " "), ("\n", " "),
                  ("\r", " "), ("e\u0301", "é"), ("…", "..."), ("\u200b", ""), ("Å", "A"), ("“", '"'), ("”", '"')]


def sentencepiece_model(**options):
    out = io.BytesIO()
    with tempfile.NamedTemporaryFile("w", suffix=".tsv", encoding="utf-8") as rules:
        if options.pop("rules", False):
            for source, target in CHARSMAP_RULES:
                rules.write("\t".join(" ".join(f"{ord(c):04X}" for c in s) for s in (source, target)) + "\n")
            rules.flush()
            options["normalization_rule_tsv"] = rules.name
        else:
            options.setdefault("normalization_rule_name", "identity")
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(TRAINING * 3), model_writer=out, minloglevel=2, num_threads=1,
            **{"vocab_size": 330, "hard_vocab_limit": False, "character_coverage": 0.98, **options})
    proto = sentencepiece_model_pb2.ModelProto.FromString(out.getvalue())
    # Paths and dates of training are nobody's business.
    proto.trainer_spec.ClearField("input")
    proto.normalizer_spec.ClearField("normalization_rule_tsv")
    return proto


def normalizer_of(_):
    return sentencepiece_model(rules=True).normalizer_spec.precompiled_charsmap


def sentencepiece_models():
    yield "bpe, byte fallback", sentencepiece_model(
        model_type="bpe", byte_fallback=True, vocab_size=560, remove_extra_whitespaces=False, allow_whitespace_only_pieces=True)
    unused = sentencepiece_model(model_type="bpe", rules=True, user_defined_symbols=["<tool>", "ab", "."])
    for i, piece in enumerate(unused.pieces):
        if piece.type == 1 and len(piece.piece) > 1 and i % 3 == 0:
            piece.type = 5
    yield "bpe, unused and user-defined pieces", unused
    yield "unigram", sentencepiece_model(rules=True)
    yield "unigram, byte fallback", sentencepiece_model(
        byte_fallback=True, vocab_size=600, add_dummy_prefix=False, remove_extra_whitespaces=False, user_defined_symbols=["<tool>", "▁▁", "\n"])
    yield "unigram, suffix", sentencepiece_model(rules=True, treat_whitespace_as_suffix=True)
    yield "characters", sentencepiece_model(model_type="char", rules=True, user_defined_symbols=["<tool>"])
    yield "words", sentencepiece_model(model_type="word")


def sentencepiece_cases(proto):
    library = sentencepiece.SentencePieceProcessor(model_proto=proto.SerializeToString())
    for text in TEXTS:
        ids = library.encode(text)
        yield {"text": text, "ids": ids, "decoded": library.decode(ids)}


def write(path, content):
    path.write_text(json.dumps(content, ensure_ascii=False, separators=(",", ":")) + "\n", encoding="utf-8")
    print(f"{path} {path.stat().st_size} bytes")


def main():
    folder = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "tests/data/tokenizer")
    folder.mkdir(parents=True, exist_ok=True)
    write(folder / "sentencepiece.json", [
        {"name": name, "model": proto.SerializeToString().hex(),
         **({"pieces": [[p.piece, p.score, p.type] for p in proto.pieces]} if "byte fallback" in name and "bpe" in name else {}), "cases": list(sentencepiece_cases(proto))}
        for name, proto in sentencepiece_models()])
    for name, tokenizer in [*families(), *other_families()]:
        write(folder / f"{name}.json", {"tokenizer": json.loads(tokenizer.to_str()), "cases": list(cases(tokenizer, TEXTS))})
    texts = [TEXTS[i] for i in (0, 5, 7, 8, 10, 11, 13, 14, 16, 21, 24)] + ["x  word ABC\n\nwords中  word", "The river was slow. 1987, abcABC"]
    base = json.loads(trained(byte_level(False), 420).to_str())
    base["added_tokens"] = []
    variants = [{"name": n, "patch": p} for n, p in byte_variants(base)]
    for v in variants:
        v["cases"] = list(cases(Tokenizer.from_str(json.dumps({**base, **v["patch"]})), texts))
    # What a variant shares with the base model is not written again.
    for v in variants:
        if "model" in v["patch"]:
            v["patch"]["model"] = {k: w for k, w in v["patch"]["model"].items() if base["model"].get(k) != w}
    cuts = [v for v in variants if set(v["patch"]) == {"pre_tokenizer"}]
    for name, group in (("pre_tokenizers", cuts), ("other_parts", [v for v in variants if v not in cuts])):
        write(folder / f"{name}.json", {"tokenizer": base, "texts": texts, "variants": [
            {"name": v["name"], "patch": v["patch"], "ids": [c["ids"] for c in v["cases"]]} for v in group]})
    characters = dict(character_variants())
    first = next(iter(characters.values()))
    write(folder / "characters.json", {"tokenizer": first, "texts": texts, "variants": [
        {"name": n, "patch": {"model": {k: j["model"][k] for k in ("byte_fallback", "fuse_unk", "unk_token")}, "decoder": j["decoder"]},
         "ids": [c["ids"] for c in recorded], "decoded": [c["decoded"] for c in recorded]}
        for n, j in characters.items() for recorded in [list(cases(Tokenizer.from_str(json.dumps(j)), texts))]]})


main()
