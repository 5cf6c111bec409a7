"""How a model is loaded and run: what the command line's options do, by the same words."""
import json
import subprocess
import warnings

import numpy
import pytest

import awq
import tiny
from awq import _arguments, _core

IDS = [[5, 9, 11, 30, 31, 7]]
HAS_GPU = bool(_core.cuda_devices())
without_gpu = pytest.mark.skipif(HAS_GPU, reason="there is a GPU")
with_gpu = pytest.mark.skipif(not HAS_GPU, reason=f"no GPU: {_core.cuda_absence()}")


def logits(model):
    return model(IDS).logits[0]


def kl(reference, other):
    """In nats, the mean over positions."""
    log = [x - numpy.log(numpy.exp(x).sum(-1, keepdims=True)) for x in (a.astype(numpy.float64) for a in (reference, other))]
    return float((numpy.exp(log[0]) * (log[0] - log[1])).sum(-1).mean())


def test_fast_is_near_exact_and_the_same_each_time(quantized):
    exact, fast = logits(awq.load(quantized)), logits(awq.load(quantized, "fast"))
    assert not numpy.array_equal(fast, exact) and kl(exact, fast) < 1e-3
    threads = awq.threads()
    try:
        awq.set_threads(1)
        assert numpy.array_equal(fast, logits(awq.load(quantized, precision="fast")))
    finally:
        awq.set_threads(threads)


@pytest.mark.parametrize("precision, tied", [("exact", False), ("fast", True)])  # fast: the embedding is the rounded table, too
def test_head_bits_shrink_the_output_layer(precision, tied, tmp_path):
    path = tiny.write_model(tmp_path / "model", tie_word_embeddings=tied)
    stored, eight, four = (awq.load(path, precision, head_bits=bits) for bits in (0, 8, 4))
    assert stored.bytes > eight.bytes > four.bytes
    distances = [kl(logits(stored), logits(m)) for m in (eight, four)]
    assert 0 < distances[0] < distances[1] < 1


@pytest.mark.parametrize("name, most", [("nf4", 1), ("rtn", 1), ("int8", 1e-2)])
def test_load_in_quantizes_dense_linears_only(model, quantized, name, most):
    dense, rounded = awq.load(model), awq.load(model, load_in=name)
    assert rounded.bytes < dense.bytes and 0 < kl(logits(dense), logits(rounded)) < most
    assert numpy.array_equal(logits(awq.load(quantized)), logits(awq.load(quantized, load_in=name)))


def test_a_pack_cache_is_used_again_and_made_anew_where_it_does_not_fit(quantized, tmp_path):
    def load(**options):
        return logits(awq.load(quantized, pack_cache=tmp_path / "packed", **options))

    plain = logits(awq.load(quantized))
    assert numpy.array_equal(load(), plain)
    [file] = (tmp_path / "packed").iterdir()
    written, when = file.read_bytes(), file.stat().st_mtime_ns
    assert numpy.array_equal(load(), plain) and file.stat().st_mtime_ns == when
    assert numpy.array_equal(load(head_bits=8), logits(awq.load(quantized, head_bits=8)))
    assert len(list((tmp_path / "packed").iterdir())) == 2
    file.write_bytes(b"\xff" * 8 + written[8:])
    assert numpy.array_equal(load(), plain) and file.read_bytes() == written


@pytest.mark.parametrize("options, said", [
    ({"precision": "exakt"}, "precision: expected fast, exact or bf16, got 'exakt'"),
    ({"head_bits": 3}, "head_bits: expected 0, 4 or 8, got 3"),
    ({"load_in": "gptq"}, "load_in: expected nf4, rtn or int8, got 'gptq'"),
    ({"device": "cuda:0"}, "device: expected auto, cpu or cuda, got 'cuda:0'"),
])
def test_words_nobody_knows_are_refused_with_those_that_are_expected(model, options, said):
    with pytest.raises(awq.errors.BadArgumentError) as error:
        awq.load(model, **options)
    assert str(error.value) == said


def test_values_of_a_wrong_type_are_type_errors(model):
    for options in ({"precision": 8}, {"head_bits": "8"}, {"load_in": 4}, {"pack_cache": 1}):
        with pytest.raises(TypeError, match=next(iter(options))):
            awq.load(model, **options)
    with pytest.raises(TypeError):
        awq.load(model, "exact", False, 8)


# --- generating

def test_guesses_change_nothing_but_are_made(deep_model):
    model = awq.load(deep_model, precision="fast")
    prompt, arguments = [[5, 9, 11, 30] * 6], {"max_new_tokens": 40, "eos_token_id": []}
    plain = model.generate(prompt, **arguments)
    for guessing in ({"prompt_lookup_num_tokens": 5}, {"prompt_lookup_num_tokens": 50}, {"assistant_model": model},
                     {"assistant_model": awq.AutoAWQForCausalLM.from_quantized(deep_model), "num_assistant_tokens": 7}):
        out = model.generate(prompt, return_dict_in_generate=True, **guessing, **arguments)
        assert out.sequences == plain and out.drafted[0] > 0
        assert 0 < out.drafts_right[0] <= out.drafted[0] if "assistant_model" in guessing else out.drafts_right[0] >= 0
    assert "drafted" not in model.generate(prompt, return_dict_in_generate=True, **arguments)
    assert "".join(model.stream(prompt, prompt_lookup_num_tokens=4, **arguments)) == model.tokenizer.decode(plain[0][24:])


def test_a_model_that_cannot_guess_is_refused(quantized, tmp_path):
    model = awq.load(quantized)
    other = awq.load(tiny.write_model(tmp_path / "other", vocab_size=112))
    for arguments, said in [({"assistant_model": other}, "expected the tokenizer"), ({"assistant_model": quantized}, "expected a model of awq.load"),
                            ({"assistant_model": model, "prompt_lookup_num_tokens": 3}, "got both"),
                            ({"prompt_lookup_num_tokens": -1}, "expected 0 or more, got -1")]:
        with pytest.raises(awq.errors.BadArgumentError, match=said):
            model.generate(IDS, **arguments)


def test_the_type_of_the_cache(quantized):
    model = awq.load(quantized)

    def scores(**arguments):
        seen = []

        def keep(_ids, row):
            seen.append(row[0].copy())
            return row

        model.generate(IDS, max_new_tokens=3, eos_token_id=[], logits_processor=[keep], **arguments)
        return numpy.array(seen)

    wide = scores(kv_dtype="float32")
    assert numpy.array_equal(wide, scores())
    for kind in ("float16", "bfloat16", "int8"):
        narrow = scores(kv_dtype=kind)
        assert not numpy.array_equal(wide[0], narrow[0]) and kl(wide[:1], narrow[:1]) < 1e-3
    with pytest.raises(awq.errors.BadArgumentError, match="kv_dtype: expected float16, bfloat16, float32 or int8, got 'int4'"):
        scores(kv_dtype="int4")


@pytest.mark.parametrize("loading, generating, options", [
    ({"precision": "fast"}, {}, []),
    ({"precision": "fast", "head_bits": 4}, {"prompt_lookup_num_tokens": 4}, ["--head-bits", "4", "--draft-tokens", "4"]),
    ({"load_in": "nf4"}, {"kv_dtype": "int8"}, ["--precision", "exact", "--load-in", "nf4", "--kv-dtype", "int8"]),
])
def test_the_text_is_the_command_s(model, command, loading, generating, options):
    prompt = "The tide went out and the tide"
    done = subprocess.run([command, "generate", model, "-p", prompt, "--max-tokens", "24", "--ignore-eos", "--json",
                           *options], capture_output=True, text=True, check=True)
    pieces = awq.load(model, **loading).stream(prompt, max_new_tokens=24, eos_token_id=[], **generating)
    assert "".join(pieces) == json.loads(done.stdout)["text"]


# --- devices

@without_gpu
def test_a_gpu_that_is_not_there_is_one_clear_error(model):
    with pytest.raises(awq.errors.UnsupportedError) as error:
        awq.load(model, device="cuda")
    assert str(error.value) == f"device cuda: {_core.cuda_absence()}; use device auto or cpu"
    assert awq.load(model, device="auto").device == awq.load(model).device == "cpu"


@without_gpu
def test_autoawq_s_scripts_stay_on_the_cpu_and_say_so_once(quantized, monkeypatch):
    monkeypatch.setattr(_arguments, "_said", set())
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        model = awq.AutoAWQForCausalLM.from_quantized(quantized, device_map="cuda").to("cuda:0").to("cuda").cuda()
        awq.AutoAWQForCausalLM.from_quantized(quantized, device_map={"": 0})
        awq.AutoAWQForCausalLM.from_quantized(quantized, device_map="balanced").to("cpu")
    assert [str(w.message) for w in seen] == [
        f"{name} has no effect: the model runs on the CPU ({_core.cuda_absence()})" for name in ("device_map: 'cuda'", "to: 'cuda:0'")]
    assert model.device == model.model.device == "cpu" and len(model.generate(IDS, max_new_tokens=2, eos_token_id=[])[0]) == 8


@without_gpu
@pytest.mark.parametrize("move", [lambda m: m.to("cuda:0"), lambda m: m.to(0), lambda m: m.cuda()])
def test_where_there_is_a_gpu_autoawq_s_models_are_loaded_for_it(quantized, monkeypatch, move):
    model = awq.AutoAWQForCausalLM.from_quantized(quantized)
    monkeypatch.setattr(_core, "cuda_devices", lambda: ["one that answers to its name only"])
    assert move(model).device == "cuda"
    with pytest.raises(awq.errors.UnsupportedError, match="device cuda"):
        model.generate(IDS)
    with pytest.raises(awq.errors.UnsupportedError, match="device cuda"):
        awq.AutoAWQForCausalLM.from_quantized(quantized, device_map={"": 0})
    for on_cpu in ("auto", {"model": "cpu", "lm_head": 0}):
        assert awq.AutoAWQForCausalLM.from_quantized(quantized, device_map=on_cpu).device == "cpu"
    assert model.cpu().device == "cpu" and len(model.generate(IDS, max_new_tokens=2, eos_token_id=[])[0]) == 8


@with_gpu
def test_on_a_gpu(tmp_path):
    model = tiny.write_model(tmp_path / "wide", hidden_size=256, intermediate_size=512, num_hidden_layers=2)
    on_cpu, on_gpu = awq.load(model), awq.load(model, device="cuda")
    assert on_gpu.device == "cuda" and kl(logits(on_cpu), logits(on_gpu)) < 0.05
    moved = awq.AutoAWQForCausalLM.from_quantized(model).to("cuda")
    assert moved.device == moved.model.device == "cuda" and numpy.array_equal(logits(moved), logits(on_gpu))
    assert len(moved.generate(IDS, max_new_tokens=2, eos_token_id=[])[0]) == 8
    with pytest.raises(awq.errors.UnsupportedError, match="on the CPU"):
        on_gpu(IDS, output_hidden_states=True)
