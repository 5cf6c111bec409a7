// Markdown to DOM nodes. Text only ever becomes text nodes, so that nothing a model writes is read as HTML; links lead to
// http, https and mailto, images become links.
"use strict";

const Markdown = (() => {
  const make = (tag, ...children) => {
    const node = document.createElement(tag);
    node.append(...children);
    return node;
  };

  const safeLink = (address) => /^(https?:\/\/|mailto:)[^\s]+$/i.test(address);

  const link = (text, address) => {
    if (!safeLink(address)) return document.createTextNode(text === address ? text : `${text} (${address})`);
    const a = make("a", text);
    a.href = address;
    a.target = "_blank";
    a.rel = "noopener noreferrer nofollow";
    return a;
  };

  // One pass with sticky patterns; the longest delimiters first. Nesting is bounded.
  const INLINE = [
    [/(`+)([^`]|[^`].*?[^`])\1(?!`)/y, (m) => make("code", m[2].trim() || m[2])],
    [/\\([\\`*_{}[\]()#+\-.!>~|])/y, (m) => document.createTextNode(m[1])],
    [/!?\[([^[\]]*)\]\(\s*<?([^\s()<>]+)>?(?:\s+"[^"]*")?\s*\)/y, (m) => link(m[1] || m[2], m[2])],
    [/<(https?:\/\/[^\s<>]+)>/y, (m) => link(m[1], m[1])],
    [/https?:\/\/[^\s<>()[\]"'`]*[^\s<>()[\]"'`.,;:!?]/y, (m) => link(m[0], m[0])],
    [/\*\*(?=\S)(.+?\S|\S)\*\*/y, (m, depth) => make("strong", ...inline(m[1], depth))],
    [/__(?=\S)(.+?\S|\S)__(?!\w)/y, (m, depth) => make("strong", ...inline(m[1], depth))],
    [/~~(?=\S)(.+?)~~/y, (m, depth) => make("del", ...inline(m[1], depth))],
    [/\*(?=[^\s*])([^*]*[^\s*])\*(?!\*)/y, (m, depth) => make("em", ...inline(m[1], depth))],
    [/_(?=[^\s_])([^_]*[^\s_])_(?!\w)/y, (m, depth) => make("em", ...inline(m[1], depth))],
  ];

  function inline(text, depth = 0) {
    if (depth > 8) return [document.createTextNode(text)];
    const out = [];
    let plain = "";
    const flush = () => { if (plain) out.push(document.createTextNode(plain)); plain = ""; };
    for (let at = 0; at < text.length;) {
      if (text[at] === "\n") {
        flush();
        out.push(document.createElement("br"));
        ++at;
        continue;
      }
      let found = null;
      // "_" inside a word is part of it.
      const inWord = text[at] === "_" && at > 0 && /\w/.test(text[at - 1]);
      if (!inWord && "`\\![<h*_~".includes(text[at]))
        for (const [pattern, build] of INLINE) {
          pattern.lastIndex = at;
          const m = pattern.exec(text);
          if (m) { found = [m, build]; break; }
        }
      if (!found) { plain += text[at++]; continue; }
      flush();
      out.push(found[1](found[0], depth + 1));
      at += found[0][0].length;
    }
    flush();
    return out;
  }

  function codeBlock(language, text) {
    const code = make("code", text);
    const copy = make("button", "Copy");
    copy.type = "button";
    copy.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(text);
        copy.textContent = "Copied";
      } catch {
        getSelection().selectAllChildren(code);
        copy.textContent = "Selected";
      }
      setTimeout(() => { copy.textContent = "Copy"; }, 1500);
    });
    const bar = make("div", make("span", language || "code"), copy);
    bar.className = "bar";
    const pre = make("pre", code);
    pre.tabIndex = 0;
    const box = make("div", bar, pre);
    box.className = "code";
    return box;
  }

  const FENCE = /^ {0,3}(`{3,}|~{3,})\s*([^`\s]*)/;
  const HEADING = /^ {0,3}(#{1,6})\s+(.*?)\s*#*$/;
  const RULE = /^ {0,3}([-*_])(?:\s*\1){2,}\s*$/;
  const ITEM = /^(\s*)([-*+]|\d{1,9}[.)])\s+(.*)$/;
  const QUOTE = /^ {0,3}> ?/;
  const TABLE_RULE = /^\s*\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?\s*$/;
  const cells = (line) => line.trim().replace(/^\|/, "").replace(/\|$/, "").split(/(?<!\\)\|/).map((c) => c.trim().replace(/\\\|/g, "|"));

  function list(lines, from, depth) {
    const first = ITEM.exec(lines[from]);
    const indent = first[1].length;
    const ordered = /\d/.test(first[2]);
    const node = document.createElement(ordered ? "ol" : "ul");
    if (ordered && parseInt(first[2], 10) !== 1) node.start = parseInt(first[2], 10);
    let at = from;
    while (at < lines.length) {
      const m = ITEM.exec(lines[at]);
      if (!m || m[1].length !== indent || /\d/.test(m[2]) !== ordered) break;
      const inner = [m[3]];
      const width = m[0].length - m[3].length;
      ++at;
      while (at < lines.length) {
        const line = lines[at];
        const spaces = line.length - line.trimStart().length;
        if (line.trim() === "") {
          const next = lines[at + 1];
          if (next === undefined || next.trim() === "" || next.length - next.trimStart().length <= indent) break;
          inner.push("");
        } else if (spaces > indent) {
          inner.push(line.slice(Math.min(spaces, width)));
        } else {
          break;
        }
        ++at;
      }
      const children = blocks(inner, depth + 1);
      // An item of one paragraph is shown without its own space.
      node.append(make("li", ...(children.length && children[0].tagName === "P" ? [...children[0].childNodes, ...children.slice(1)] : children)));
      while (at + 1 < lines.length && lines[at].trim() === "" && ITEM.test(lines[at + 1])) ++at;
    }
    return [node, at];
  }

  function blocks(lines, depth = 0) {
    if (depth > 8) return [make("p", lines.join("\n"))];
    const out = [];
    for (let at = 0; at < lines.length;) {
      const line = lines[at];
      let m;
      if (line.trim() === "") {
        ++at;
      } else if ((m = FENCE.exec(line))) {
        const end = new RegExp(`^ {0,3}${m[1][0]}{${m[1].length},}\\s*$`);
        const code = [];
        for (++at; at < lines.length && !end.test(lines[at]); ++at) code.push(lines[at]);
        ++at;
        out.push(codeBlock(m[2], code.join("\n")));
      } else if ((m = HEADING.exec(line))) {
        out.push(make(`h${Math.min(m[1].length + 1, 5)}`, ...inline(m[2])));
        ++at;
      } else if (RULE.test(line)) {
        out.push(make("hr"));
        ++at;
      } else if (QUOTE.test(line)) {
        const inner = [];
        for (; at < lines.length && QUOTE.test(lines[at]); ++at) inner.push(lines[at].replace(QUOTE, ""));
        out.push(make("blockquote", ...blocks(inner, depth + 1)));
      } else if (ITEM.test(line)) {
        const [node, next] = list(lines, at, depth);
        out.push(node);
        at = next;
      } else if (line.includes("|") && at + 1 < lines.length && lines[at + 1].includes("-") && TABLE_RULE.test(lines[at + 1])) {
        const head = make("tr", ...cells(line).map((c) => make("th", ...inline(c))));
        const body = [];
        for (at += 2; at < lines.length && lines[at].includes("|"); ++at)
          body.push(make("tr", ...cells(lines[at]).map((c) => make("td", ...inline(c)))));
        const box = make("div", make("table", make("thead", head), make("tbody", ...body)));
        box.className = "table";
        out.push(box);
      } else {
        const text = [];
        while (at < lines.length && lines[at].trim() !== "" && !FENCE.test(lines[at]) && !HEADING.test(lines[at]) &&
               !QUOTE.test(lines[at]) && !(text.length && (ITEM.test(lines[at]) || RULE.test(lines[at]))))
          text.push(lines[at++].trimEnd());
        out.push(make("p", ...inline(text.join("\n"))));
      }
    }
    return out;
  }

  return { render: (text) => blocks(text.replace(/\r\n?/g, "\n").replace(/\t/g, "    ").split("\n")) };
})();
