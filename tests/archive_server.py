"""A local server of data sets' archives that can cut, lie and fail, and counts the bytes that it sends."""

import hashlib
import io
import re
import tarfile
import threading
import zipfile
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module
from pathlib import Path

from iqa_lib.data.folder import HUB

COMMIT = "c" * 40


@dataclass
class Site:
    """Files by path, and how they are served."""

    files: dict[str, bytes] = field(default_factory=dict)
    sent: Counter = field(default_factory=Counter)  # bytes of each path
    begins: list[tuple[str, int]] = field(default_factory=list)  # path and first byte of each answer
    cut_after: int = 0  # bytes of each answer; 0: whole answers
    ranges: str = "right"  # "none": sends all of the file; "wrong": sends another piece; "lying": all of it as a piece
    delay: float = 0  # seconds before each 16 kB
    type: str = "application/octet-stream"
    failures: int = 0  # answers to come that are an error 503
    tags: bool = True  # whether it says by an ETag which file it is
    address: str = ""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    site: Site

    def do_HEAD(self):
        self.answer(b"")

    def do_GET(self):
        self.answer(None)

    def answer(self, body):
        site, hub = self.site, re.fullmatch(f"/datasets/{HUB}/resolve/[^/]+(/.+)", self.path)
        path = hub[1] if hub else self.path
        content = site.files.get(path)
        if content is None or (site.failures and body is None):
            site.failures -= content is not None
            self.send_response(503 if content is not None else 404)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        digest = hashlib.sha256(content).hexdigest()
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        tag = f'"{digest[:8]}"' if site.tags else ""
        begin = int(asked[1]) if asked and site.ranges != "none" and self.headers.get("If-Range", tag) == tag else 0
        told = begin // 2 if site.ranges == "wrong" else begin
        sent = content[0 if site.ranges == "lying" else told :][: len(content) - told]
        self.send_response(206 if begin else 200)
        if begin:
            self.send_header("Content-Range", f"bytes {told}-{len(content) - 1}/{len(content)}")
        if site.tags:
            self.send_header("ETag", tag)
        if hub:
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("X-Linked-Etag", f'"{digest}"')
            self.send_header("X-Linked-Size", str(len(content)))
        self.send_header("Content-Type", site.type)
        self.send_header("Content-Length", str(len(sent)))
        self.end_headers()
        if body is None:
            site.begins.append((path, told))
            self.send(path, sent[: site.cut_after or None])
            if site.cut_after and site.cut_after < len(sent):
                self.close_connection = True

    def send(self, path, data):
        stream = io.BytesIO(data)
        while piece := stream.read(1 << 14):
            threading.Event().wait(self.site.delay)
            try:
                self.wfile.write(piece)
            except OSError:
                self.close_connection = True
                return
            self.site.sent[path] += len(piece)

    def log_message(self, *_):
        pass


@contextmanager
def serving(site: Site):
    """The site at `site.address` as long as the block lasts."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("SiteHandler", (Handler,), {"site": site}))
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # clients that were killed
    site.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()


def packed(files: dict[str, bytes | Path], suffix: str) -> bytes:
    """An archive of the kind that a file's suffix names."""
    buffer = io.BytesIO()
    contents = {name: data.read_bytes() if isinstance(data, Path) else data for name, data in files.items()}
    if suffix.endswith(".zip"):
        with zipfile.ZipFile(buffer, "w") as archive:
            for name, data in contents.items():
                archive.writestr(name, data)
    else:
        with tarfile.open(fileobj=buffer, mode="w" if suffix.endswith(".tar") else "w:gz") as archive:
            for name, data in contents.items():
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def offered(site: Site, monkeypatch, name: str, tree: Path, source: str, around: str = "copy/") -> None:
    """Serve a data set's tree in the archives that a source names, the first in folders of their own."""
    module = import_module(f"iqa_lib.data.{name}")
    files = {str(path.relative_to(tree)): path for path in sorted(tree.rglob("*")) if path.is_file()}
    archives = []
    for archive in module.ORIGIN.sources[source]:
        file = archive.address.rpartition("/")[2]
        hosted = replace(archive, address=f"{site.address}/{file}" if "://" in archive.address else archive.address)
        archives.append(hosted)
        belongs = archive.into or archive.part
        mine = {path: data for path, data in files.items() if path.startswith(f"{belongs}/") or not belongs}
        if "_ratings" in file or "_crops" in file:
            mine = {path: data for path, data in mine.items() if path.endswith(".csv") == ("_ratings" in file)}
        if file in files:
            site.files[f"/{file}"] = files[file].read_bytes()
        else:
            site.files[f"/{file}"] = packed({f"{around}{path}": data for path, data in mine.items()}, file)
    monkeypatch.setattr(module, "ORIGIN", replace(module.ORIGIN, sources={source: tuple(archives)}))
