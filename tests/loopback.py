"""A small web server on loopback for tests of downloads, with the faults that real ones have."""
from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Site:
    """What is served and how it fails; ``requests`` logs (path, Range header) of each request."""

    files: dict[str, bytes] = field(default_factory=dict)
    ranges: bool = True            # whether Range is obeyed
    etag: str | None = '"v1"'
    cut_after: list[int] = field(default_factory=list)   # the i-th request breaks off after so many bytes
    status: list[int] = field(default_factory=list)      # the i-th request is answered with this, if not 200
    wrong_range: bool = False      # answers 206 from another place than asked
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    url: str = ""


@contextmanager
def serving(site: Site) -> Iterator[Site]:
    """Serve ``site`` in a thread; ``site.url`` is where, without a slash at the end."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range")
            site.requests.append((self.path, wanted))
            body = site.files.get(self.path.lstrip("/"))
            status = site.status.pop(0) if site.status else 200
            if body is None or status >= 400:
                self.send_error(404 if body is None else status)
                return
            start, known = 0, self.headers.get("If-Range")
            if wanted and site.ranges and known == site.etag:
                start = int(wanted.removeprefix("bytes=").rstrip("-"))
                if start >= len(body):
                    self.send_error(416)
                    return
                shown = start + 1 if site.wrong_range else start
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {shown}-{len(body) - 1}/{len(body)}")
            else:
                self.send_response(200)
            rest = body[start:]
            self.send_header("Content-Length", str(len(rest)))
            if site.etag:
                self.send_header("ETag", site.etag)
            self.end_headers()
            self.wfile.write(rest[:site.cut_after.pop(0)] if site.cut_after else rest)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    site.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
