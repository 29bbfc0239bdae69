"""A model hub on this machine, speaking as much of its protocol as one download needs."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class LocalHub:
    """Context of `(address, request lines so far)`; every path answers with the same file `data`."""

    def __init__(self, data):
        requests = self.requests = []

        class Hub(BaseHTTPRequestHandler):
            def do_HEAD(self):
                requests.append(self.requestline)
                self.send_response(200)
                self.send_header("ETag", '"0123abcd"')
                self.send_header("X-Repo-Commit", "c0ffee")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()

            def do_GET(self):
                self.do_HEAD()
                self.wfile.write(data)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
        self.thread = threading.Thread(target=self.server.serve_forever)

    def __enter__(self):
        self.thread.start()
        return f"http://127.0.0.1:{self.server.server_port}", self.requests

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()
