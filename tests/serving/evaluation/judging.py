"""A judge on a port of this machine, which says what a test wants."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from serving.config_evaluation import JudgeSettings

Says = Callable[[dict[str, Any]], "tuple[int, bytes]"]
"""Returns status and content for the two answers that are asked about."""


def chat(text: Any) -> tuple[int, bytes]:
    return 200, json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}]}).encode()


class JudgeServer:
    """What it was asked, and what it says."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.paths: list[str] = []
        self.keys: list[str | None] = []
        self.delay_s = 0.0
        self.says: Says = lambda _: chat('{"better": "neither"}')
        self.url = ""

    def settings(self, **changes: Any) -> JudgeSettings:
        return JudgeSettings.model_validate({"url": f"{self.url}/v1", "model": "a-judge", "timeout_s": 5, **changes})

    @property
    def asked(self) -> list[dict[str, str]]:
        """The requests and answers that it was shown."""
        return [json.loads(body["messages"][1]["content"]) for body in self.bodies]

    def prefers(self, better: Callable[[str, str], bool]) -> None:
        """Says that the first answer is better where `better` does, else the second."""

        def says(shown: dict[str, Any]) -> tuple[int, bytes]:
            return chat(json.dumps({"better": "a" if better(shown["answer_a"], shown["answer_b"]) else "b"}))

        self.says = says


@contextmanager
def judge_server() -> Iterator[JudgeServer]:
    judge = JudgeServer()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            judge.bodies.append(body)
            judge.paths.append(self.path)
            judge.keys.append(self.headers.get("authorization"))
            time.sleep(judge.delay_s)
            status, content = judge.says(json.loads(body["messages"][1]["content"]))
            self.send_response(status)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    judge.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield judge
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
