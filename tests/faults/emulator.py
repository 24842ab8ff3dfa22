"""A bucket on this machine: an emulator of Google Cloud Storage that can be made to fail."""

import contextlib
import io
import logging
import re
import socket
import threading
import time
from functools import partial
from http.server import ThreadingHTTPServer
from urllib.parse import unquote

from gcp_storage_emulator.exceptions import NotFound
from gcp_storage_emulator.handlers import buckets
from gcp_storage_emulator.server import RequestHandler
from gcp_storage_emulator.storage import Storage

BUCKET = "bucket"


class Emulator(ThreadingHTTPServer):
    """The emulator's handlers behind a server that answers one request at a time.

    Attributes:
        fault: called with each request's number, from 0, its method and path; returns what becomes
            of it: "" to answer it, a status such as "503", "cut" to answer it and send half the
            answer, "late" to answer it after `LATE` seconds, or "gone" for no answer.
        requests: method and path of each request since the last `clear`.
    """

    daemon_threads = True
    request_queue_size = 128  # TensorStore opens many connections at once
    PATIENCE = 10  # seconds without a byte, after which TensorStore asks again
    LATE = 20.0

    def __init__(self):
        logging.getLogger("gcp_storage_emulator").setLevel(logging.CRITICAL)
        logging.getLogger("api.object").setLevel(logging.CRITICAL)
        self.storage = Storage(use_memory_fs=True)
        buckets.create_bucket(BUCKET, self.storage)
        self.lock = threading.Lock()
        self.clear()
        super().__init__(("127.0.0.1", 0), partial(Handler, self.storage))
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    @property
    def environment(self) -> dict[str, str]:
        """The documented variables that lead gcsfs, Google's libraries and TensorStore here."""
        return {
            "STORAGE_EMULATOR_HOST": self.address,
            "TENSORSTORE_GCS_HTTP_URL": self.address,
            # Nobody listens on this port: there are no credentials to be had from there.
            "GCE_METADATA_HOST": "127.0.0.1:1",
            "GCE_METADATA_ROOT": "127.0.0.1:1",
            "NO_GCE_CHECK": "true",
            "TENSORSTORE_CURL_LOW_SPEED_TIME_SECONDS": str(self.PATIENCE),
            "TENSORSTORE_CURL_LOW_SPEED_LIMIT_BYTES": "1",
        }

    def clear(self) -> None:
        """Answers everything from now on, and forgets what was asked."""
        self.fault = lambda number, method, path: ""
        self.requests: list[str] = []
        self.answers: dict[str, bytes] = {}  # lost ones, by path

    def handle_error(self, *_) -> None:
        """Clients that are killed, or have waited enough, close connections."""


class Handler(RequestHandler):
    """Answers a request, or fails as `Emulator.fault` says."""

    def answer(self, method: str, router) -> None:
        with self.server.lock:
            number = len(self.server.requests)
            self.server.requests.append(f"{method} {self.path}")
            fault = self.server.fault(number, method, self.path)
            if fault in ("cut", "late"):
                self.wfile = io.BytesIO()
            # The last part of an upload that comes again gets the same answer again.
            before = self.server.answers.get(self.path)
            if before:
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                self.wfile.write(before)
                return
            if fault in ("", "cut", "late"):
                router(self)
        if fault in ("cut", "late"):
            answer = self.wfile.getvalue()
            if "upload_id=" in self.path:
                self.server.answers[self.path] = answer
            time.sleep(Emulator.LATE if fault == "late" else 0)
            head, end, body = answer.partition(b"\r\n\r\n")
            self.connection.sendall(head + end + body[: len(body) // (2 if fault == "cut" else 1)])
            self.close_connection = True
        if fault in ("", "cut", "late"):
            return
        if fault == "gone":
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        length = int(self.headers.get("Content-Length") or 0)
        self.rfile.read(length)
        self.send_response(int(fault))
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_GET(self):
        self.answer("GET", RequestHandler.do_GET)

    def do_POST(self):
        self.answer("POST", RequestHandler.do_POST)

    def do_PUT(self):
        self.answer("PUT", RequestHandler.do_PUT)

    def do_DELETE(self):
        self.answer("DELETE", RequestHandler.do_DELETE)

    def end_headers(self) -> None:
        """Adds the object's generation, which the emulator leaves out and TensorStore wants."""
        match = re.search(r"/b/([^/]+)/o/([^?]+)", self.path)
        if self.command == "GET" and match:
            with contextlib.suppress(NotFound):
                found = self.storage.get_file_obj(match[1], unquote(match[2]))
                self.send_header("x-goog-generation", found["generation"])
        super().end_headers()

    def log_message(self, *_) -> None:
        pass
