# Copyright: (c) 2026, The hbp.mip authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether a host is a manager of a swarm now, so that its port stays open until it was demoted."""

from __future__ import annotations

import json
import shutil
import socketserver
import subprocess
import threading
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.hbp.mip.plugins.module_utils import _firewall_host


@pytest.mark.parametrize(("swarm", "expected"), [({"ControlAvailable": True}, True), ({"ControlAvailable": False}, False), (None, False)])
def test_the_engine_tells(tmp_path: Path, swarm: Any, expected: bool) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps({"Swarm": swarm}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def address_string(self) -> str:
            return "a socket"

        def log_message(self, *arguments: Any) -> None:
            pass

    path = str(tmp_path / "docker.sock")
    with socketserver.ThreadingUnixStreamServer(path, Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            assert _firewall_host.manages(path, str(tmp_path)) is expected
        finally:
            server.shutdown()


@pytest.mark.skipif(not shutil.which("openssl"), reason="needs openssl")
@pytest.mark.parametrize(("role", "expected"), [("manager", True), ("worker", False), ("", False)])
def test_of_an_engine_that_does_not_answer_its_certificate_tells(tmp_path: Path, role: str, expected: bool) -> None:
    if role:
        folder = tmp_path / "swarm/certificates"
        folder.mkdir(parents=True)
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1",
             "-subj", f"/O=cluster9/OU=swarm-{role}/CN=node9", "-keyout", str(tmp_path / "key"), "-out", str(folder / "swarm-node.crt")],
            check=True, capture_output=True,
        )  # fmt: skip
    assert _firewall_host.manages(str(tmp_path / "no.sock"), str(tmp_path)) is expected
