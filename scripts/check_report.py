"""Opens a report in headless Chromium: no console error, every table sorts, nothing overflows on a phone, a desk or paper.

    python scripts/check_report.py results/drawn-all/report.html [--screenshots DIR]

Screenshots are of the whole page, in pieces from top to bottom, and one PDF as it would be printed.

Needs only Python and Chromium (Debian: apt-get install chromium). Without Chromium it says so and leaves with 0, so
that it can run anywhere; with `--require` that is an error.
"""

import argparse
import base64
import fcntl
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

# Pixels a screenshot is high.
PIECE = 3000
# A4 less a margin of 12 mm, at the 96 dots an inch of CSS.
PAPER = 703

SORT = """
(() => {
  const wrong = [];
  let clicked = 0;
  document.querySelectorAll("table.sortable").forEach((table, t) => {
    [...table.tHead.rows[0].cells].forEach((head, column) => {
      for (let click = 0; click < 2; click++) {
        head.querySelector("button").click();
        clicked++;
        const down = head.getAttribute("aria-sort") === "descending";
        for (const body of table.tBodies) {
          const keys = [...body.rows].filter(r => !r.classList.contains("group"))
            .map(r => r.cells[column].dataset.sort ?? r.cells[column].textContent.trim());
          const full = keys.filter(k => k !== "");
          if (keys.slice(full.length).some(k => k !== "")) wrong.push(`table ${t} column ${column}: gaps not last`);
          for (let i = 1; i < full.length; i++) {
            const [x, y] = [full[i - 1], full[i]];
            const order = isNaN(x) || isNaN(y) ? x.localeCompare(y, "en", {numeric: true}) : x - y;
            if (down ? order < 0 : order > 0) wrong.push(`table ${t} column ${column}: ${x} before ${y}`);
          }
        }
      }
    });
  });
  return JSON.stringify({clicked, wrong: wrong.slice(0, 10)});
})()
"""

OVERFLOW = """
(() => {
  const width = document.documentElement.clientWidth;
  const out = [];
  for (const e of document.querySelectorAll("body *")) {
    if (e.closest(".scroll, .chart, pre") && !e.matches(".scroll, .chart, pre")) continue;
    const box = e.getBoundingClientRect();
    if (box.width > 0 && box.right > width + 0.5) out.push(`${e.tagName} ${e.className} ends at ${box.right}`);
  }
  return JSON.stringify({page: document.documentElement.scrollWidth - width, out: out.slice(0, 10)});
})()
"""

# On paper nothing scrolls: what is wider than its frame is cut off.
PRINTED = OVERFLOW.replace('if (e.closest(".scroll, .chart, pre") && !e.matches(".scroll, .chart, pre")) continue;', 'if (e.closest("svg svg, svg *")) continue;')


def photograph(browser, folder, name, width):
    folder.mkdir(parents=True, exist_ok=True)
    height = browser.evaluate("JSON.stringify(document.documentElement.scrollHeight)")
    for i, top in enumerate(range(0, height, PIECE)):
        shot = browser.call("Page.captureScreenshot", captureBeyondViewport=True, clip={
            "x": 0, "y": top, "width": width, "height": min(PIECE, height - top), "scale": 1})
        (folder / f"{name}-{i:02}.png").write_bytes(base64.b64decode(shot["data"]))


class Browser:
    """Chromium on a pipe, one page."""

    def __init__(self, program, profile):
        to_browser, self.write = os.pipe()
        self.read, from_browser = os.pipe()

        def wire():
            # By way of high numbers: the pipes may themselves be 3 and 4.
            high = fcntl.fcntl(to_browser, fcntl.F_DUPFD, 10), fcntl.fcntl(from_browser, fcntl.F_DUPFD, 10)
            os.dup2(high[0], 3)
            os.dup2(high[1], 4)

        self.process = subprocess.Popen(
            [program, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
             "--remote-debugging-pipe", f"--user-data-dir={profile}", "about:blank"],
            preexec_fn=wire, close_fds=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )
        os.close(to_browser)
        os.close(from_browser)
        self.buffer, self.number, self.session, self.events = b"", 0, None, []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def message(self):
        while b"\0" not in self.buffer:
            part = os.read(self.read, 1 << 16)
            if not part:
                sys.exit("Chromium went away")
            self.buffer += part
        text, self.buffer = self.buffer.split(b"\0", 1)
        return json.loads(text)

    def call(self, method, **params):
        self.number += 1
        request = {"id": self.number, "method": method, "params": params}
        if self.session:
            request["sessionId"] = self.session
        os.write(self.write, json.dumps(request).encode() + b"\0")
        while True:
            message = self.message()
            if message.get("id") == self.number:
                if "error" in message:
                    sys.exit(f"{method}: {message['error']}")
                return message["result"]
            self.events.append(message)

    def wait(self, method):
        while True:
            for i, event in enumerate(self.events):
                if event.get("method") == method:
                    return self.events.pop(i)
            self.events.append(self.message())

    def evaluate(self, script):
        result = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        if "exceptionDetails" in result:
            sys.exit(f"script failed: {result['exceptionDetails']}")
        return json.loads(result["result"]["value"])

    def complaints(self):
        bad = []
        for event in self.events:
            if event.get("method") == "Runtime.exceptionThrown":
                bad.append(event["params"]["exceptionDetails"]["text"])
            if event.get("method") == "Log.entryAdded" and event["params"]["entry"]["level"] in ("error", "warning"):
                bad.append(event["params"]["entry"]["text"])
            if event.get("method") == "Runtime.consoleAPICalled":
                bad.append(str(event["params"]["args"]))
        self.events = []
        return bad


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=pathlib.Path)
    parser.add_argument("--screenshots", type=pathlib.Path)
    parser.add_argument("--require", action="store_true", help="no Chromium is an error")
    args = parser.parse_args()
    program = next((p for p in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if p), None)
    if program is None:
        print("SKIPPED: no Chromium here; the report was not opened", file=sys.stderr)
        sys.exit(1 if args.require else 0)

    wrong = []
    with tempfile.TemporaryDirectory() as profile:
        browser = Browser(program, profile)
        for width, scheme in ((390, "light"), (390, "dark"), (1400, "light"), (1400, "dark")):
            browser.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600)
            browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
            browser.call("Page.navigate", url=args.report.resolve().as_uri())
            browser.wait("Page.loadEventFired")
            name = f"{width} px, {scheme}"
            if args.screenshots:
                photograph(browser, args.screenshots, f"{width}-{scheme}", width)
            browser.evaluate("document.querySelectorAll('details').forEach(d => d.open = true), '0'")
            overflow = browser.evaluate(OVERFLOW)
            if overflow["page"] > 0 or overflow["out"]:
                wrong.append(f"{name}: overflows: {overflow}")
            sorting = browser.evaluate(SORT)
            if sorting["wrong"] or not sorting["clicked"]:
                wrong.append(f"{name}: sorting: {sorting}")
            wrong += [f"{name}: console: {text}" for text in browser.complaints()]
            print(f"{name}: {sorting['clicked']} clicks on headings")
        browser.call("Emulation.setDeviceMetricsOverride", width=PAPER, height=1000, deviceScaleFactor=1, mobile=False)
        browser.call("Emulation.setEmulatedMedia", media="print", features=[])
        browser.call("Page.navigate", url=args.report.resolve().as_uri())
        browser.wait("Page.loadEventFired")
        overflow = browser.evaluate(PRINTED)
        if overflow["page"] > 0 or overflow["out"]:
            wrong.append(f"print: overflows: {overflow}")
        if args.screenshots:
            pdf = browser.call("Page.printToPDF", paperWidth=8.27, paperHeight=11.69)
            (args.screenshots / "print.pdf").write_bytes(base64.b64decode(pdf["data"]))
        print(f"print: {PAPER} px")
        browser.process.terminate()
        browser.process.wait()
    for line in wrong:
        print(line, file=sys.stderr)
    sys.exit(1 if wrong else 0)


main()
