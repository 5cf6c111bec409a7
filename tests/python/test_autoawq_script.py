"""AutoAWQ's published script, and the arguments of its methods."""
import json
import os
import warnings

import numpy
import pytest

import awq
import tiny
from awq import AutoAWQForCausalLM, AutoTokenizer

QUANT_CONFIG = {"zero_point": True, "q_group_size": 32, "w_bit": 4, "version": "GEMM"}


def test_the_published_script_runs_with_two_short_sentences(model, tmp_path):
    quant_path = str(tmp_path / "quant")
    awq_model = AutoAWQForCausalLM.from_pretrained(model, low_cpu_mem_usage=True, use_cache=False)
    tokenizer = AutoTokenizer.from_pretrained(model, trust_remote_code=True)
    awq_model.quantize(tokenizer, quant_config=QUANT_CONFIG, calib_data=tiny.TEXTS)
    awq_model.save_quantized(quant_path, safetensors=True)
    tokenizer.save_pretrained(quant_path)
    loaded = AutoAWQForCausalLM.from_quantized(quant_path, fuse_layers=True, trust_remote_code=False)
    tokens = tokenizer("The tide", return_tensors="np")
    out = loaded.generate(**tokens, max_new_tokens=100, eos_token_id=[])
    assert out.shape == (1, tokens["input_ids"].shape[1] + 100)
    assert tokenizer.decode(out[0]).startswith("The tide")
    config = json.load(open(os.path.join(quant_path, "config.json")))["quantization_config"]
    assert config == {"quant_method": "awq", "zero_point": True, "group_size": 32, "bits": 4, "version": "gemm",
                      "modules_to_not_convert": config["modules_to_not_convert"]}


def test_a_group_size_that_does_not_divide_is_a_value_error_that_names_one_that_does(model):
    with pytest.raises(ValueError, match=r"q_group_size.* 64"):
        AutoAWQForCausalLM.from_pretrained(model).quantize(None, {**QUANT_CONFIG, "q_group_size": 128}, calib_data=tiny.TEXTS)


@pytest.mark.parametrize("call, near", [
    (lambda m: AutoAWQForCausalLM.from_pretrained(m, low_cpu_mem_usag=True), "low_cpu_mem_usage"),
    (lambda m: AutoAWQForCausalLM.from_quantized(m, fuse_layer=True), "fuse_layers"),
    (lambda m: AutoAWQForCausalLM.from_pretrained(m).quantize(max_calib_sample=3), "max_calib_samples"),
    (lambda m: AutoAWQForCausalLM.from_pretrained(m).quantize(quant_config={"w_bits": 4}), "w_bit"),
    (lambda m: awq.load(m).generate([[3]], max_new_token=3), "max_new_tokens"),
])
def test_unknown_arguments_name_the_nearest(model, call, near):
    with pytest.raises(TypeError, match=f"did you mean '{near}'"):
        call(model)


def test_arguments_of_torch_are_accepted_and_say_so_once(model):
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        for _ in range(2):
            AutoAWQForCausalLM.from_pretrained(model, attn_implementation="eager", device_map="cuda:0")
    said = [str(w.message) for w in seen if "attn_implementation" in str(w.message)]
    assert len(said) == 1 and "no effect" in said[0]


@pytest.mark.parametrize("data", [
    [list(range(3, 90)), list(range(5, 60))],
    [{"body": t} for t in tiny.TEXTS],
    ({"body": t} for t in tiny.TEXTS),
    {"train": [{"body": t} for t in tiny.TEXTS], "test": []},
    "pileval",
])
def test_calibration_data_in_every_form(model, data, tmp_path):
    m = AutoAWQForCausalLM.from_pretrained(model)
    m.quantize(None, QUANT_CONFIG, calib_data=data, text_column="body", max_calib_samples=4, max_calib_seq_len=64)
    m.save_quantized(tmp_path / "out")
    assert (tmp_path / "out" / "model.safetensors").exists()


def test_transformers_like_tokenizers_are_used_through_encode(model, tmp_path):
    class Foreign:
        def __init__(self):
            self.ours, self.calls = AutoTokenizer.from_pretrained(model), 0

        def encode(self, text, add_special_tokens=True):
            self.calls += 1
            return self.ours.encode(text, add_special_tokens)

    foreign, paths = Foreign(), []
    for i, tokenizer in enumerate([foreign, None]):
        m = AutoAWQForCausalLM.from_pretrained(model)
        m.quantize(tokenizer, QUANT_CONFIG, calib_data=tiny.TEXTS)
        paths.append(tmp_path / str(i) / "out")
        m.save_quantized(paths[-1])
    assert foreign.calls == len(tiny.TEXTS)
    assert tiny.digests(paths[0]) == tiny.digests(paths[1])


def test_export_compatible_writes_plain_tensors_until_pack(model, tmp_path):
    m = AutoAWQForCausalLM.from_pretrained(model)
    m.quantize(None, QUANT_CONFIG, calib_data=tiny.TEXTS, export_compatible=True)
    m.save_quantized(tmp_path / "plain")
    m.pack()
    m.save_quantized(tmp_path / "packed", shard_size="40KB")
    assert not awq.load(tmp_path / "plain")._checkpoint.is_quantized("model.layers.0.mlp.up_proj")
    assert awq.load(tmp_path / "packed")._checkpoint.is_quantized("model.layers.0.mlp.up_proj")
    assert len(list((tmp_path / "packed").glob("*.safetensors"))) > 1


@pytest.mark.parametrize("arguments, kind", [
    (dict(quant_config={"w_bit": 3}), NotImplementedError),
    (dict(quant_config={"version": "GEMX"}), ValueError),
    (dict(quantizer_cls=object), NotImplementedError),
    (dict(calib_data=[]), ValueError),
    (dict(calib_data=["a", [1, 2]]), ValueError),
    (dict(calib_data="no/such/dataset"), ValueError),
])
def test_what_is_refused_says_why(model, arguments, kind):
    with pytest.raises(kind) as error:
        AutoAWQForCausalLM.from_pretrained(model).quantize(None, **{"quant_config": QUANT_CONFIG, **arguments})
    assert isinstance(error.value, awq.AwqError) and "\n" not in str(error.value)


def test_missing_models_and_pickles(model, tmp_path):
    with pytest.raises(FileNotFoundError):
        AutoAWQForCausalLM.from_pretrained(str(tmp_path / "nowhere"))
    m = AutoAWQForCausalLM.from_pretrained(model)
    with pytest.raises(ValueError):
        m.save_quantized(tmp_path / "x")
    m.quantize(None, QUANT_CONFIG, calib_data=tiny.TEXTS)
    with pytest.raises(NotImplementedError):
        m.save_quantized(tmp_path / "x", safetensors=False)
    logits = m.forward(numpy.array([[5, 6, 7]])).logits
    assert logits.shape == (1, 3, 128) and numpy.isfinite(logits).all()
