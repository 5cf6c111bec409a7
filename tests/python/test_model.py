"""Generation, scores, and what lies inside a model."""
import json
import math
import subprocess

import numpy
import pytest

import awq
import tiny


@pytest.fixture(scope="module")
def loaded(quantized):
    return awq.load(quantized)


def test_the_kind_that_goes_in_comes_out(loaded):
    as_list = loaded.generate([[5, 9, 11]], max_new_tokens=4, eos_token_id=[])
    as_array = loaded.generate(numpy.array([[5, 9, 11]]), max_new_tokens=4, eos_token_id=[])
    assert isinstance(as_list, list) and isinstance(as_array, numpy.ndarray) and as_array.dtype == numpy.int64
    assert as_array.tolist() == as_list and len(as_list[0]) == 7 and as_list[0][:3] == [5, 9, 11]


def test_padding_on_the_left_changes_nothing(loaded):
    alone = loaded.generate([[5, 9, 11]], max_new_tokens=4, eos_token_id=[])[0]
    batch = loaded.generate([[0, 0, 5, 9, 11], [7, 8, 9, 10, 11]], attention_mask=[[0, 0, 1, 1, 1], [1] * 5], max_new_tokens=4, eos_token_id=[])
    assert batch[0] == [0, 0] + alone and len(batch[1]) == 9


def test_an_end_id_ends_a_row_and_the_rest_is_padding(loaded):
    greedy = loaded.generate([[5, 9, 11]], max_new_tokens=4, eos_token_id=[])[0]
    out = loaded.generate([[5, 9, 11], [5, 9, 11]], max_new_tokens=4, eos_token_id=greedy[4], pad_token_id=77)
    first = greedy.index(greedy[4], 3)
    assert out[0] == greedy[: first + 1]
    held = loaded.generate([[5, 9, 11]], max_new_tokens=4, min_new_tokens=4, eos_token_id=greedy[4])[0]
    assert len(held) == 7 and greedy[4] not in held[3:6]


def test_sampling_depends_on_the_seed_alone(loaded):
    draw = [loaded.generate([[5, 9]], max_new_tokens=12, do_sample=True, temperature=1.5, seed=s, eos_token_id=[])[0] for s in (1, 1, 2)]
    assert draw[0] == draw[1] != draw[2]
    several = loaded.generate([[5, 9]], max_new_tokens=12, do_sample=True, temperature=1.5, seed=1, num_return_sequences=3, eos_token_id=[])
    assert several[0] == draw[0] and len({tuple(r) for r in several}) == 3


def test_processors_criteria_and_streamers(loaded):
    def only_seven(_ids, scores):
        scores[:] = -numpy.inf
        scores[:, 7] = 0
        return scores

    class Streamer:
        def __init__(self):
            self.seen, self.ended = [], False

        def put(self, ids):
            self.seen += numpy.asarray(ids).reshape(-1).tolist()

        def end(self):
            self.ended = True

    streamer = Streamer()
    out = loaded.generate([[5, 9]], max_new_tokens=9, eos_token_id=[], logits_processor=[only_seven], streamer=streamer,
                          stopping_criteria=[lambda ids, _scores: ids.shape[1] >= 5])
    assert out == [[5, 9, 7, 7, 7]] and streamer.seen == out[0] and streamer.ended


def test_hidden_states_and_attentions_with_fused_layers(loaded, quantized):
    fused = awq.AutoAWQForCausalLM.from_quantized(quantized, fuse_layers=True)
    ids = [[5, 9, 11, 30]]
    out = fused(numpy.array(ids), output_hidden_states=True, output_attentions=True)
    layers = fused.config.num_hidden_layers
    assert [h.shape for h in out.hidden_states] == [(1, 4, 64)] * (layers + 1)
    assert [a.shape for a in out.attentions] == [(1, 4, 4, 4)] * layers
    for weights in out.attentions:
        assert numpy.allclose(weights.sum(-1), 1, atol=1e-5) and numpy.all(numpy.triu(weights[0, 0], 1) == 0)
    assert numpy.allclose(out.hidden_states[0][0], loaded.tensor("model.embed_tokens.weight")[ids[0]])
    assert numpy.array_equal(out.logits, loaded(ids).logits)

    steps = fused.generate(ids, max_new_tokens=3, eos_token_id=[], return_dict_in_generate=True, output_hidden_states=True, output_attentions=True)
    assert [s[0].shape[1] for s in steps.hidden_states] == [4, 1, 1]
    assert [s[0].shape[2:] for s in steps.attentions] == [(4, 4), (1, 5), (1, 6)]
    assert steps.sequences[0][:4] == ids[0]


def test_the_attention_shown_is_the_attention_used(model):
    """Values mixed by the weights, through o_proj, are what the block adds: recomputed here in numpy from the tensors."""
    m = awq.load(model)
    ids = [5, 9, 11, 30, 31]
    out = m([ids], output_hidden_states=True, output_attentions=True)
    p = "model.layers.0."
    w = {n: m.tensor(p + n + ".weight").astype(numpy.float64) for n in
         ("input_layernorm", "post_attention_layernorm", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")}

    def norm(x, gain):
        return x / numpy.sqrt((x * x).mean(-1, keepdims=True) + 1e-5) * gain

    x = out.hidden_states[0][0].astype(numpy.float64)
    v = (norm(x, w["input_layernorm"]) @ w["self_attn.v_proj"].T).reshape(len(ids), 2, 16)
    mixed = numpy.concatenate([out.attentions[0][0, h] @ v[:, h // 2] for h in range(4)], axis=1)
    x = x + mixed @ w["self_attn.o_proj"].T
    h = norm(x, w["post_attention_layernorm"])
    gate = h @ w["mlp.gate_proj"].T
    x = x + (gate / (1 + numpy.exp(-gate)) * (h @ w["mlp.up_proj"].T)) @ w["mlp.down_proj"].T
    assert numpy.allclose(norm(x, m.tensor("model.norm.weight")), out.hidden_states[1][0], atol=2e-4)


def test_scores_are_those_of_the_logits(loaded):
    ids = [5, 9, 11, 30]
    logits = loaded([ids]).logits[0].astype(numpy.float64)
    want = [logits[i][t] - numpy.log(numpy.exp(logits[i]).sum()) for i, t in enumerate(ids[1:])]
    scored = loaded.score(ids)
    assert numpy.allclose(scored["logprobs"], want, atol=1e-5)
    assert math.isclose(scored["perplexity"], math.exp(-sum(want) / 3), rel_tol=1e-5)


def test_texts_in_and_out(loaded):
    text = loaded.generate("The tide", max_new_tokens=8, eos_token_id=[])
    assert isinstance(text, str)
    assert "".join(loaded.stream("The tide", max_new_tokens=8, eos_token_id=[])) == text
    for _ in loaded.stream("The tide", max_new_tokens=400, eos_token_id=[]):
        break


def test_tensors_as_numpy(loaded):
    q = loaded.quantized("model.layers.0.mlp.up_proj")
    assert q["codes"].dtype == numpy.uint8 and q["codes"].max() <= 15 and q["group_size"] == 32
    scale, zero = (numpy.repeat(q[n].astype(numpy.float32), 32, axis=1) for n in ("scales", "zeros"))
    assert numpy.array_equal((q["codes"] - zero) * scale, loaded.tensor("model.layers.0.mlp.up_proj.weight"))
    assert loaded.tensor("model.norm.weight").shape == (64,)
    with pytest.raises(FileNotFoundError):
        loaded.tensor("model.nothing")


def test_refused_generation_says_so(loaded):
    for arguments in ({"num_beams": 4}, {"stop_strings": ["x"]}):
        with pytest.raises(NotImplementedError):
            loaded.generate([[5]], **arguments)
    for arguments in ({"max_new_tokens": 0}, {"do_sample": True, "temperature": 0.0}):
        with pytest.raises(ValueError):
            loaded.generate([[5]], **arguments)
    with pytest.raises(ValueError):
        loaded.generate([[5000]])


def test_evaluate_and_compare(model, quantized):
    text = [tiny.long_text(40)]
    row = awq.evaluate(quantized, text, reference=model, protocol="llamacpp512", limit=2, progress=False)
    assert row["perplexity"] > 1 and row["kl"] >= 0 and 0 <= row["top1_agreement"] <= 1
    rows = awq.compare([model, quantized], text, protocol="llamacpp512", limit=2, progress=False)
    assert rows[0]["kl"] < 1e-9 and rows[1]["kl"] == row["kl"] and "<table>" in rows._repr_html_()


def test_compare_methods_is_the_command(model, command, tmp_path):
    calib, data = tmp_path / "calib.txt", tmp_path / "data.txt"
    calib.write_text(tiny.long_text(60))
    data.write_text(tiny.long_text(90))
    done = subprocess.run([command, "compare", str(model), "--methods", "rtn,awq:fast", "--group-size", "32", "--calib", str(calib), "--samples",
                           "8", "--seq-len", "64", "--data", str(data), "--protocol", "llamacpp512", "--limit", "2", "--no-speed", "--json"],
                          capture_output=True, text=True, check=True)
    want = json.loads(done.stdout)
    got = awq.compare(model, str(data), methods=["rtn", "awq:fast"], group_size=32, calib_data=str(calib), samples=8, seq_len=64,
                      protocol="llamacpp512", limit=2, prompts=True, progress=False)
    for result in (want, got):
        for key in ("seconds", "statistics_seconds", "peak_rss_bytes", "machine"):
            result.pop(key)
        for row in result["methods"]:
            row.pop("seconds")
    assert got == want


def test_compare_methods_takes_lists_and_counts_samples(model, tmp_path):
    result = awq.compare(model, [tiny.long_text(60)], methods=["awq:fast", "gptq"], group_size=32, calib_data=[tiny.long_text(80)],
                         samples="auto", seq_len=64, protocol="llamacpp512", limit=1, progress=False)
    assert result["schema"] == "awq.compare/1" and result["samples"]["automatic"] and result["prompts"] == []
    assert [row["label"] for row in result["methods"]] == ["awq:fast", "gptq"]
    assert 0 <= result["domain_shift"]["texts"][0]["mean"] <= 1
    file = tmp_path / "statistics"
    shared = {"group_size": 32, "calib_data": tiny.TEXTS, "samples": 4, "seq_len": 32, "protocol": "llamacpp512", "limit": 1, "progress": False}
    kept = awq.compare(model, [tiny.long_text(60)], methods=["rtn"], save_stats=file, **shared)
    assert awq.compare(model, [tiny.long_text(60)], methods=["rtn"], stats=file, **shared)["methods"][0]["texts"] == kept["methods"][0]["texts"]
    for arguments in ({"methods": ["awq:quick"]}, {"methods": ["gtpq"]}, {"samples": "many"}, {"reference": model}):
        with pytest.raises(ValueError):
            awq.compare(model, [tiny.long_text(60)], progress=False, **{"methods": ["rtn"], **arguments})
    with pytest.raises(ValueError):
        awq.compare([model], methods=["rtn"], progress=False)
    with pytest.raises(FileNotFoundError):
        awq.compare(tmp_path / "missing", methods=["rtn"], progress=False)


def test_quantize_finds_the_number_of_samples(model, tmp_path):
    result = awq.quantize(model, tmp_path / "out", calib_data=[tiny.long_text(80)], samples="auto", seq_len=64, group_size=32, check=False,
                          progress=False)
    assert result.samples["automatic"] and 0 < result.samples["used"] <= result.samples["available"]


def test_notebook_views(loaded, model, tmp_path):
    assert "<table>" in loaded._repr_html_()
    result = awq.quantize(model, tmp_path / "out", calib_data=tiny.TEXTS, progress=False)
    assert "bits per weight" in result._repr_html_() and result.check["kl"] > 0 and len(result.layers) == 7
