"""Drives a headless Chromium through its DevTools protocol, and says what the page shows.

usage: browser.py CHROMIUM URL ADDRESS FOLDER

Prints a JSON object: the text of the page, what its detail shows after a click on the cell of ADDRESS, the errors of its console,
whether anything was asked for elsewhere, and for each screenshot in FOLDER how many colours it has.
"""

import base64
import json
import os
import pathlib
import re
import signal
import struct
import subprocess
import sys
import tempfile
import time
import urllib.request
import zlib

import websocket

chromium, url, address, folder = sys.argv[1:]
folder = pathlib.Path(folder)
DEADLINE = time.monotonic() + 90


class Page:
    def __init__(self, endpoint):
        self.socket = websocket.create_connection(endpoint, timeout=30, suppress_origin=True)
        self.number = 0
        self.events = []

    def call(self, method, **params):
        self.number += 1
        self.socket.send(json.dumps({"id": self.number, "method": method, "params": params}))
        while True:
            message = json.loads(self.socket.recv())
            if message.get("id") == self.number:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']}")
                return message["result"]
            self.events.append(message)

    def evaluate(self, expression):
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        if "exceptionDetails" in result:
            raise RuntimeError(f"{expression}: {result['exceptionDetails']}")
        return result["result"].get("value")

    def wait_for(self, expression):
        while not self.evaluate(expression):
            if time.monotonic() > DEADLINE:
                text = self.evaluate("document.body.innerText")
                raise RuntimeError(f"not so within 90 s: {expression}\n{text}\n{self.events}")
            time.sleep(0.05)

    def screenshot(self, name, width, height, scheme):
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        overflow = self.evaluate("document.documentElement.scrollWidth > innerWidth")
        shot = base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])
        (folder / name).write_bytes(shot)
        ground = self.evaluate("getComputedStyle(document.body).backgroundColor")
        return {"colours": colours(shot), "overflows": overflow, "ground": ground}


def colours(png):
    """Returns how many different pixels there are in the lines that are stored unfiltered or filtered alike: more than one if not blank."""
    position, data = 8, b""
    while position < len(png):
        length, kind = struct.unpack(">I4s", png[position : position + 8])
        if kind == b"IDAT":
            data += png[position + 8 : position + 8 + length]
        position += 12 + length
    return len(set(zlib.decompress(data)))


def main():
    # Processes of Chromium that end last may write to it still.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        program = subprocess.Popen(
            [chromium, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
             "--disable-background-networking", "--remote-debugging-port=0", f"--user-data-dir={profile}", "about:blank"],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True)
        try:
            endpoint = None
            for line in program.stderr:
                if found := re.search(r"DevTools listening on ws://([^/]+)/", line):
                    endpoint = found[1]
                    break
            if endpoint is None:
                raise RuntimeError("chromium ended without serving its protocol")
            with urllib.request.urlopen(f"http://{endpoint}/json/list", timeout=30) as answer:
                target = next(it for it in json.load(answer) if it["type"] == "page")
            page = Page(target["webSocketDebuggerUrl"])
            print(json.dumps(drive(page)))
        finally:
            os.killpg(program.pid, signal.SIGKILL)
            program.wait()


def drive(page):
    for domain in ("Page", "Runtime", "Log", "Network"):
        page.call(f"{domain}.enable")
    page.call("Page.navigate", url=url)
    cell = f"document.querySelector('#enis [data-address=\"{address}\"]')"
    page.wait_for(f"!!{cell}")
    shots = {
        "light.png": page.screenshot("light.png", 1280, 1000, "light"),
        "dark.png": page.screenshot("dark.png", 1280, 1000, "dark"),
    }
    # As a pointer does it, where the cell is.
    page.evaluate(f"{cell}.scrollIntoView({{ block: 'center' }})")
    place = page.evaluate(f"(() => {{ const b = {cell}.getBoundingClientRect(); return [b.x + b.width / 2, b.y + b.height / 2]; }})()")
    for kind in ("mousePressed", "mouseReleased"):
        page.call("Input.dispatchMouseEvent", type=kind, x=place[0], y=place[1], button="left", clickCount=1)
    page.wait_for("!document.getElementById('detail').hidden")
    detail = page.evaluate("document.getElementById('detail').innerText")
    # The choice outlives what is drawn anew every two seconds.
    drawn = page.evaluate("document.getElementById('at').innerText")
    page.wait_for(f"document.getElementById('at').innerText !== {json.dumps(drawn)}")
    kept = page.evaluate("document.getElementById('detail').innerText")
    shots["narrow.png"] = page.screenshot("narrow.png", 375, 800, "light")
    text = page.evaluate("document.body.innerText")
    title = page.evaluate("document.title")
    unnamed = page.evaluate("[...document.querySelectorAll('button')].filter((it) => !it.getAttribute('aria-label')).length")
    asked = [it["params"]["request"]["url"] for it in page.events if it.get("method") == "Network.requestWillBeSent"]
    elsewhere = [it for it in asked if not it.startswith((url, "data:"))]
    kinds = ("Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled")
    errors = [it for it in page.events if it.get("method") in kinds]
    return {"title": title, "text": text, "detail": detail, "kept": kept, "shots": shots, "asked": len(asked),
            "elsewhere": elsewhere, "errors": errors, "unnamed": unnamed}


main()
