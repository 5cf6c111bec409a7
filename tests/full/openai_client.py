#!/usr/bin/env python3
"""The official `openai` client against `awq serve`: every endpoint and option it has a name for.

Needs `pip install openai`. Usage: openai_client.py PATH_TO_AWQ MODEL
MODEL must have a chat template that takes tools, and be large enough for a JSON object of a few dozen tokens.
"""
import json, os, re, subprocess, sys, threading
import openai

awq, model = sys.argv[1:3]
KEY = "a-key-for-this-run"
server = subprocess.Popen([awq, "serve", model, "--port", "0", "--name", "m", "--kv-memory", "512MB"], stderr=subprocess.PIPE, text=True,
                          env={**os.environ, "AWQ_API_KEY": KEY})
for line in server.stderr:
    if found := re.search(r"at (http://[^ ]+)", line):
        base = found.group(1)
        break
else:
    sys.exit("the server did not start")
threading.Thread(target=server.stderr.read, daemon=True).start()
client = openai.OpenAI(base_url=base + "/v1", api_key=KEY, max_retries=0)
passed = 0


def check(name, ok, seen=""):
    global passed
    if not ok:
        server.terminate()
        sys.exit(f"FAILED {name}: {seen}")
    passed += 1
    print("ok", name, flush=True)


def refused(name, kind, call, text=""):
    try:
        call()
    except kind as error:
        check(name, text in str(error), error)
    else:
        check(name, False, "was accepted")


hello = [{"role": "system", "content": "You are brief."}, {"role": "user", "content": "Name a colour."}]
ask = lambda **o: client.chat.completions.create(model="m", messages=hello, **{"max_tokens": 24, "temperature": 0, **o})
write = lambda **o: client.completions.create(model="m", **{"prompt": "The sea is", "max_tokens": 12, "temperature": 0, **o})

check("models.list", [m.id for m in client.models.list()] == ["m"])
check("models.retrieve", client.models.retrieve("m").id == "m")

whole = ask()
check("chat", whole.choices[0].message.role == "assistant" and whole.choices[0].message.content, whole)
check("chat usage", whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens)
stream = list(ask(stream=True, stream_options={"include_usage": True}))
check("chat stream", "".join(c.choices[0].delta.content or "" for c in stream if c.choices) == whole.choices[0].message.content)
check("chat stream usage", stream[-1].usage.completion_tokens == whole.usage.completion_tokens and not stream[-1].choices)
check("n", len({c.index for c in ask(n=3, temperature=1).choices}) == 3)
check("seed", ask(temperature=1, seed=7).choices[0].message.content == ask(temperature=1, seed=7).choices[0].message.content)
lp = ask(logprobs=True, top_logprobs=4, max_tokens=5).choices[0].logprobs.content
check("chat logprobs", len(lp) == 5 and all(len(t.top_logprobs) == 4 and t.top_logprobs[0].token == t.token for t in lp), lp)
text = whole.choices[0].message.content
stopped = ask(stop=[text[3:6]]).choices[0]
check("stop", stopped.message.content == text[:text.index(text[3:6])] and stopped.finish_reason == "stop", stopped)
check("penalties", ask(presence_penalty=1, frequency_penalty=1).choices[0].message.content is not None)
first = client.post("/../tokenize", body={"prompt": " blue"}, cast_to=object)["tokens"]
check("tokenize, detokenize", client.post("/../detokenize", body={"tokens": first}, cast_to=object)["prompt"] == " blue")
check("logit_bias", set(write(logit_bias={first[0]: 100}, max_tokens=3).choices[0].text.split()) <= {"blue"})

schema = {"type": "object", "properties": {"colour": {"enum": ["red", "green", "blue"]}, "warm": {"type": "boolean"}},
          "required": ["colour", "warm"], "additionalProperties": False}
answer = ask(max_tokens=100, response_format={"type": "json_schema", "json_schema": {"name": "colour", "schema": schema, "strict": True}})
value = json.loads(answer.choices[0].message.content)
check("json_schema", value["colour"] in schema["properties"]["colour"]["enum"] and isinstance(value["warm"], bool), value)
answer = ask(max_tokens=200, response_format={"type": "json_object"}).choices[0]
check("json_object", answer.finish_reason == "length" or isinstance(json.loads(answer.message.content), dict), answer)

tool = {"type": "function", "function": {"name": "paint", "description": "Paints the wall", "parameters": schema}}
try:
    call = ask(max_tokens=100, tools=[tool], tool_choice="required").choices[0]
    check("tools", call.finish_reason == "tool_calls" and json.loads(call.message.tool_calls[0].function.arguments)["colour"], call)
    pieces = [c.choices[0].delta for c in ask(max_tokens=100, tools=[tool], tool_choice="required", stream=True)]
    check("tools stream", [d.tool_calls[0].function.name for d in pieces if d.tool_calls] == ["paint"], pieces)
    check("tools auto", ask(tools=[tool]).choices[0].finish_reason in ("stop", "length", "tool_calls"))
    back = client.chat.completions.create(model="m", max_tokens=8, tools=[tool], messages=[
        *hello, call.message.model_dump(exclude_none=True), {"role": "tool", "tool_call_id": call.message.tool_calls[0].id, "content": "done"}])
    check("tools result", back.choices[0].message.content is not None)
except openai.BadRequestError as error:
    check("tools refused by a template without them", "template knows no tools" in str(error), error)

check("completion", write().choices[0].text)
check("completion stream", "".join(c.choices[0].text for c in write(stream=True)) == write().choices[0].text)
check("completion list", [c.index for c in write(prompt=["a", "b"], n=2, temperature=1).choices] == [0, 1, 2, 3])
echo = write(echo=True, logprobs=2, max_tokens=1).choices[0]
check("echo", echo.text.startswith("The sea is") and echo.logprobs.token_logprobs[0] is None and all(x <= 0 for x in echo.logprobs.token_logprobs[1:]), echo)

refused("unknown model", openai.NotFoundError, lambda: client.chat.completions.create(model="x", messages=hello), "no model of that name")
refused("wrong option", openai.BadRequestError, lambda: ask(temperature=-1), "temperature")
refused("empty messages", openai.BadRequestError, lambda: client.chat.completions.create(model="m", messages=[]), "messages")
refused("prompt beyond the context", openai.BadRequestError, lambda: write(prompt="word " * 200000), "tokens")
refused("wrong key", openai.AuthenticationError, lambda: openai.OpenAI(base_url=base + "/v1", api_key="another-key", max_retries=0).models.list(), "API key")
refused("unknown path", openai.NotFoundError, lambda: client.embeddings.create(model="m", input="x"))

server.terminate()
check("stops with 0", server.wait(60) == 0)
print(f"{passed} checks passed, openai {openai.__version__}")
