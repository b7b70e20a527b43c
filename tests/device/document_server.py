"""Our server as far as frames go, and the documents that a camera fetches."""

import http.server
import threading

from tests.device.conftest import acknowledgment


class DocumentServer:
    """Acknowledges frames, and gives out documents of camera cam-1.

    Attributes:
        says: by a document's name, the text of the header with a frame's answer; what is not there is not said.
        documents: by name.
        status: of the answers that have documents.
        asked: names of the documents that were asked for, in turn.
        told: headers of these requests.
    """

    def __init__(self):
        self.says, self.documents, self.status, self.asked, self.told = {}, {}, 200, [], []
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                self.rfile.read(int(self.headers["Content-Length"]))
                said = {f"Rjpeg-{name.title()}": text for name, text in server.says.items()}
                self.answer(201, acknowledgment(self.path, self.headers), said)

            def do_GET(self):
                name = self.path.removeprefix("/v1/cameras/cam-1/")
                server.asked.append(name)
                server.told.append(self.headers)
                self.answer(server.status, server.documents[name], {})

            def answer(self, status, body, headers):
                self.send_response(status)
                for name, value in (headers | {"Content-Length": str(len(body))}).items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def set(self, name, version, document):
        """Say that a document has this version, and give it out."""
        self.says[name], self.documents[name] = str(version), document

    def close(self):
        self._server.shutdown()
        self._server.server_close()
