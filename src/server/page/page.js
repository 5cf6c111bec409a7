// The chat page: conversations in localStorage, answers streamed from this server's own API.
"use strict";

const $ = (id) => document.getElementById(id);
const STORE = "awq.conversations", SETTINGS = "awq.settings", THEME = "awq.theme", CURRENT = "awq.current";
const DEFAULTS = { system: "", temperature: 0.7, top_p: 0.95, min_p: "", repetition_penalty: "", max_tokens: "", seed: "" };
const NUMBERS = ["temperature", "top_p", "min_p", "repetition_penalty", "max_tokens", "seed"];

const load = (key, otherwise) => {
  try {
    return JSON.parse(localStorage.getItem(key)) ?? otherwise;
  } catch {
    return otherwise;
  }
};
// The store is full after some megabytes: the oldest conversations make room.
const save = () => {
  for (;;) {
    try {
      localStorage.setItem(STORE, JSON.stringify(conversations));
      localStorage.setItem(CURRENT, current.id);
      return;
    } catch {
      const old = conversations.filter((c) => c !== current).pop();
      if (!old) return say("This browser keeps no more: the conversation will be lost when the page is closed.");
      conversations.splice(conversations.indexOf(old), 1);
    }
  }
};

let conversations = load(STORE, []).filter((c) => c && Array.isArray(c.messages));
let current = conversations.find((c) => c.id === localStorage.getItem(CURRENT)) ?? conversations[0];
let settings = { ...DEFAULTS, ...load(SETTINGS, {}) };
let model = null;
let running = null;  // the AbortController of the answer being written

const say = (text) => { $("status").textContent = text; };

function button(text, label, act) {
  const b = document.createElement("button");
  b.type = "button";
  b.textContent = text;
  if (label) b.setAttribute("aria-label", label);
  b.addEventListener("click", act);
  return b;
}

// --- conversations ---

function newConversation() {
  if (running) return;
  const empty = conversations.find((c) => c.messages.length === 0);
  current = empty ?? { id: crypto.randomUUID?.() ?? String(Date.now()) + Math.random(), title: "New conversation", messages: [] };
  if (!empty) conversations.unshift(current);
  save();
  showAll();
  $("prompt").focus();
}

function showConversations() {
  $("conversations").replaceChildren(...conversations.map((c) => {
    const name = button(c.title, "", () => {
      if (running) return;
      current = c;
      save();
      showAll();
      closeSide();
    });
    name.className = "name";
    if (c === current) name.setAttribute("aria-current", "true");
    const remove = button("\u2715", `Delete ${c.title}`, () => {
      if (running && c === current) return;
      conversations = conversations.filter((other) => other !== c);
      if (c === current) current = conversations[0];
      if (!current) return newConversation();
      save();
      showAll();
    });
    remove.className = "delete";
    const item = document.createElement("li");
    item.className = c === current ? "current" : "";
    item.append(name, remove);
    return item;
  }));
}

// --- messages ---

function showMessage(message, index) {
  const article = document.createElement("article");
  article.className = message.role;
  const who = document.createElement("div");
  who.className = "who";
  who.textContent = message.role === "user" ? "You" : model?.id ?? "Model";
  const body = document.createElement("div");
  body.className = "body";
  if (message.role === "user") body.textContent = message.content;
  else body.replaceChildren(...Markdown.render(message.content));
  const foot = document.createElement("div");
  foot.className = "foot";
  article.append(who, body, foot);
  showFoot(article, message, index);
  return article;
}

function showFoot(article, message, index) {
  const foot = article.querySelector(".foot");
  foot.replaceChildren();
  if (message.error) {
    const error = document.createElement("span");
    error.className = "error";
    error.setAttribute("role", "alert");
    error.textContent = message.error;
    foot.append(error);
  }
  if (running) return;
  if (message.role === "user") foot.append(button("Edit", "Edit this message", () => edit(article, index)));
  if (message.role === "assistant") {
    if (message.content) foot.append(button("Copy", "Copy this answer", () => copy(message.content)));
    if (index === current.messages.length - 1) foot.append(button("Regenerate", "Write another answer", () => answer(index)));
    if (message.note) foot.append(message.note);
  }
}

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    say("Copied");
  } catch {
    say("This browser does not let pages copy here");
  }
}

function showAll() {
  showConversations();
  const log = $("log");
  if (current.messages.length === 0) {
    const p = document.createElement("p");
    p.className = "empty";
    p.textContent = model && !model.has_chat_template ? "This model continues texts: write how one begins." : "What would you like to talk about?";
    log.replaceChildren(p);
  } else {
    log.replaceChildren(...current.messages.map(showMessage));
    log.scrollTop = log.scrollHeight;
  }
  $("send").hidden = running !== null;
  $("stop").hidden = running === null;
}

function edit(article, index) {
  const body = article.querySelector(".body"), foot = article.querySelector(".foot");
  const field = document.createElement("textarea");
  field.value = current.messages[index].content;
  field.rows = Math.min(12, field.value.split("\n").length + 1);
  field.setAttribute("aria-label", "Edit the message");
  const done = () => {
    const text = field.value.trim();
    if (!text) return;
    current.messages.length = index;
    send(text);
  };
  field.addEventListener("keydown", (e) => {
    if (e.key === "Escape") showAll();
    if (e.key === "Enter" && !e.shiftKey && !e.isComposing) { e.preventDefault(); done(); }
  });
  body.replaceChildren(field);
  foot.replaceChildren(button("Send", "Send the edited message", done), button("Cancel", "", showAll));
  field.focus();
}

// --- answers ---

function requestBody(messages) {
  const body = { stream: true, stream_options: { include_usage: true } };
  for (const key of NUMBERS) if (settings[key] !== "" && Number.isFinite(Number(settings[key]))) body[key] = Number(settings[key]);
  if (!model || model.has_chat_template) {
    body.messages = messages.map(({ role, content }) => ({ role, content }));
    if (settings.system.trim()) body.messages.unshift({ role: "system", content: settings.system.trim() });
    return ["/v1/chat/completions", body];
  }
  body.prompt = (settings.system ? settings.system + "\n" : "") + messages.map((m) => m.content).join("");
  body.max_tokens ??= 200;
  return ["/v1/completions", body];
}

// The data of server-sent events, one string each.
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    rest += value;
    const parts = rest.split("\n\n");
    rest = parts.pop();
    for (const part of parts)
      for (const line of part.split("\n")) if (line.startsWith("data: ")) yield line.slice(6);
  }
}

async function read(message, signal, show) {
  const [path, body] = requestBody(current.messages.slice(0, current.messages.indexOf(message)));
  const response = await fetch(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body), signal });
  if (!response.ok) {
    const failure = await response.json().catch(() => null);
    throw new Error(failure?.error?.message ?? `The server answered with status ${response.status}`);
  }
  let first = 0, usage = null, complete = false;
  for await (const data of events(response)) {
    if (data === "[DONE]") { complete = true; break; }
    const chunk = JSON.parse(data);
    if (chunk.error) throw new Error(chunk.error.message);
    usage = chunk.usage ?? usage;
    const choice = chunk.choices?.[0];
    const piece = choice?.delta?.content ?? choice?.text ?? "";
    if (piece) {
      first ||= performance.now();
      message.content += piece;
      show();
    }
    if (choice?.finish_reason === "length") message.note = "The answer reached its longest length. ";
  }
  if (!complete) throw new Error("The connection ended before the answer did");
  const seconds = (performance.now() - first) / 1000;
  if (usage && first && seconds > 0) {
    const rate = usage.completion_tokens > 1 ? `, ${((usage.completion_tokens - 1) / seconds).toFixed(1)} tokens/s` : "";
    message.note = `${message.note ?? ""}${usage.completion_tokens} tokens${rate}`;
  }
}

async function answer(index) {
  if (running) return;
  current.messages.length = index;
  const message = { role: "assistant", content: "" };
  current.messages.push(message);
  running = new AbortController();
  showAll();
  say("The model is writing");
  const log = $("log"), article = log.lastElementChild, body = article.querySelector(".body");
  article.classList.add("writing");
  article.setAttribute("aria-busy", "true");
  let due = false;
  const show = () => {
    if (due) return;
    due = true;
    requestAnimationFrame(() => {
      due = false;
      // Follow only a reader who is at the end.
      const follows = log.scrollHeight - log.scrollTop - log.clientHeight < 80;
      body.replaceChildren(...Markdown.render(message.content));
      if (follows) log.scrollTop = log.scrollHeight;
    });
  };
  try {
    await read(message, running.signal, show);
    say("The answer is complete");
  } catch (error) {
    if (error.name === "AbortError") message.note = "Stopped";
    else message.error = error instanceof TypeError ? "The server does not answer" : error.message;
    say(message.note ?? "The answer failed");
  }
  running = null;
  save();
  showAll();
}

function send(text) {
  if (running) return;
  if (current.messages.length === 0) current.title = text.slice(0, 60);
  current.messages.push({ role: "user", content: text });
  conversations = [current, ...conversations.filter((c) => c !== current)];
  save();
  answer(current.messages.length);
}

// --- frame ---

function openSide() {
  $("sidebar").classList.add("open");
  $("shade").hidden = false;
  $("open-side").setAttribute("aria-expanded", "true");
  $("close-side").focus();
}
function closeSide() {
  const wasOpen = $("sidebar").classList.contains("open");
  $("sidebar").classList.remove("open");
  $("shade").hidden = true;
  $("open-side").setAttribute("aria-expanded", "false");
  if (wasOpen) $("open-side").focus();
}

const THEMES = { auto: ["\u25d0", "Colours: as the system"], light: ["\u2600", "Colours: light"], dark: ["\u263e", "Colours: dark"] };
function showTheme(name) {
  document.documentElement.dataset.theme = name;
  $("theme").textContent = THEMES[name][0];
  $("theme").setAttribute("aria-label", THEMES[name][1]);
}
let theme = THEMES[load(THEME, "auto")] ? load(THEME, "auto") : "auto";
$("theme").addEventListener("click", () => {
  const names = Object.keys(THEMES);
  theme = names[(names.indexOf(theme) + 1) % names.length];
  localStorage.setItem(THEME, JSON.stringify(theme));
  showTheme(theme);
  say(THEMES[theme][1]);
});

function showSettings() {
  for (const key of Object.keys(DEFAULTS)) $(`s-${key}`).value = settings[key];
}
function takeSettings() {
  for (const key of Object.keys(DEFAULTS)) settings[key] = $(`s-${key}`).value;
  localStorage.setItem(SETTINGS, JSON.stringify(settings));
}
$("open-settings").addEventListener("click", () => { showSettings(); $("settings").showModal(); });
$("settings").addEventListener("close", takeSettings);
$("reset").addEventListener("click", () => { settings = { ...DEFAULTS }; showSettings(); });

$("open-side").addEventListener("click", openSide);
$("close-side").addEventListener("click", closeSide);
$("shade").addEventListener("click", closeSide);
$("new").addEventListener("click", () => { newConversation(); closeSide(); $("prompt").focus(); });
$("stop").addEventListener("click", () => running?.abort());
document.addEventListener("keydown", (e) => {
  if (e.key !== "Escape" || $("settings").open) return;
  if (running) running.abort();
  else closeSide();
});

const field = $("prompt");
const fit = () => {
  field.rows = 1;
  while (field.scrollHeight > field.clientHeight && field.rows < 10) ++field.rows;
};
field.addEventListener("input", fit);
field.addEventListener("keydown", (e) => {
  if (e.key === "Enter" && !e.shiftKey && !e.isComposing) { e.preventDefault(); $("composer").requestSubmit(); }
});
$("composer").addEventListener("submit", (e) => {
  e.preventDefault();
  const text = field.value.trim();
  if (!text || running) return;
  field.value = "";
  fit();
  send(text);
});

async function start() {
  showTheme(theme);
  if (current) showAll();
  else newConversation();
  try {
    const response = await fetch("/v1/models");
    if (!response.ok) throw new Error(`status ${response.status}`);
    model = (await response.json()).data[0];
    $("model").textContent = model.id;
    document.title = `${model.id} - awq`;
  } catch (error) {
    $("model").textContent = "The server does not answer";
  }
  showAll();
}
start();
