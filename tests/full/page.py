#!/usr/bin/env python3
"""The chat page of `awq serve` in Chromium: a conversation, stop, regenerate, edit, reload, a failure, injection, a phone's width.

Usage: page.py AWQ MODEL [SCREENSHOT_FOLDER]
Needs `pip install selenium` and chromium with chromedriver on the PATH (Debian: chromium, chromium-driver). MODEL needs a chat
template. Screenshots are there to be looked at. Ends with 1 when a check fails.
"""
import pathlib, re, shutil, subprocess, sys, threading, time
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

awq, model = sys.argv[1:3]
shots = pathlib.Path(sys.argv[3]) if len(sys.argv) > 3 else None
ATTACKS = r"""<script>window.hit = 1</script> <img src=x onerror="window.hit = 2"> <svg onload="window.hit = 3"></svg>
<iframe srcdoc="<script>parent.hit = 4</script>"></iframe> [a](javascript:window.hit=5) [b](JaVaScRiPt:window.hit=6)
[c](java&#x0a;script:window.hit=7) [d](data:text/html,<script>window.hit=8</script>) ![e](x" onerror="window.hit=9) <https://a.example/"onmouseover="window.hit=10>
[f](https://b.example/"onclick="window.hit=11) `<b onclick="window.hit=12">` <style>body { display: none }</style> <base href="https://c.example/"> <form action="https://d.example"></form>

```html"><script>window.hit=13</script>
</code></pre><script>window.hit = 14</script>
```
| <img src=x onerror="window.hit=15"> | <a href="javascript:window.hit=16">g</a> |
|---|---|
| **<u onclick="window.hit=17">** | ![h](https://e.example/track.png) |
"""
MARKDOWN = "# A title\n\nSome *emphasis*, **weight** and `code`, a [link](https://example.org/) and\n\n1. one\n2. two\n\n" \
    "| left | right |\n|---|---|\n| 1 | 2 |\n\n```python\ndef f(x):\n    return x * 2  # a line that is much longer than a phone's screen is wide, so that it must scroll\n```\n\n> A quotation"

server = subprocess.Popen([awq, "serve", model, "--port", "0", "--name", "the-model", "--kv-memory", "256MB", "--precision", "fast"], stderr=subprocess.PIPE, text=True)
for line in server.stderr:
    if found := re.search(r"at (http://[^ ]+)", line):
        base = found.group(1).rstrip("/")
        break
else:
    sys.exit("the server did not start")
threading.Thread(target=server.stderr.read, daemon=True).start()
options = webdriver.ChromeOptions()
options.binary_location = shutil.which("chromium")
for argument in "--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1100,760", "--force-color-profile=srgb":
    options.add_argument(argument)
options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
passed = 0


def check(name, ok, seen=""):
    global passed
    if not ok:
        shot("failed")
        raise SystemExit(f"FAILED {name}: {seen}")
    passed += 1
    print("ok", name, flush=True)


def shot(name):
    if shots:
        shots.mkdir(parents=True, exist_ok=True)
        browser.save_screenshot(str(shots / f"{name}.png"))


def all_of(selector):
    return browser.find_elements(By.CSS_SELECTOR, selector)


def one(selector):
    return browser.find_element(By.CSS_SELECTOR, selector)


def wait(condition, seconds=120):
    return WebDriverWait(browser, seconds, 0.05).until(lambda _: condition())


def idle():
    return wait(lambda: one("#send").is_displayed() and not all_of("article.writing"))


def say(text):
    one("#prompt").send_keys(text + Keys.ENTER)


def texts():
    return browser.execute_script("return [...document.querySelectorAll('article .body')].map(b => b.textContent)")


def limit(tokens):
    one("#open-settings").click()
    field = one("#s-max_tokens")
    field.clear()
    field.send_keys(str(tokens))
    one("#settings .primary").click()


def overflow():
    return browser.execute_script("return document.documentElement.scrollWidth - window.innerWidth")


try:
    browser.get(base)
    wait(lambda: one("#model").text == "the-model", 20)
    check("opens", "What would you like" in one("#log").text)
    shot("1-empty")
    limit(24)
    say("What is the capital of France?")
    idle()
    check("answers", len(texts()) == 2 and texts()[1].strip(), texts())
    check("counts tokens", re.search(r"\d+ tokens, [\d.]+ tokens/s", one("article.assistant .foot").text), one("article.assistant .foot").text)
    say("And of Italy?")
    idle()
    check("goes on", len(texts()) == 4 and texts()[3].strip(), texts())
    shot("2-conversation")
    before = texts()
    browser.refresh()
    wait(lambda: one("#model").text == "the-model", 20)
    check("kept over a reload", texts() == before, texts())

    limit(1000)
    say("Tell me a very long story about the sea.")
    wait(lambda: one("#stop").is_displayed() and len(texts()[-1]) > 20)
    check("no regenerating meanwhile", not any(b.text == "Regenerate" for b in all_of("article button")))
    shot("3-writing")
    one("#stop").click()
    idle()
    stopped = texts()[-1]
    check("stop keeps what came", "Stopped" in all_of("article")[-1].text and len(stopped) > 20, stopped)
    time.sleep(0.5)
    check("nothing comes after it", texts()[-1] == stopped)
    limit(20)
    next(b for b in all_of("article button") if b.text == "Regenerate").click()
    idle()
    check("regenerate", len(texts()) == 6 and texts()[-1] != stopped and texts()[-1].strip(), texts())
    next(b for b in all_of("article button") if b.text == "Edit").click()
    field = one("article textarea")
    field.send_keys(Keys.CONTROL + "a")
    field.send_keys("Name a colour." + Keys.ENTER)
    idle()
    check("edit begins anew from there", len(texts()) == 2 and texts()[0] == "Name a colour.", texts())
    one("#new").click()
    check("a new conversation", len(texts()) == 0 and len(all_of("#conversations li")) == 2)

    say(ATTACKS.replace("\n", " "))
    idle()
    browser.execute_script("""
      const all = JSON.parse(localStorage.getItem('awq.conversations'));
      all[0].messages[1].content = arguments[0];
      all.unshift({ id: 'shown', title: arguments[1], messages: [{ role: 'user', content: 'Show what you can.' }, { role: 'assistant', content: arguments[1] }] });
      localStorage.setItem('awq.conversations', JSON.stringify(all));""", ATTACKS, MARKDOWN)
    browser.refresh()
    wait(lambda: len(texts()) == 2, 20)
    browser.execute_script("document.querySelectorAll('#log *').forEach(e => { if (e.tagName !== 'BUTTON' && e.tagName !== 'A') e.click(); })")
    time.sleep(0.3)
    planted = browser.execute_script("""return [...document.querySelectorAll('#log *')].filter(e =>
      ['SCRIPT', 'IMG', 'SVG', 'IFRAME', 'STYLE', 'BASE', 'FORM', 'U', 'B'].includes(e.tagName.toUpperCase()) || [...e.attributes].some(a => a.name.startsWith('on')) ||
      (e.hasAttribute('href') && !/^https?:/.test(e.href))).map(e => e.outerHTML)""")
    check("injection is inert", browser.execute_script("return window.hit ?? null") is None and not planted, planted)
    check("its text is shown", "<script>window.hit = 1</script>" in texts()[1], texts()[1])
    shot("4-injection")
    requests = [line for e in browser.get_log("performance") if '"Network.requestWillBeSent"' in (line := e["message"])]
    urls = {u for line in requests for u in re.findall(r'"request":\{.*?"url":"(.*?)"', line)}
    check("asks nobody else", urls and all(u.startswith((base, "data:")) for u in urls), urls)

    all_of("#conversations .name")[0].click()
    wait(lambda: all_of("#log h1, #log h2, #log h3"), 10)
    check("Markdown", all(all_of("#log " + tag) for tag in ("em", "strong", "code", "pre", "table", "ol", "blockquote", "a")))
    shot("5-markdown")
    one("#theme").click()
    one("#theme").click()
    shot("6-dark")
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {"width": 360, "height": 700, "deviceScaleFactor": 2, "mobile": True})
    browser.refresh()
    wait(lambda: one("#model").text == "the-model", 20)
    check("a phone's width", overflow() <= 0, overflow())
    shot("7-phone")
    one("#open-side").click()
    time.sleep(0.4)
    check("its list of conversations", one("#conversations").is_displayed())
    shot("8-phone-list")
    one("#close-side").click()
    time.sleep(0.4)
    one("#open-settings").click()
    check("its settings", one("#s-seed").is_displayed() and overflow() <= 0)
    shot("9-phone-settings")
    one("#settings .primary").click()
    unnamed = browser.execute_script("""return [...document.querySelectorAll('button, input, textarea')].filter(e =>
      !e.textContent.trim() && !e.getAttribute('aria-label') && !e.labels?.length).map(e => e.outerHTML)""")
    check("every control has a name", not unnamed, unnamed)
    server.terminate()
    server.wait(60)
    say("Is anybody there?")
    idle()
    check("a failure is said", [e.text for e in all_of("article .error")] == ["The server does not answer"], one("#log").text)
    shot("10-phone-failure")
    noise = [e["message"] for e in browser.get_log("browser") if e["level"] == "SEVERE" and "ERR_CONNECTION_REFUSED" not in e["message"]]
    check("nothing in the console", not noise, noise)
    print(f"{passed} checks passed, {browser.capabilities['browserName']} {browser.capabilities['browserVersion']}")
finally:
    browser.quit()
    if server.poll() is None:
        server.terminate()
        server.wait(60)
